/** The loss scale's transition as graph expressions: what `nextLossScale` does to numbers, done to scalars on the device. */
import type { LossScaleRule } from "../precision/lossScale.ts";
import { where } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Scale (float32) and growth tracker (int32), scalars. */
export interface ScaleTensors {
  readonly scale: Tensor;
  readonly growthTracker: Tensor;
}

/** The state after a step: `nextLossScale` with `finite` as a bool scalar. */
export function nextScaleTensors(
  { scale, growthTracker }: ScaleTensors,
  rule: LossScaleRule,
  finite: Tensor,
): ScaleTensors {
  const clean = growthTracker.add(1);
  const reaches =
    rule.profile === "pytorch" ? clean.equal(rule.growthInterval) : clean.greaterEqual(rule.growthInterval);
  const product = timesRoundedOnce(scale, rule.growthFactor);
  const grown = Number.isFinite(rule.ceiling) ? product.minimum(rule.ceiling) : product;
  const afterClean = where(reaches.and(grown.isFinite()), grown, scale);
  const afterOverflow = timesRoundedOnce(scale, rule.backoffFactor).maximum(rule.floor);
  return {
    scale: where(finite, afterClean, afterOverflow),
    growthTracker: where(finite.and(reaches.not()), clean, 0),
  };
}

/** 2¹² + 1 splits 24 significant bits into two halves of 12. */
const SPLITTER = 4097;
/** Above it, splitting would overflow; the product is then formed 2⁻³² times as large. */
const LARGE = 2 ** 100;
const SHRINK = 2 ** -32;

/**
 * x · factor as if formed in float64 and rounded to float32 once, though devices compute in float32. One product where
 * float32 holds the factor; else the factor is the sum of two float32 numbers, and the error of x times the larger one is
 * added back (it is exact: Dekker 1971, "A floating-point technique for extending the available precision").
 */
function timesRoundedOnce(x: Tensor, factor: number): Tensor {
  const high = Math.fround(factor);
  if (high === factor) return x.mul(high);
  const large = x.greater(LARGE);
  const small = where(large, x.mul(SHRINK), x);
  const product = small.mul(high);
  const rounded = product.add(productError(small, high, product).add(small.mul(factor - high)));
  return where(large, rounded.mul(1 / SHRINK), rounded);
}

/** x · c − fl(x · c), exactly. */
function productError(x: Tensor, c: number, product: Tensor): Tensor {
  const spread = x.mul(SPLITTER);
  const upper = spread.sub(spread.sub(x));
  const lower = x.sub(upper);
  const spreadC = Math.fround(c * SPLITTER);
  const upperC = Math.fround(spreadC - Math.fround(spreadC - c));
  const lowerC = c - upperC;
  const cross = upper.mul(upperC).sub(product).add(upper.mul(lowerC)).add(lower.mul(upperC));
  return cross.add(lower.mul(lowerC));
}
