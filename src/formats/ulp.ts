/** Units in the last place: spacing, neighbours, and distances counted in representable numbers. */

import { decode, encode, round } from "./codec.ts";
import { quantumExponent } from "./quantum.ts";
import {
  byteSize,
  type DType,
  type EncodedDType,
  type FloatDType,
  type FloatFormat,
  FORMATS,
  isFloat,
} from "./table.ts";

const FLOAT64 = new Float64Array(1);
const FLOAT64_BITS = new BigInt64Array(FLOAT64.buffer);
const INT64_MIN = -(2n ** 63n);

/** Rank of a float64 among its kind: consecutive numbers have consecutive ranks, ±0 have rank 0. */
function rank64(value: number): bigint {
  FLOAT64[0] = value;
  const bits = FLOAT64_BITS[0] as bigint;
  return bits < 0n ? INT64_MIN - bits : bits;
}

/** Rank of the number nearest to `value` in `d`, infinity being the one after the largest finite number. */
function rank(value: number, d: EncodedDType): number {
  const bits = encode(value, d);
  const half = 2 ** (8 * byteSize(d) - 1);
  return bits >= half ? half - bits : bits;
}

/**
 * How many numbers of format `d` one must pass to get from `a` to `b`, both rounded to `d` first: 0 for equal ones and
 * for +0 and -0, 1 for neighbours, also across zero and from the largest finite number to infinity. NaN is at distance
 * 0 from NaN and infinitely far from any number. For integers and `bool`, the absolute difference.
 *
 * @example
 * ulpDistance(1, 1.0078125, "bfloat16"); // 1
 */
export function ulpDistance(a: number, b: number, d: DType): number {
  const x = round(a, d);
  const y = round(b, d);
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) && Number.isNaN(y) ? 0 : Infinity;
  if (!isFloat(d)) return Math.abs(x - y);
  if (d !== "float64") return Math.abs(rank(x, d) - rank(y, d));
  const distance = rank64(x) - rank64(y);
  return Number(distance < 0n ? -distance : distance);
}

/**
 * Spacing of format `d` in the binade of `x`: the gap to the next number away from zero. Below the smallest normal
 * number, the smallest subnormal; beyond the largest finite number, the gap below that one. Infinity for infinities,
 * NaN for NaN. 1 for integers and `bool`.
 *
 * @example
 * ulp(1, "float16"); // 2^-10
 */
export function ulp(x: number, d: DType): number {
  if (!isFloat(d)) return 1;
  const format: FloatFormat = FORMATS[d];
  const magnitude = Math.abs(x);
  if (!Number.isFinite(magnitude)) return magnitude;
  if (magnitude < format.minNormal) return format.minSubnormal;
  return 2 ** quantumExponent(Math.min(magnitude, format.maxFinite), format);
}

/** The number after `x`, a finite number of `d` other than its largest. */
function successor(x: number, d: FloatDType): number {
  if (x === 0) return FORMATS[d].minSubnormal;
  if (d !== "float64") return decode(encode(x, d) + (x > 0 ? 1 : -1), d);
  FLOAT64[0] = x;
  FLOAT64_BITS[0] = (FLOAT64_BITS[0] as bigint) + (x > 0 ? 1n : -1n);
  return FLOAT64[0] as number;
}

/**
 * The least number of format `d` that is greater than `x`, which need not be a number of the format itself. From the
 * largest finite number on: infinity, or NaN where the format has none. NaN for NaN.
 *
 * @example
 * nextUp(1, "bfloat16"); // 1.0078125
 */
export function nextUp(x: number, d: FloatDType): number {
  const { maxFinite, infinities } = FORMATS[d];
  if (Number.isNaN(x)) return x;
  if (x >= maxFinite) return infinities ? Infinity : Number.NaN;
  if (x < -maxFinite) return -maxFinite;
  const nearest = round(x, d);
  return nearest > x ? nearest : successor(nearest, d);
}

/**
 * The greatest number of format `d` that is less than `x`: `nextUp` mirrored.
 *
 * @example
 * nextDown(1, "bfloat16"); // 0.99609375
 */
export function nextDown(x: number, d: FloatDType): number {
  return -nextUp(-x, d);
}

/**
 * Relative error allowed by default when results in format `d` are compared: 2 ulps of 1, that is 2^(1 - mantissaBits)
 * (bfloat16 1.6e-2, float16 2.0e-3, float32 2.4e-7). 0 for integers and `bool`.
 */
export function defaultTolerance(d: DType): number {
  return isFloat(d) ? 2 ** (1 - FORMATS[d].mantissaBits) : 0;
}
