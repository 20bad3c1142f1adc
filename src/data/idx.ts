/** The IDX format of MNIST and its relatives: a magic number, extents, values. Source: http://yann.lecun.com/exdb/mnist/ */
import { BinadeError } from "../errors.ts";

/** What an IDX file holds: `values` fills `shape`, row-major. */
export interface IdxFile {
  readonly shape: readonly number[];
  readonly values: Uint8Array;
}

/** Third byte of the magic number for unsigned bytes, the only type in which pictures and labels come. */
const UINT8 = 0x08;
const KINDS: Readonly<Record<number, string>> = { 1: "labels", 3: "grey pictures" };

/** Bytes of the header of a file of `axes` axes. */
const headerBytesOf = (axes: number): number => 4 + 4 * axes;
const magicOf = (axes: number): readonly number[] => [0, 0, UINT8, axes];
const isMagic = (bytes: Uint8Array, axes: number): boolean => magicOf(axes).every((byte, i) => bytes[i] === byte);

function shapeOf(bytes: Uint8Array, axes: number): readonly number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: axes }, (_, axis) => view.getUint32(4 + 4 * axis));
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((product, extent) => product * extent, 1);

/**
 * How long a file is that begins with `bytes`, by its header: where it is another format, no longer than its header. Null while
 * the header is not whole.
 */
export function promisedBytes(bytes: Uint8Array, axes: 1 | 3): number | null {
  const headerBytes = headerBytesOf(axes);
  if (bytes.length < headerBytes) return null;
  return headerBytes + (isMagic(bytes, axes) ? sizeOf(shapeOf(bytes, axes)) : 0);
}

/**
 * Reads the bytes of an uncompressed IDX file of `axes` axes: 1 for labels, 3 for pictures (count, height, width).
 *
 * @param path names the file in errors.
 * @param isCut whether the file goes on behind `bytes`.
 * @throws BinadeError `data.corrupt` for another magic number, or another length than its extents ask for.
 */
export function decodeIdx(bytes: Uint8Array, path: string, axes: 1 | 3, isCut = false): IdxFile {
  const [headerBytes, isIdx] = [headerBytesOf(axes), isMagic(bytes, axes)];
  if (!isIdx || bytes.length < headerBytes) {
    const hex = (values: ArrayLike<number>): string =>
      Array.from(values, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const got = bytes.length === 0 ? "an empty file" : isIdx ? `${bytes.length} bytes` : hex(bytes.subarray(0, 4));
    throw new BinadeError(
      "data.corrupt",
      `${path}: expected IDX ${KINDS[axes]} with a header of ${headerBytes} bytes that begins with ${hex(magicOf(axes))}, got ${got}; fetch the file again`,
    );
  }
  const shape = shapeOf(bytes, axes);
  const size = sizeOf(shape);
  const found = bytes.length - headerBytes;
  if (found !== size) {
    throw new BinadeError(
      "data.corrupt",
      `${path}: expected ${shape.join(" × ")} = ${size} bytes behind the header, got ${isCut ? "more" : found}; fetch the file again`,
    );
  }
  return { shape, values: bytes.subarray(headerBytes) };
}
