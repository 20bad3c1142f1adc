/** Which format two formats meet in: a strict order, in which nothing is widened that neither side asked for. */

import { BinadeError } from "../errors.ts";
import { type DType, isFloat } from "./table.ts";

/**
 * For each format, those directly above it. A pair may mix only if one of the two lies above the other, and meets there.
 * float16 with bfloat16, and uint32 with signed integers, have a common upper bound but do not mix: reaching it would be a cast
 * that nobody wrote. The 8-bit floats mix with nothing: they carry a scale that this order knows nothing of.
 */
const ABOVE: { readonly [D in DType]: readonly DType[] } = {
  bool: ["uint8"],
  uint8: ["int16", "uint32"],
  int16: ["int32"],
  int32: ["int64"],
  uint32: ["int64"],
  int64: ["float16", "bfloat16"],
  float16: ["float32"],
  bfloat16: ["float32"],
  float32: ["float64"],
  float64: [],
  float8_e4m3fn: [],
  float8_e5m2: [],
};

function isBelow(a: DType, b: DType): boolean {
  return ABOVE[a].some((next) => next === b || isBelow(next, b));
}

function advice(a: DType, b: DType): string {
  if (isFloat(a) && isFloat(b)) return 'cast one to the other, or both with .cast("float32")';
  if (isFloat(a) || isFloat(b)) return 'cast the 8-bit float first, as in .cast("float32")';
  return 'cast one to the other, or both with .cast("int64")';
}

/**
 * The format in which an element of `a` and one of `b` are combined: the wider of two floats, the wider of two integers
 * where it holds every value of the other, the float of a float and an integer, and anything rather than `bool`.
 * Symmetric and associative where defined.
 *
 * @throws BinadeError `dtype.mismatch` for float16 with bfloat16, uint32 with int32 and int16, and an 8-bit float with any other.
 * @example
 * promote("bfloat16", "float32"); // "float32"
 * promote("int32", "float16"); // "float16"
 */
export function promote(a: DType, b: DType): DType {
  if (a === b || isBelow(b, a)) return a;
  if (isBelow(a, b)) return b;
  throw new BinadeError("dtype.mismatch", `promote: expected formats that mix, got ${a} and ${b}; ${advice(a, b)}.`);
}
