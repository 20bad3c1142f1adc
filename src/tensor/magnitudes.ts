/** How the magnitudes of a tensor are distributed: counts on the device; shares and a histogram of them when they are read. */
import { FORMATS } from "../formats/index.ts";
import { build } from "../ir/graph.ts";
import { ABOVE_FLOAT16, EXPONENTS, MAGNITUDE_COUNTS, ZEROS } from "../ops/magnitudes.ts";
import { Tensor } from "./tensor.ts";

/** How elements lie in float16's range: shares of all of them, from 0 to 1. */
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

/** How the magnitudes of a tensor are distributed. */
export interface Magnitudes extends RangeShares {
  /**
   * Elements by binade, exactly: entry e counts 2^(e − 127) ≤ |x| < 2^(e − 126), entry 0 zeros and float32's subnormals, entry
   * 255 ∞ and NaN.
   */
  readonly histogram: Int32Array;
}

/** What `magnitudesIn` reads: int32 (258). Of float64, after rounding to float32. */
export const magnitudesOf = (tensor: Tensor): Tensor => new Tensor(build.magnitudeCounts(tensor.cast("float32").node));

/** Entry of the histogram from which on magnitudes are at least `power`, a power of two. */
const entryOf = (power: number): number => Math.log2(power) + FORMATS.float32.bias;
const { minSubnormal, minNormal } = FORMATS.float16;

/** Of tensor `i` among those whose counts stand one after another; of no elements every share is 0. */
export function magnitudesIn(counts: ArrayLike<number>, i: number): Magnitudes {
  const own = Int32Array.from({ length: MAGNITUDE_COUNTS }, (_, at) => counts[i * MAGNITUDE_COUNTS + at] ?? 0);
  const histogram = own.slice(0, EXPONENTS);
  const below = (entry: number): number => histogram.slice(0, entry).reduce((sum, count) => sum + count, 0);
  const share = (count: number): number => count / Math.max(below(EXPONENTS), 1);
  const zeros = own[ZEROS] ?? 0;
  return {
    zeroShare: share(zeros),
    belowSubnormalShare: share(below(entryOf(minSubnormal)) - zeros),
    belowNormalShare: share(below(entryOf(minNormal)) - zeros),
    aboveLargestShare: share(own[ABOVE_FLOAT16] ?? 0),
    nonFiniteShare: share(histogram.at(-1) ?? 0),
    histogram,
  };
}
