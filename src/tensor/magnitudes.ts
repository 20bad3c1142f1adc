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
const SUBNORMAL_ENTRY = entryOf(FORMATS.float16.minSubnormal);
const NORMAL_ENTRY = entryOf(FORMATS.float16.minNormal);

/** Counts of tensors, one after another, as `magnitudesIn` takes them. */
export const readCounts = async (counts: Tensor): Promise<Int32Array> => (await counts.storage()) as Int32Array;

/** Of tensor `i` among those whose counts stand one after another; of no elements every share is 0. The histogram is a part of `counts`. */
export function magnitudesIn(counts: Int32Array, i: number): Magnitudes {
  const first = i * MAGNITUDE_COUNTS;
  const at = (entry: number): number => counts[first + entry] ?? 0;
  let [total, belowSubnormal, belowNormal] = [0, 0, 0];
  for (let entry = 0; entry < EXPONENTS; entry++) {
    if (entry === SUBNORMAL_ENTRY) belowSubnormal = total;
    if (entry === NORMAL_ENTRY) belowNormal = total;
    total += at(entry);
  }
  const share = (count: number): number => count / Math.max(total, 1);
  return {
    zeroShare: share(at(ZEROS)),
    belowSubnormalShare: share(belowSubnormal - at(ZEROS)),
    belowNormalShare: share(belowNormal - at(ZEROS)),
    aboveLargestShare: share(at(ABOVE_FLOAT16)),
    nonFiniteShare: share(at(EXPONENTS - 1)),
    histogram: counts.subarray(first, first + EXPONENTS),
  };
}
