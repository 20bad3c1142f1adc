/** Reading labelled pictures: finds out which format a folder or a list of files has, and reads it whole. */
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { type PictureSet, type Pictures, splitNamed } from "../data/pictures.ts";
import { BinadeError } from "../errors.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { readError, type SkippedFile } from "./corpus.ts";
import { readCifar } from "./picture-cifar.ts";
import type { PictureDecoder } from "./picture-decoder.ts";
import { readPictureFolders } from "./picture-folders.ts";
import { readIdx } from "./picture-idx.ts";

/** What the user named: the folder and the names in it. */
export interface Listing {
  /** The folder; the one that holds the files where files were named. */
  readonly folder: string;
  /** Names of files and of folders in it, ordered by code units. */
  readonly files: readonly string[];
  readonly folders: readonly string[];
}

/** A set as its files hold it: not every format holds something out. */
export interface ReadPictures {
  readonly training: Pictures;
  readonly heldOut: Pictures | null;
  /** What was left out, and why. */
  readonly skipped: readonly SkippedFile[];
  /** Whether a mirrored picture is another picture of its class: not so for digits and letters. */
  readonly mayFlip: boolean;
}

/** Pictures from files, and where they came from. */
export interface LoadedPictures extends PictureSet, Omit<ReadPictures, "heldOut"> {
  readonly heldOut: Pictures;
  /** Bytes of all pictures, decoded. */
  readonly byteLength: number;
  /** SHA-256 of sizes, pictures and labels, 64 hexadecimal digits. */
  readonly sha256: string;
}

export interface ReadPicturesOptions {
  /** Scales pictures of folders, and cuts their middle out, to this many pixels each way. Default: all have one size. */
  readonly size?: number | null;
  /** Share of each class to hold out where the files hold nothing out. Default 0.1. */
  readonly heldOut?: number;
  /** Decoder of PNG and JPEG. Default: the package sharp. */
  readonly decoder?: () => Promise<PictureDecoder>;
}

/** A format: whether what the user named is of it, and how it is read. */
interface Format {
  readonly name: string;
  matches(listing: Listing): boolean;
  read(listing: Listing, options: ReadPicturesOptions): Promise<ReadPictures>;
}

/** Formats of files come first: a folder that holds one may hold folders of something else. */
const FILE_FORMATS: readonly Format[] = [readIdx, ...readCifar];
const FORMATS: readonly Format[] = [...FILE_FORMATS, readPictureFolders];

/**
 * Reads the pictures in one folder, or in files that are named: IDX as of MNIST (plain or gzip), CIFAR-10 and CIFAR-100
 * binary, or PNG and JPEG in one folder per class, with or without `train` and `test` above them.
 *
 * @throws BinadeError `file.missing` or `file.unreadable`; `data.unknown` for a folder of no such format; `data.corrupt`,
 * `data.mixed`, `data.short` or `index.outOfRange` for what is wrong inside, naming the file; `package.missing` for PNG and
 * JPEG without the package that decodes them; `memory.insufficient` for more than this machine's memory.
 * @example
 * const { training, heldOut } = await readPictures(["cifar-10-batches-bin"]);
 */
export async function readPictures(
  paths: readonly string[],
  options: ReadPicturesOptions = {},
): Promise<LoadedPictures> {
  requireKnownKeys("readPictures", options, ["size", "heldOut", "decoder"]);
  const listing = await list(paths);
  const format = FORMATS.find((candidate) => candidate.matches(listing));
  if (format === undefined) throw unknownFormat(paths, listing);
  requireOneSet(listing);
  if (options.size != null && format !== readPictureFolders) {
    const message = `${listing.folder}: pictures of ${format.name} have one size, got a size of ${options.size}; leave it out`;
    throw new BinadeError("option.invalid", message);
  }
  const { training: all, heldOut, skipped, mayFlip } = await format.read(listing, options);
  const parts = heldOut === null ? splitNamed(listing.folder, all, given(options.heldOut)) : { training: all, heldOut };
  const besides = format === readPictureFolders ? [] : listing.folders;
  const leftOut = besides.map((name) => ({
    path: join(listing.folder, name),
    reason: "beside the files of a set" as const,
  }));
  const byteLength = parts.training.pixels.length + parts.heldOut.pixels.length;
  return {
    name: nameOf(paths),
    ...parts,
    skipped: [...skipped, ...leftOut],
    mayFlip,
    byteLength,
    sha256: digestOf(parts),
  };
}

