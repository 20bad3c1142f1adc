/** Values on which scaling into 8 bits may go wrong, and how tests compare bits. */
import type { Float8DType } from "../../src/index.ts";
import { generator } from "./random.ts";

export const FLOAT8: readonly Float8DType[] = ["float8_e4m3fn", "float8_e5m2"];

/** Magnitudes: specials, subnormals, powers of two and their neighbours, and where modes of block scaling part. */
export const AWKWARD_AMAXES: readonly number[] = [
  0,
  Number.NaN,
  Infinity,
  2 ** -149,
  2 ** -127,
  2 ** -127 * (1 + 2 ** -22),
  2 ** -126,
  2 ** -126 * (1 - 2 ** -23),
  2 ** -119,
  2 ** -118 * (1 - 2 ** -24),
  448 * 2 ** -127,
  448 * 2 ** -127 * (1 + 2 ** -23),
  1e-12,
  9e-13,
  1 / 3,
  1,
  1 + 2 ** -23,
  2 - 2 ** -23,
  1.875,
  1.9375,
  1.9375 - 2 ** -23,
  448,
  448 + 2 ** -15,
  449,
  464,
  511.99,
  512,
  57344,
  57344 + 2 ** -8,
  61440,
  2 ** 64,
  2 ** 104,
  2 ** 127,
  2 ** 127 * 1.75,
  (2 - 2 ** -23) * 2 ** 127,
].map(Math.fround);

/** Bits of float32 values, every NaN alike. */
export const bitsOf = (values: ArrayLike<number>): Uint32Array => {
  const canonical = Float32Array.from(values, (v) => (Number.isNaN(v) ? Number.NaN : v));
  return new Uint32Array(canonical.buffer);
};

/** float32 numbers of any exponent, infinities and NaN among them. */
export function randomFloats(length: number, seed: number): Float32Array {
  const next = generator(seed);
  return new Float32Array(Uint32Array.from({ length }, () => next() * 2 ** 32).buffer);
}
