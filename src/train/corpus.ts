/** Reading text to train on: files and folders that the user names. */

import { createHash } from "node:crypto";
import type { Dirent } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { concatBytes, isBinary, requireWindow } from "../data/text.ts";
import { BinadeError } from "../errors.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { systemCode } from "./atomic.ts";

/** One file of a corpus. */
export type CorpusFile = { readonly path: string; readonly byteLength: number };

/** Something in a named folder that was left out, and why. */
export type SkippedFile = {
  readonly path: string;
  readonly reason:
    | "binary"
    | "dot folder"
    | "linked folder"
    | "not a file"
    | "named twice"
    | "not in a class folder"
    | "beside the files of a set"
    | "not PNG or JPEG";
};

/** Text as bytes, and where it came from. */
export type Corpus = {
  /** What to call it in reports. */
  readonly name: string;
  /** The files in the order of their bytes. */
  readonly files: readonly CorpusFile[];
  /** What was left out of named folders. */
  readonly skipped: readonly SkippedFile[];
  /** The files' bytes, one after the other. */
  readonly bytes: Uint8Array;
  /** SHA-256 of `bytes`, 64 hexadecimal digits. */
  readonly sha256: string;
};

/** How to read a corpus. */
export type ReadBytesOptions = {
  /** Bytes per window, ≥ 1: the corpus must hold at least one window and its targets. Default 1. */
  readonly context?: number;
  /** What to call the corpus. Default: the name of the first path and how many follow. */
  readonly name?: string;
};

type Found = { readonly path: string; readonly bytes: Uint8Array };

/**
 * Reads the files and folders at `paths`, in that order. A named file is read whatever it holds. Folders are read with
 * everything in them, ordered by path; binary files (a NUL byte in the first 8 KiB), folders whose name begins with a
 * dot and links to folders are left out and listed in `skipped`.
 *
 * @throws BinadeError `file.missing`, `file.unreadable`, or `data.short` where there is less than context + 1 bytes.
 * @example
 * const corpus = await readBytes(["books", "notes.txt"], { context: 256 });
 */
export async function readBytes(paths: readonly string[], options: ReadBytesOptions = {}): Promise<Corpus> {
  requireKnownKeys("readBytes", options, ["context", "name"]);
  const { context = 1, name = nameOf(paths) } = options;
  const found: Found[] = [];
  const skipped: SkippedFile[] = [];
  const seen = new Set<string>();
  for (const path of paths) {
    const isFolder = (await inspect(path)).isDirectory();
    for (const file of isFolder ? await walk(path, skipped) : [path]) {
      const bytes = seen.has(resolve(file)) ? undefined : await readOne(file);
      if (bytes === undefined) skipped.push({ path: file, reason: "named twice" });
      else if (isFolder && isBinary(bytes)) skipped.push({ path: file, reason: "binary" });
      else found.push({ path: file, bytes });
      seen.add(resolve(file));
    }
  }
  const bytes = concatBytes(found.map((file) => file.bytes));
  requireWindow(name, bytes.length, context);
  return {
    name,
    files: found.map((file) => ({ path: file.path, byteLength: file.bytes.length })),
    skipped,
    bytes,
    sha256: createHash("sha256").update(bytes).digest("hex"),
  };
}

/** All files below `folder`, ordered by path in code units: the same on every machine, whatever its language. */
async function walk(folder: string, skipped: SkippedFile[]): Promise<string[]> {
  const entries = await list(folder);
  const files: string[] = [];
  // Comparing "name/" for folders orders the whole paths, because a path's next character there is the separator.
  const key = (entry: Dirent): string => (entry.isDirectory() ? `${entry.name}/` : entry.name);
  entries.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (entry.name.startsWith(".")) skipped.push({ path, reason: "dot folder" });
      else files.push(...(await walk(path, skipped)));
      continue;
    }
    const reason = entry.isSymbolicLink() ? await refuseLink(path) : entry.isFile() ? undefined : "not a file";
    if (reason === undefined) files.push(path);
    else skipped.push({ path, reason });
  }
  return files;
}

/** Why a link in a folder is left out: links to folders can lead in circles. Nothing where it leads to a file. */
async function refuseLink(path: string): Promise<SkippedFile["reason"] | undefined> {
  const target = await stat(path).catch(() => undefined);
  if (target?.isFile()) return undefined;
  return target?.isDirectory() ? "linked folder" : "not a file";
}

async function inspect(path: string): Promise<{ isDirectory(): boolean }> {
  try {
    return await stat(path);
  } catch (error) {
    throw readError(path, error);
  }
}

async function list(folder: string): Promise<Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (error) {
    throw readError(folder, error);
  }
}

async function readOne(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw readError(path, error);
  }
}

/** The BinadeError of a failed read of `path`. */
export function readError(path: string, error: unknown): BinadeError {
  const code = systemCode(error);
  if (code === "ENOENT" || code === "ENOTDIR") {
    const message = `${path}: expected a file or a folder, found nothing; check the path (relative paths begin at ${process.cwd()})`;
    return new BinadeError("file.missing", message, { cause: error });
  }
  const reason = READ_FAILURES[code] ?? (error instanceof Error ? error.message : String(error));
  return new BinadeError("file.unreadable", `${path}: could not be read: ${reason}`, { cause: error });
}

const READ_FAILURES: Readonly<Record<string, string>> = {
  EACCES: "permission denied; make it readable for this user",
  EPERM: "permission denied; make it readable for this user",
  EMFILE: "too many files are open; close some or raise the limit",
  ELOOP: "its links lead in circles; remove the link",
  EIO: "the device reported an input/output error; check the disk",
  ERR_FS_FILE_TOO_LARGE: "it is larger than 2 GiB; split it into several files",
};

function nameOf(paths: readonly string[]): string {
  const [first = "no files"] = paths;
  const name = basename(resolve(first)) || first;
  return paths.length < 2 ? name : `${name} and ${paths.length - 1} more`;
}
