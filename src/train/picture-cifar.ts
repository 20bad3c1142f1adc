/** The files of CIFAR-10 and CIFAR-100 in their binary version. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { CIFAR_LAYOUTS, CIFAR_SIZE, type CifarName, decodeCifar } from "../data/cifar.ts";
import type { Pictures } from "../data/pictures.ts";
import { BinadeError } from "../errors.ts";
import { readFileBytes } from "./picture-memory.ts";
import type { Listing, ReadPictures } from "./pictures.ts";

interface Files {
  readonly training: RegExp;
  readonly heldOut: string;
  /** The file that holds the names of the classes, one a line. */
  readonly names: string;
}

const FILES: Readonly<Record<CifarName, Files>> = {
  "CIFAR-10": { training: /^data_batch_\d+\.bin$/, heldOut: "test_batch.bin", names: "batches.meta.txt" },
  "CIFAR-100": { training: /^train\.bin$/, heldOut: "test.bin", names: "fine_label_names.txt" },
};

/** A format for each of the two sets. */
export const readCifar = (Object.keys(FILES) as readonly CifarName[]).map((name) => ({
  name,
  matches: ({ files }: Listing): boolean => files.some((file) => FILES[name].training.test(file)),
  async read(listing: Listing): Promise<ReadPictures> {
    const { training, heldOut, names } = FILES[name];
    const classes = await readNames(join(listing.folder, names), name);
    const read = async (files: readonly string[]): Promise<Pictures> => {
      const parts = [];
      for (const file of files) {
        const path = join(listing.folder, file);
        parts.push(decodeCifar(await readFileBytes(path), path, name));
      }
      const pixels = new Uint8Array(parts.reduce((sum, part) => sum + part.pixels.length, 0));
      let offset = 0;
      for (const part of parts) {
        pixels.set(part.pixels, offset);
        offset += part.pixels.length;
      }
      return { pixels, labels: Int32Array.from(parts.flatMap((part) => [...part.labels])), ...CIFAR_SIZE, classes };
    };
    return {
      training: await read(listing.files.filter((file) => training.test(file))),
      heldOut: listing.files.includes(heldOut) ? await read([heldOut]) : null,
      skipped: [],
      mayFlip: true,
    };
  },
}));

/** The names that lie beside the pictures; numbers where there are none. */
async function readNames(path: string, name: CifarName): Promise<readonly string[]> {
  const { classes } = CIFAR_LAYOUTS[name];
  const text = await readFile(path, "utf8").catch(() => null);
  if (text === null) return Array.from({ length: classes }, (_, label) => `${label}`);
  const lines = text.split("\n").map((line) => line.trim());
  const found = lines.filter((line) => line !== "");
  if (found.length === classes) return found;
  throw new BinadeError(
    "data.corrupt",
    `${path}: expected the names of ${classes} classes, one a line, got ${found.length}; fetch or remove the file`,
  );
}
