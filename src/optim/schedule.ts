/** Learning rates as graph expressions of the applied clock. */
import { BinadeError } from "../errors.ts";
import { isNonNegativeSingle, requireInteger, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { full } from "../tensor/create.ts";
import { where } from "../tensor/functions.ts";
import type { Schedule } from "./optimizer.ts";

/**
 * The same rate in every step. A plain number as `lr` does the same and can be changed between steps.
 *
 * @throws BinadeError `value.range` unless `rate` is finite and ≥ 0.
 * @example
 * new optim.SGD(model, { lr: optim.constant(0.1) });
 */
export function constant(rate: number): Schedule {
  requireNumber("constant: rate", rate, isNonNegativeSingle, "a finite number ≥ 0 within float32");
  return () => full([], rate);
}

export interface WarmupCosineOptions {
  /** Steps until the peak is reached, ≥ 0. */
  readonly warmup: number;
  /** The step from which on the rate is `floor`, > `warmup`. */
  readonly total: number;
  /** Greatest rate. */
  readonly peak: number;
  /** Last rate, at most `peak`. Default 0. */
  readonly floor?: number;
}

/**
 * A linear warm-up, then half a cosine down to `floor`. With t applied steps so far (0 in the first step):
 *
 *     t < warmup:          peak · (t + 1) / warmup
 *     warmup ≤ t < total:  w · peak + (1 − w) · floor,  w = (1 + cos(π (t − warmup) / (total − warmup))) / 2
 *     total ≤ t:           floor
 *
 * The rate is exactly `peak` at t = warmup − 1 and t = warmup, and exactly `floor` from t = total on.
 * Source of the cosine: Loshchilov, Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
 *
 * @throws BinadeError `value.range` or `option.invalid` for a bad option; `option.unknown` for another key.
 * @example
 * new optim.AdamW(model, { lr: optim.warmupCosine({ warmup: 100, total: 2000, peak: 1e-3, floor: 1e-4 }) });
 */
export function warmupCosine(options: WarmupCosineOptions): Schedule {
  requireKnownKeys("warmupCosine", options, ["warmup", "total", "peak", "floor"]);
  const { warmup, total, peak, floor = 0 } = options;
  requireInteger("warmupCosine: warmup", warmup, 0);
  requireInteger("warmupCosine: total", total, 1);
  requireNumber("warmupCosine: peak", peak, isNonNegativeSingle, "a finite number ≥ 0 within float32");
  requireNumber("warmupCosine: floor", floor, isNonNegativeSingle, "a finite number ≥ 0 within float32");
  if (warmup >= total || floor > peak) {
    const got = `warmup ${warmup}, total ${total}, floor ${floor}, peak ${peak}`;
    throw new BinadeError("option.invalid", `warmupCosine: expected warmup < total and floor ≤ peak, got ${got}`);
  }
  return (step) => {
    const angle = step
      .sub(warmup)
      .div(total - warmup)
      .mul(Math.PI);
    const weight = angle.cos().add(1).mul(0.5);
    // Two products, not floor + (peak − floor) · w: that is not exactly the peak where peak − floor is rounded.
    const decayed = weight.mul(peak).add(weight.neg().add(1).mul(floor));
    const after = where(step.greaterEqual(total), full([], floor), decayed);
    if (warmup === 0) return after;
    // (t + 1) / warmup is exactly 1 at the last step of the warm-up.
    return where(step.less(warmup), step.add(1).div(warmup).mul(peak), after);
  };
}
