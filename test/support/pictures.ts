/** Small pictures for tests: sets in memory, and files of every format that Binade reads. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import type { Pictures } from "../../src/data/index.ts";

/** `count` pictures with classes in turn; every byte differs from its neighbours, and says where it is. */
export function smallPictures(
  options: Partial<Omit<Pictures, "pixels" | "labels">> & { count?: number } = {},
): Pictures {
  const { count = 6, channels = 1, height = 3, width = 4, classes = ["a", "b", "c"] } = options;
  const pixels = Uint8Array.from({ length: count * channels * height * width }, (_, i) => 1 + ((i * 7) % 251));
  const labels = Int32Array.from({ length: count }, (_, i) => i % classes.length);
  return { pixels, labels, channels, height, width, classes };
}

/** Writes `bytes` to `path`, with the folders above it; returns the path. */
export function put(path: string, bytes: Uint8Array | string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, bytes);
  return path;
}

/** An IDX file: magic number, extents, values. */
export function idx(shape: readonly number[], values: Uint8Array): Uint8Array {
  const header = new DataView(new ArrayBuffer(4 + 4 * shape.length));
  header.setUint32(0, 0x0800 + shape.length);
  shape.forEach((extent, i) => {
    header.setUint32(4 + 4 * i, extent);
  });
  return Buffer.concat([new Uint8Array(header.buffer), values]);
}

/** A folder like MNIST's: `training` and `heldOut` pictures, digits in turn. */
export function putMnist(
  folder: string,
  options: { training?: number; heldOut?: number; gzip?: boolean; height?: number; width?: number } = {},
): string {
  const { training = 20, heldOut = 10, gzip = false, height = 4, width = 5 } = options;
  const write = (name: string, bytes: Uint8Array): void => {
    put(join(folder, gzip ? `${name}.gz` : name), gzip ? gzipSync(bytes) : bytes);
  };
  for (const [prefix, count] of [
    ["train", training],
    ["t10k", heldOut],
  ] as const) {
    if (count === 0) continue;
    const pixels = Uint8Array.from({ length: count * height * width }, (_, i) => (i * 13) % 256);
    write(`${prefix}-images-idx3-ubyte`, idx([count, height, width], pixels));
    write(
      `${prefix}-labels-idx1-ubyte`,
      idx(
        [count],
        Uint8Array.from({ length: count }, (_, i) => i % 10),
      ),
    );
  }
  return folder;
}

/** CIFAR records: label bytes, then 3072 bytes of picture. */
export function cifar(labels: readonly (readonly number[])[]): Uint8Array {
  return Buffer.concat(
    labels.map((bytes, i) => Buffer.concat([Uint8Array.from(bytes), new Uint8Array(3072).fill(10 * i + 1)])),
  );
}
