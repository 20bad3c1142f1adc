/** Exponents and powers of two, read and written as bits: the exact ruler that every rounding uses. */

import type { FloatFormat } from "./table.ts";

const FLOAT64 = new Float64Array(1);
const WORDS = new Uint32Array(FLOAT64.buffer);
FLOAT64[0] = 1;
/** Index of the word that holds sign and exponent; it depends on the machine's byte order. */
const HIGH = WORDS[1] === 0x3ff00000 ? 1 : 0;
const LOW = 1 - HIGH;

/** 2^exponent, exact, for exponents of normal float64 numbers: -1022 to 1023. */
export function powerOfTwo(exponent: number): number {
  WORDS[HIGH] = (exponent + 1023) << 20;
  WORDS[LOW] = 0;
  return FLOAT64[0] as number;
}

/**
 * Exponent of the spacing between neighbours of the format in the binade of `value` (finite, not 0): the format's
 * numbers there are multiples of 2^quantumExponent. Below the smallest normal number the spacing stays that of the
 * subnormals. Above the largest finite number it goes on growing, as if the exponent had no upper limit.
 */
export function quantumExponent(value: number, format: FloatFormat): number {
  FLOAT64[0] = value;
  const exponent = (((WORDS[HIGH] as number) >>> 20) & 0x7ff) - 1023;
  return Math.max(exponent, 1 - format.bias) - format.mantissaBits;
}
