/** MNIST and its relatives: pairs of IDX files, pictures and labels, plain or compressed with gzip. */
import { join } from "node:path";
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { decodeIdx, type IdxFile, promisedBytes } from "../data/idx.ts";
import type { Pictures } from "../data/pictures.ts";
import { concatBytes } from "../data/text.ts";
import { BinadeError } from "../errors.ts";
import { readFileBytes, requireMemory } from "./picture-memory.ts";
import type { Listing, ReadPictures } from "./pictures.ts";

/** Such as train-images-idx3-ubyte, t10k-images.idx3-ubyte.gz, emnist-letters-test-images-idx3-ubyte. */
const PICTURES = /^(.*)images?([-_.])idx3([-_.]ubyte)?(\.gz)?$/i;
const HELD_OUT = /t10k|test|valid/i;

const isPictures = (name: string): boolean => PICTURES.test(name);

export const readIdx = {
  name: "IDX",
  matches: ({ files }: Listing): boolean => files.some(isPictures),
  async read(listing: Listing): Promise<ReadPictures> {
    const names = listing.files.filter(isPictures);
    const [training, ...others] = names.filter((name) => !HELD_OUT.test(name));
    const heldOut = names.filter((name) => HELD_OUT.test(name));
    if (training === undefined || others.length > 0 || heldOut.length > 1) {
      throw new BinadeError(
        "data.mixed",
        `${listing.folder}: expected one IDX file of pictures to train on and at most one to test on, got ${names.join(", ")}; name the files of one set`,
      );
    }
    const [first, second] = [await readPair(listing, training), heldOut[0] && (await readPair(listing, heldOut[0]))];
    const classes = classNames([first, ...(second ? [second] : [])]);
    const parts = [first, second].map((pair) => (pair ? { ...pair, classes } : null));
    requireSameSize(join(listing.folder, heldOut[0] ?? ""), parts);
    return { training: { ...first, classes }, heldOut: parts[1] ?? null, skipped: [], mayFlip: false };
  },
};

type Pair = Omit<Pictures, "classes">;

/** IDX has no names: the classes are 0 to the greatest label of what is trained on and held out. */
function classNames(pairs: readonly Pair[]): readonly string[] {
  const greatest = pairs.reduce((top, { labels }) => labels.reduce((a, b) => Math.max(a, b), top), 1);
  return Array.from({ length: greatest + 1 }, (_, label) => `${label}`);
}

function requireSameSize(path: string, [first, second]: readonly (Pair | null)[]): void {
  if (!first || !second || (first.height === second.height && first.width === second.width)) return;
  throw new BinadeError(
    "data.mixed",
    `${path}: expected pictures of ${first.height} × ${first.width} as in what is trained on, got ${second.height} × ${second.width}; name the files of one set`,
  );
}

async function readPair({ folder, files }: Listing, name: string): Promise<Pair> {
  const path = join(folder, name);
  // Either file may be compressed without the other.
  const plain = name.replace(PICTURES, (_, before, dot, end = "") => `${before}labels${dot}idx1${end}`);
  const labelName = [plain, `${plain}.gz`, plain.replace("labels", "label")].find((candidate) =>
    files.includes(candidate),
  );
  if (labelName === undefined) {
    throw new BinadeError(
      "file.missing",
      `${path}: expected its labels in ${plain} beside it, found none; name both files, or their folder`,
    );
  }
  const pictures = await readIdxFile(path, 3);
  const labels = await readIdxFile(join(folder, labelName), 1);
  const [count = 0, height = 0, width = 0] = pictures.shape;
  if (count === 0 || height * width === 0 || labels.shape[0] !== count) {
    throw new BinadeError(
      count * height * width === 0 ? "data.short" : "data.mixed",
      `${path}: expected pictures and a label for each, got ${count} pictures of ${height} × ${width} and ${labels.shape[0]} labels in ${labelName}; name the files of one set`,
    );
  }
  return { pixels: pictures.values, labels: Int32Array.from(labels.values), channels: 1, height, width };
}

/** A file, plain or compressed with gzip, whatever it is called. */
async function readIdxFile(path: string, axes: 1 | 3): Promise<IdxFile> {
  const bytes = await readFileBytes(path);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return decodeIdx(bytes, path, axes);
  const { plain, isCut } = await inflate(bytes, path, axes);
  return decodeIdx(plain, path, axes, isCut);
}

/**
 * Decompresses as much as the header promises, and looks whether there is more: a file of a few megabytes may hold a
 * thousand times as much.
 */
async function inflate(
  bytes: Uint8Array,
  path: string,
  axes: 1 | 3,
): Promise<{ readonly plain: Uint8Array; readonly isCut: boolean }> {
  const chunks: Uint8Array[] = [];
  let [length, promised]: [number, number | null] = [0, null];
  const stream = Readable.from([bytes], { objectMode: false }).pipe(createGunzip());
  try {
    for await (const chunk of stream) {
      chunks.push(chunk);
      length += chunk.length;
      if (promised === null) {
        promised = promisedBytes(concatBytes(chunks), axes);
        if (promised !== null) requireMemory(path, promised, "fetch the file again, or use fewer of them");
      }
      if (promised !== null && length > promised) return { plain: concatBytes(chunks), isCut: true };
    }
  } catch (cause) {
    if (cause instanceof BinadeError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `${path}: expected a whole gzip file, could not decompress it: ${reason}; fetch the file again`;
    throw new BinadeError("data.corrupt", message, { cause });
  }
  return { plain: concatBytes(chunks), isCut: false };
}
