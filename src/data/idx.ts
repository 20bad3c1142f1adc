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

/**
 * Reads the bytes of an uncompressed IDX file of `axes` axes: 1 for labels, 3 for pictures (count, height, width).
 *
 * @param path names the file in errors.
 * @throws BinadeError `data.corrupt` for another magic number, or another length than its extents ask for.
 */
export function decodeIdx(bytes: Uint8Array, path: string, axes: 1 | 3): IdxFile {
  const headerBytes = 4 + 4 * axes;
  const magic = [0, 0, UINT8, axes];
  const isMagic = magic.every((byte, i) => bytes[i] === byte);
  if (!isMagic || bytes.length < headerBytes) {
    const hex = (values: ArrayLike<number>): string =>
      Array.from(values, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const got = bytes.length === 0 ? "an empty file" : isMagic ? `${bytes.length} bytes` : hex(bytes.subarray(0, 4));
    throw new BinadeError(
      "data.corrupt",
      `${path}: expected IDX ${KINDS[axes]} with a header of ${headerBytes} bytes that begins with ${hex(magic)}, got ${got}; fetch the file again`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: axes }, (_, axis) => view.getUint32(4 + 4 * axis));
  const size = shape.reduce((product, extent) => product * extent, 1);
  if (bytes.length - headerBytes !== size) {
    throw new BinadeError(
      "data.corrupt",
      `${path}: expected ${shape.join(" × ")} = ${size} bytes behind the header, got ${bytes.length - headerBytes}; fetch the file again`,
    );
  }
  return { shape, values: bytes.subarray(headerBytes) };
}
