/** Writes programs as 64-bit words, in the layout that abi.ts states. */
import type { Operand } from "../../compile/program.ts";
import { byteSize, type DType, FORMATS } from "../../formats/index.ts";
import type { View } from "../../ops/shape.ts";

const bits = new DataView(new ArrayBuffer(4));

/** The 32 bits of a float32, as an unsigned integer. */
export function floatBits(value: number): number {
  bits.setFloat32(0, value);
  return bits.getUint32(0);
}

export type Word = number;

/** binding byteOffset of an operand's first element. */
export function reference({ buffer, view }: Operand): readonly Word[] {
  const { storage, dtype } = buffer;
  const start = view.offset * byteSize(dtype);
  return storage.kind === "arena" ? [0, storage.byteOffset + start] : [storage.index + 1, start];
}

export const dtypeCode = (dtype: DType): Word => FORMATS[dtype].code;

/** dtype ref stride{rank} of an operand walked through `view` (whose offset counts from the buffer's start). */
export function viewWords(operand: Operand, view: View): readonly Word[] {
  return [dtypeCode(operand.buffer.dtype), ...reference({ buffer: operand.buffer, view }), ...view.strides];
}

export const domainWords = (extents: readonly number[]): readonly Word[] => [extents.length, ...extents];

export const toWords = (words: readonly Word[]): BigInt64Array => BigInt64Array.from(words, (w) => BigInt(w));
