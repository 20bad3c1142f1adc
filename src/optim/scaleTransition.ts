/** The loss scale's transition as graph expressions: what `nextLossScale` does to numbers, done to scalars on the device. */
import type { LossScaleRule } from "../precision/lossScale.ts";
import { where } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Scale (float32) and growth tracker (int32), scalars. */
export interface ScaleTensors {
  readonly scale: Tensor;
  readonly growthTracker: Tensor;
}

/**
 * The state after a step: bit for bit `nextLossScale` with `finite` as a bool scalar, where float32 holds both factors
 * (2, 0.5, 1.5, 0.75, …). Other factors, such as 1.1, are rounded to float32 first: devices multiply in float32, and a
 * product of 24 by 53 bits is so often next to a tie (11/10 of a number is one in every tenth) that nothing less than
 * float64 rounds it rightly.
 */
export function nextScaleTensors(
  { scale, growthTracker }: ScaleTensors,
  rule: LossScaleRule,
  finite: Tensor,
): ScaleTensors {
  const clean = growthTracker.add(1);
  const { growthInterval, ceiling } = rule;
  const reaches = rule.profile === "pytorch" ? clean.equal(growthInterval) : clean.greaterEqual(growthInterval);
  const product = scale.mul(Math.fround(rule.growthFactor));
  const grown = Number.isFinite(ceiling) ? product.minimum(ceiling) : product;
  const afterClean = where(reaches.and(grown.isFinite()), grown, scale);
  const afterOverflow = scale.mul(Math.fround(rule.backoffFactor)).maximum(rule.floor);
  return {
    scale: where(finite, afterClean, afterOverflow),
    growthTracker: where(finite.and(reaches.not()), clean, 0),
  };
}
