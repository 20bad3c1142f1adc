/** Pictures as PNG and JPEG files: one folder per class, with or without folders of what is trained on and held out above. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Pictures } from "../data/pictures.ts";
import { BinadeError } from "../errors.ts";
import { readError, type SkippedFile } from "./corpus.ts";
import { type DecodedPicture, loadDecoder, type PictureDecoder } from "./picture-decoder.ts";
import { readFileBytes, requireMemory } from "./picture-memory.ts";
import { type Listing, listFolder, type ReadPictures, type ReadPicturesOptions } from "./pictures.ts";

const PICTURE = /\.(png|jpe?g)$/i;
const TRAINING: ReadonlySet<string> = new Set(["train", "training"]);
/** In the order in which one is taken to be held out. */
const HELD_OUT = ["test", "testing", "val", "valid", "validation"] as const;
/** Files that are decoded at the same time. */
const AT_ONCE = 16;

interface ClassFolder {
  readonly name: string;
  /** Paths of its pictures, ordered by code units. */
  readonly paths: readonly string[];
}

/** What a picture must be to belong to the set: that of the first. */
interface Expected extends Omit<DecodedPicture, "values"> {
  readonly path: string;
}

export const readPictureFolders = {
  name: "picture folders",
  matches: ({ folders }: Listing): boolean => folders.length > 0,
  async read(listing: Listing, options: ReadPicturesOptions): Promise<ReadPictures> {
    const { folder, folders } = listing;
    const skipped: SkippedFile[] = [];
    const trainingName = folders.find((name) => TRAINING.has(name.toLowerCase()));
    const heldOutName = HELD_OUT.flatMap((wanted) => folders.filter((name) => name.toLowerCase() === wanted))[0];
    // A class may be called "test": only both together make a split.
    const isSplit = trainingName !== undefined && (heldOutName !== undefined || folders.length === 1);
    const root = isSplit ? join(folder, trainingName) : folder;
    const training = await findClasses(root, skipped);
    const heldOut = isSplit && heldOutName !== undefined ? await findClasses(join(folder, heldOutName), skipped) : null;
    const classes = training.map(({ name }) => name);
    requireTwo(root, classes);
    const stranger = heldOut?.find(({ name }) => !classes.includes(name));
    if (stranger !== undefined) {
      throw new BinadeError(
        "data.mixed",
        `${join(folder, heldOutName ?? "", stranger.name)}: expected classes that are trained on, ${root} has no folder ${stranger.name}; add or remove the class`,
      );
    }
    const reader = new FolderReader(await (options.decoder ?? loadDecoder)(), options.size ?? null, classes);
    return {
      training: await reader.read(training),
      heldOut: heldOut === null ? null : await reader.read(heldOut),
      skipped,
      mayFlip: true,
    };
  },
};

/** The class folders in `root` and the pictures of each, those in folders inside it included. */
async function findClasses(root: string, skipped: SkippedFile[]): Promise<readonly ClassFolder[]> {
  const { folders, files } = await listFolder(root);
  for (const name of files) skipped.push({ path: join(root, name), reason: "not in a class folder" });
  return Promise.all(folders.map((name) => findPictures(root, name, skipped)));
}

function requireTwo(root: string, classes: readonly string[]): void {
  if (classes.length >= 2) return;
  throw new BinadeError(
    "data.short",
    `${root}: expected one folder of pictures for each of at least two classes, got ${classes[0] ?? "none"}; make a folder per class`,
  );
}

async function findPictures(root: string, name: string, skipped: SkippedFile[]): Promise<ClassFolder> {
  const folder = join(root, name);
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error: unknown) => {
    throw readError(folder, error);
  });
  const found = entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
  const paths = found.filter((path) => PICTURE.test(path)).sort();
  for (const path of found) if (!PICTURE.test(path)) skipped.push({ path, reason: "not PNG or JPEG" });
  if (paths.length > 0) return { name, paths };
  throw new BinadeError(
    "data.short",
    `${folder}: expected PNG or JPEG files of the class ${name}, found none; add some or remove the folder`,
  );
}

/** Reads class after class; all pictures are as the first. */
class FolderReader {
  readonly #decoder: PictureDecoder;
  readonly #size: number | null;
  readonly #classes: readonly string[];
  #expected: Expected | null = null;

  constructor(decoder: PictureDecoder, size: number | null, classes: readonly string[]) {
    this.#decoder = decoder;
    this.#size = size;
    this.#classes = classes;
  }

  async read(folders: readonly ClassFolder[]): Promise<Pictures> {
    const files = folders.flatMap(({ name, paths }) =>
      paths.map((path) => ({ path, label: this.#classes.indexOf(name) })),
    );
    const labels = Int32Array.from(files, ({ label }) => label);
    let pixels = new Uint8Array();
    for (let start = 0; start < files.length; start += AT_ONCE) {
      const pictures = await Promise.all(files.slice(start, start + AT_ONCE).map(({ path }) => this.#decode(path)));
      pictures.forEach((picture, i) => {
        const { path = "" } = files[start + i] ?? {};
        this.#require(path, picture);
        const bytes = picture.values.length;
        if (pixels.length === 0) {
          requireMemory(path, files.length * bytes, "give a smaller size to scale them to");
          pixels = new Uint8Array(files.length * bytes);
        }
        toPlanes(picture, pixels.subarray((start + i) * bytes, (start + i + 1) * bytes));
      });
    }
    const { channels = 1, height = 1, width = 1 } = this.#expected ?? {};
    return { pixels, labels, channels, height, width, classes: this.#classes };
  }

  async #decode(path: string): Promise<DecodedPicture> {
    return this.#decoder.decode(path, await readFileBytes(path), this.#size);
  }

  #require(path: string, { channels, height, width }: DecodedPicture): void {
    this.#expected ??= { path, channels, height, width };
    const expected = this.#expected;
    const show = (what: Omit<Expected, "path">): string =>
      `${what.height} × ${what.width} ${what.channels === 1 ? "in grey" : "in colour"}`;
    if (channels === expected.channels && height === expected.height && width === expected.width) return;
    const fix = channels === expected.channels ? "give one size to scale all to" : "convert one of them";
    throw new BinadeError(
      "data.mixed",
      `${path}: expected ${show(expected)} as ${expected.path}, got ${show({ channels, height, width })}; ${fix}`,
    );
  }
}

/** (height, width, channels) → (channels, height, width). */
function toPlanes({ channels, values }: DecodedPicture, out: Uint8Array): void {
  const plane = values.length / channels;
  for (let channel = 0; channel < channels; channel++) {
    for (let i = 0, from = channel; i < plane; i++, from += channels) out[channel * plane + i] = values[from] ?? 0;
  }
}
