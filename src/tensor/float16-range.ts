/** How the elements of a tensor lie in float16's range: counts on the device, shares of them when they are read. */
import { FORMATS } from "../formats/index.ts";
import { nonFiniteCount } from "./finite.ts";
import type { Tensor } from "./tensor.ts";

/** Shares of all elements, from 0 to 1. */
export interface RangeShares {
  readonly zeroShare: number;
  /** Not 0 and below 2⁻²⁴, the least subnormal number: lost in float16, or rounded up to it. */
  readonly belowSubnormalShare: number;
  /** Not 0 and below 2⁻¹⁴, the least normal number: kept in float16 with fewer digits. */
  readonly belowNormalShare: number;
  /** Finite and above 65504, the largest number. */
  readonly aboveLargestShare: number;
  readonly nonFiniteShare: number;
}

/** Numbers of a tensor in `rangeCounts`. */
export const RANGE_COUNTS = 5;

/** Zeros, below the least subnormal and normal number (zeros included), above the largest, and not finite: float32 scalars. */
export function rangeCounts(tensor: Tensor): readonly Tensor[] {
  const { minSubnormal, minNormal, maxFinite } = FORMATS.float16;
  const magnitude = tensor.cast("float32").abs();
  const count = (condition: Tensor): Tensor => condition.cast("float32").sum();
  return [
    count(magnitude.equal(0)),
    count(magnitude.less(minSubnormal)),
    count(magnitude.less(minNormal)),
    count(magnitude.greater(maxFinite).and(magnitude.isFinite())),
    nonFiniteCount(magnitude),
  ];
}

/** What was counted of a tensor of this many elements; of none every share is 0. */
export function rangeShares(counts: ArrayLike<number>, elements: number): RangeShares {
  const share = (count: number): number => count / Math.max(elements, 1);
  const [zero = 0, subnormal = 0, normal = 0, above = 0, nonFinite = 0] = Array.from(counts, Number);
  return {
    zeroShare: share(zero),
    belowSubnormalShare: share(subnormal - zero),
    belowNormalShare: share(normal - zero),
    aboveLargestShare: share(above),
    nonFiniteShare: share(nonFinite),
  };
}
