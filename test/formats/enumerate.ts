/** The numbers of a small format, written down from its definition alone, as the yardstick of the tests. */

import { type FloatFormat, FORMATS } from "../../src/formats/table.ts";

/** The formats small enough to be tested pattern by pattern. */
export const SMALL = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] as const;
export type SmallDType = (typeof SMALL)[number];

/** Value of one bit pattern by the definition (-1)^s · 2^(e - bias) · 1.m; NaN and infinity as the format's row says. */
export function valueByDefinition(bits: number, d: SmallDType): number {
  const format: FloatFormat = FORMATS[d];
  const sign = bits >> (format.bits - 1) === 1 ? -1 : 1;
  const exponent = (bits >> format.mantissaBits) % 2 ** format.exponentBits;
  const fraction = (bits % 2 ** format.mantissaBits) / 2 ** format.mantissaBits;
  const top = 2 ** format.exponentBits - 1;
  if (exponent === top && format.infinities) return fraction === 0 ? sign * Infinity : Number.NaN;
  if (exponent === top && fraction === 1 - 2 ** -format.mantissaBits) return Number.NaN;
  return exponent === 0
    ? sign * fraction * 2 ** (1 - format.bias)
    : sign * (1 + fraction) * 2 ** (exponent - format.bias);
}

/** Number of bit patterns of a format. */
export function patternCount(d: SmallDType): number {
  return 2 ** FORMATS[d].bits;
}

/** The finite numbers that are not negative, in ascending order: element i has the bits i. */
export function magnitudes(d: SmallDType): number[] {
  const values: number[] = [];
  for (let bits = 0; Number.isFinite(valueByDefinition(bits, d)); bits++) values.push(valueByDefinition(bits, d));
  return values;
}

/** What lies above the largest finite number: infinity, or NaN in a format without it. */
export function beyond(d: SmallDType): number {
  return FORMATS[d].infinities ? Infinity : Number.NaN;
}

/** The number after the last, if the exponent had no upper limit: half-way to it, overflow begins. */
export function phantom(d: SmallDType): number {
  const { maxFinite, mantissaBits } = FORMATS[d];
  return maxFinite + 2 ** (Math.floor(Math.log2(maxFinite)) - mantissaBits);
}

/** The float64 next to `x` > 0: above it for step 1n, below it for step -1n. */
export function beside(x: number, step: 1n | -1n): number {
  const words = new BigInt64Array(Float64Array.of(x).buffer);
  words[0] = (words[0] as bigint) + step;
  return new Float64Array(words.buffer)[0] as number;
}

/** Index of the greatest magnitude that is not above x >= 0. */
export function indexAtOrBelow(values: readonly number[], x: number): number {
  let low = 0;
  let high = values.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((values[middle] as number) <= x) low = middle;
    else high = middle;
  }
  return low;
}
