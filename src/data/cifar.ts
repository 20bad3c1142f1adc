/** The binary format of CIFAR-10 and CIFAR-100. Source: https://www.cs.toronto.edu/~kriz/cifar.html */
import { BinadeError } from "../errors.ts";

/** The two data sets as data: label bytes before each picture (the last is the one to learn), and the number of classes. */
export const CIFAR_LAYOUTS = {
  "CIFAR-10": { labelBytes: 1, classes: 10 },
  "CIFAR-100": { labelBytes: 2, classes: 100 },
} as const;
export type CifarName = keyof typeof CIFAR_LAYOUTS;

/** Channels, height and width of every picture: red, green, blue planes. */
export const CIFAR_SIZE = { channels: 3, height: 32, width: 32 } as const;
const PICTURE_BYTES = 3 * 32 * 32;

/**
 * Reads the records of one file.
 *
 * @param path names the file in errors.
 * @returns pixels (records, 3, 32, 32) and labels (records).
 * @throws BinadeError `data.corrupt` for a file that is not a whole number of records; `index.outOfRange` for a label that
 * the set does not have.
 */
export function decodeCifar(
  bytes: Uint8Array,
  path: string,
  name: CifarName,
): { readonly pixels: Uint8Array; readonly labels: Int32Array } {
  const { labelBytes, classes } = CIFAR_LAYOUTS[name];
  const recordBytes = labelBytes + PICTURE_BYTES;
  const count = bytes.length / recordBytes;
  if (count === 0 || !Number.isInteger(count)) {
    throw new BinadeError(
      "data.corrupt",
      `${path}: expected ${name} records of ${recordBytes} bytes, got ${bytes.length} bytes; fetch the file again`,
    );
  }
  const pixels = new Uint8Array(count * PICTURE_BYTES);
  const labels = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const start = i * recordBytes + labelBytes;
    const label = bytes[start - 1] ?? 0;
    if (label >= classes) {
      throw new BinadeError(
        "index.outOfRange",
        `${path}: the label of record ${i} is ${label}, ${name} has 0 to ${classes - 1}; fetch the file again`,
      );
    }
    labels[i] = label;
    pixels.set(bytes.subarray(start, start + PICTURE_BYTES), i * PICTURE_BYTES);
  }
  return { pixels, labels };
}