/** Two sets in one folder: which one was meant is not for us to guess. */
function requireOneSet(listing: Listing): void {
  const found = FILE_FORMATS.filter((candidate) => candidate.matches(listing)).map(({ name }) => name);
  if (found.length < 2) return;
  throw new BinadeError(
    "data.mixed",
    `${listing.folder}: expected the files of one set of pictures, got ${found.join(" and ")}; name the files of one of them`,
  );
}

const given = (heldOut: number | undefined) => (heldOut === undefined ? {} : { heldOut });

/** SHA-256 of the pictures as they are trained on: the same for one set however it is stored. */
export function digestOf({ training, heldOut }: Pick<PictureSet, "training" | "heldOut">): string {
  const hash = createHash("sha256");
  for (const { channels, height, width, pixels, labels, classes } of [training, heldOut]) {
    hash.update(JSON.stringify([labels.length, channels, height, width, classes]));
    hash.update(pixels);
    // One byte order on every machine.
    hash.update(Uint8Array.from({ length: 2 * labels.length }, (_, i) => (labels[i >> 1] ?? 0) >> (8 * (i & 1))));
  }
  return hash.digest("hex");
}

/** The one folder that was named, or the folder of the files that were. */
async function list(paths: readonly string[]): Promise<Listing> {
  const kinds = await Promise.all(paths.map(async (path) => ((await inspect(path)).isDirectory() ? "folder" : "file")));
  const [first = "."] = paths;
  const isOneFolder = paths.length === 1 && kinds[0] === "folder";
  if (isOneFolder) return listFolder(first);
  const folder = dirname(first);
  if (kinds.includes("folder") || paths.some((path) => resolve(dirname(path)) !== resolve(folder))) {
    throw new BinadeError(
      "option.invalid",
      `${paths.join(", ")}: expected one folder of pictures, or files that lie in one folder, got ${paths.length} paths; put them together`,
    );
  }
  return { folder, files: paths.map((path) => basename(path)).sort(), folders: [] };
}

/** Names in a folder, those that begin with a dot left out. */
export async function listFolder(folder: string): Promise<Listing> {
  const names = await readdir(folder).catch((error: unknown) => {
    throw readError(folder, error);
  });
  const [files, folders]: [string[], string[]] = [[], []];
  for (const name of names.filter((n) => !n.startsWith(".")).sort()) {
    ((await inspect(join(folder, name))).isDirectory() ? folders : files).push(name);
  }
  return { folder, files, folders };
}

async function inspect(path: string): Promise<{ isDirectory(): boolean }> {
  return stat(path).catch((error: unknown) => {
    throw readError(path, error);
  });
}

/** Names by which a set that is not unpacked, or of another format, is known, and what to do. */
const HINTS: readonly (readonly [RegExp, string])[] = [
  [/\.(tar|tar\.gz|tgz|zip|7z)$/i, "unpack the archive first"],
  [/^(data_batch_\d|test_batch|batches\.meta)$/, "this is CIFAR for Python; fetch the binary version"],
  [/^test(_batch)?\.bin$/, "this is what CIFAR holds out: add the files to train on, data_batch_1.bin or train.bin"],
  [/\.(parquet|npz|npy|mat|pkl|h5|tfrecord)$/i, "convert it to one folder of PNG files per class"],
  [/\.(png|jpe?g)$/i, "a picture's class is the name of its folder: make one folder per class"],
];

function unknownFormat(paths: readonly string[], { files, folders }: Listing): BinadeError {
  const subject = paths.join(", ");
  if (files.length + folders.length === 0) {
    return new BinadeError("data.short", `${subject}: expected pictures, the folder is empty; name another`);
  }
  const known = "IDX files, CIFAR .bin files, or one folder of PNG or JPEG files per class";
  const hint = HINTS.find(([pattern]) => files.some((name) => pattern.test(name)))?.[1];
  const found = [...folders.map((name) => `${name}/`), ...files];
  const shown = found.slice(0, 3).join(", ") + (found.length > 3 ? ` and ${found.length - 3} more` : "");
  return new BinadeError(
    "data.unknown",
    `${subject}: expected ${known}, found ${shown}; ${hint ?? "name another folder"}`,
  );
}

const nameOf = ([first = "no files", ...others]: readonly string[]): string =>
  (basename(resolve(first)) || first) + (others.length > 0 ? ` and ${others.length} more` : "");
