/** The dynamic maps of 8-bit optimizer states: 256 numbers from 0 (or −1) to 1, dense near 1 and reaching down to 10⁻⁷. */

/**
 * Decades from 10⁻⁷ to 1; decade i is cut into `items` equal parts, and a number stands in the middle of each: (2 n + 18 j + 9) /
 * (2 n 10^(7 − i)) for n items and j from 0 to n − 1. Both sides of the fraction are exact in float32. A signed map has 2^i
 * items in decade i and the same numbers negated, an unsigned one 2^(i + 1); 0 and 1 complete both, and no signed map has −1.
 *
 * Source: Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning", arXiv:1511.04561, in the form of Dettmers et
 * al. 2022, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861, and of torchao.
 */
export interface Decade {
  readonly items: number;
  /** Position of its first number among those above 0, which has position 0. */
  readonly rank: number;
  readonly denominator: number;
}

const DECADES = 7;

export const decadesOf = (signed: boolean): readonly Decade[] =>
  Array.from({ length: DECADES }, (_, i) => {
    const items = 2 ** (i + (signed ? 0 : 1));
    return { items, rank: signed ? items : items - 1, denominator: 2 * items * 10 ** (DECADES - i) };
  });

/** The numerator of item j is this plus 18 j. */
export const firstNumerator = ({ items }: Decade): number => 2 * items + 9;

/** Position of 1 among the numbers above 0; of 0 in the whole map. */
export const topRank = (signed: boolean): number => (signed ? 128 : 255);
export const zeroCode = (signed: boolean): number => (signed ? 127 : 0);

/** The numbers of a map from 0 up, in float64. */
export function magnitudesOf(signed: boolean): readonly number[] {
  const inner = decadesOf(signed).flatMap((decade) =>
    Array.from({ length: decade.items }, (_, j) => (firstNumerator(decade) + 18 * j) / decade.denominator),
  );
  return [0, ...inner, 1];
}

/**
 * The 256 numbers of a map by code, rising: each the float32 nearest to its fraction.
 *
 * @example
 * dynamicMap(true)[127]; // 0
 */
export function dynamicMap(signed: boolean): Float32Array {
  const above = magnitudesOf(signed);
  const below = signed ? above.slice(1, topRank(signed)).reverse() : [];
  return Float32Array.from([...below.map((v) => -v), ...above]);
}
