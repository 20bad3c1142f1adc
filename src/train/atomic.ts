/** Writing a file as a whole or not at all, and the one place that turns a failed write into a sentence. */

import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { BinadeError } from "../errors.ts";

/** The part of an open file that an atomic write needs. */
export type AtomicFileHandle = {
  /** Writes all of `chunk` at the current position. */
  writeFile(chunk: Uint8Array): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
};

/** The file-system calls of an atomic write; the default is `node:fs/promises`. */
export type AtomicFileSystem = {
  open(path: string, flags: "wx" | "r"): Promise<AtomicFileHandle>;
  rename(from: string, to: string): Promise<void>;
  realpath(path: string): Promise<string>;
  /** Removes one file; must not fail if it is gone already. */
  remove(path: string): Promise<void>;
};

const NODE_FILE_SYSTEM: AtomicFileSystem = {
  open: (path, flags) => open(path, flags),
  rename,
  realpath: (path) => realpath(path),
  remove: (path) => rm(path, { force: true }),
};

/**
 * Replaces the file at `path` by `chunks`, one after the other: readers, and a machine that loses power, see either
 * what was there before or all of the new content.
 *
 * The chunks go to a temporary file in the same folder, which is flushed, renamed over `path` (the target, where `path`
 * is a symbolic link) and made durable by flushing the folder. If the process is killed meanwhile, a `.binade-*.tmp`
 * file may stay behind.
 *
 * @throws BinadeError `file.write` with the path, the reason and the fix. The temporary file is then gone and what was
 * at `path` is untouched (except where only the last flush failed, which the sentence says).
 * @example
 * await writeFileAtomic("runs/gpt/model.safetensors", encodeSafetensors(tensors, metadata));
 */
export async function writeFileAtomic(
  path: string,
  chunks: Iterable<Uint8Array>,
  fileSystem: AtomicFileSystem = NODE_FILE_SYSTEM,
): Promise<void> {
  // A path that does not resolve is a new file, or fails below with its own reason.
  const target = await fileSystem.realpath(path).catch(() => path);
  // Random, because two machines that share a folder may run the same process id.
  const temporary = join(dirname(target), `.binade-${process.pid}-${randomBytes(6).toString("hex")}.tmp`);
  try {
    await writeDurably(temporary, chunks, fileSystem);
    await fileSystem.rename(temporary, target);
  } catch (error) {
    // The first failure is the one to report; a folder that refuses the removal has refused the write as well.
    await fileSystem.remove(temporary).catch(() => {});
    throw fileWriteError(path, error);
  }
  await flushFolder(path, dirname(target), fileSystem);
}

/**
 * Makes `folder` and the folders above it. Not by `mkdir`'s own recursion: where a file system says that a folder cannot be
 * made because its parent is missing, and the parent is there (as below /proc), that one never ends.
 *
 * @throws what the file system threw.
 */
export async function makeFolders(folder: string): Promise<void> {
  const isFolder = (path: string): Promise<boolean> =>
    stat(path).then(
      (found) => found.isDirectory(),
      () => false,
    );
  try {
    await mkdir(folder);
  } catch (error) {
    if (systemCode(error) === "EEXIST" && (await isFolder(folder))) return;
    if (systemCode(error) !== "ENOENT" || (await isFolder(dirname(folder)))) throw error;
    await makeFolders(dirname(folder));
    await makeFolders(folder);
  }
}

/** Removes what writes into `folder` left behind because their process was killed; call it where nobody else writes. */
export async function removeTemporaries(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  const left = names.filter((name) => /^\.binade-\d+-[0-9a-f]{12}\.tmp$/.test(name));
  // A folder that refuses this refuses the next write, which says why.
  for (const name of left) await rm(join(folder, name), { force: true }).catch(() => {});
}

/** The BinadeError of a failed write to `path`: its reason and fix, from the system's error code. */
export function fileWriteError(path: string, error: unknown): BinadeError {
  const code = systemCode(error);
  const [reason, fix] = WRITE_FAILURES[code] ?? [error instanceof Error ? error.message : String(error), ANOTHER_PATH];
  return new BinadeError("file.write", `${path}: could not be written: ${reason}; ${fix}`, { cause: error });
}

/** The system's error code (`ENOSPC`, …) of a failed file-system call, or an empty string. */
export function systemCode(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : "";
}

const ANOTHER_PATH = "choose another path";

const WRITE_FAILURES: Readonly<Record<string, readonly [reason: string, fix: string]>> = {
  ENOSPC: ["no space left on the device", "free some space or choose another disk"],
  EDQUOT: ["the disk quota is used up", "free some space or choose another disk"],
  EFBIG: ["the file is too large for this file system", "choose another disk"],
  EACCES: ["permission denied", "make its folder writable or choose another path"],
  EPERM: ["permission denied", "make its folder writable or choose another path"],
  EROFS: ["the file system is read-only", "choose a path on a writable disk"],
  ENOENT: ["its folder does not exist", "create the folder first"],
  ENOTDIR: ["a part of the path is a file, not a folder", ANOTHER_PATH],
  EEXIST: ["there is a file of that name, not a folder", ANOTHER_PATH],
  EISDIR: ["there is a folder of that name", ANOTHER_PATH],
  ENAMETOOLONG: ["the name is too long", "choose a shorter name"],
  EMFILE: ["too many files are open", "close some files or raise the limit"],
  EBUSY: ["another process holds the file", "close that process"],
  EIO: ["the device reported an input/output error", "check the disk"],
};

/** On return all chunks are on the device and the file is closed, whatever happened. */
async function writeDurably(path: string, chunks: Iterable<Uint8Array>, fileSystem: AtomicFileSystem): Promise<void> {
  const file = await fileSystem.open(path, "wx");
  try {
    for (const chunk of chunks) await file.writeFile(chunk);
    // Before the rename: otherwise a crash can leave the new name with none of the new content.
    await file.sync();
  } catch (error) {
    await file.close().catch(() => {});
    throw error;
  }
  // Network file systems report a failed write only here.
  await file.close();
}

/** Systems that cannot open or flush a folder (Windows, some network disks) make renames durable in their own time. */
async function flushFolder(path: string, folderPath: string, fileSystem: AtomicFileSystem): Promise<void> {
  const folder = await fileSystem.open(folderPath, "r").catch(() => undefined);
  try {
    await folder?.sync();
  } catch (error) {
    if (["EINVAL", "ENOTSUP", "EPERM", "EISDIR", "EBADF"].includes(systemCode(error))) return;
    const message = `${path}: was written, but its folder could not be flushed to the device: ${systemCode(error)}; check the disk`;
    throw new BinadeError("file.write", message, { cause: error });
  } finally {
    await folder?.close().catch(() => {});
  }
}
