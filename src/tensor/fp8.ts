/** Scaling into 8 bits, on tensors: the same bits as `precision/fp8.ts`, from ops that every backend has. */
import { FORMATS, nextUp } from "../formats/index.ts";
import type { Shape } from "../ops/shape.ts";
import { BLOCK, blockScale, currentScale } from "../precision/fp8.ts";
import type { BlockExponent, CurrentScaling, DelayedScaling, Float8DType } from "../precision/fp8-recipe.ts";
import { full, zeros } from "./create.ts";
import { concatenate, where } from "./functions.ts";
import type { Tensor } from "./tensor.ts";

/** Greatest magnitude, a float32 scalar: 0 for none, NaN if one element is. */
export const amax = (x: Tensor): Tensor => (x.size === 0 ? full([], 0) : x.cast("float32").abs().max());

/**
 * The greatest power of two ≤ x, elementwise, for finite x ≥ 0 (0 for 0): |q − (1 − 2^−24) q| with q = (2^23 + 1) x, both
 * rounded to float32. Source: Rump, Ogita, Oishi 2008, "Accurate Floating-Point Summation Part I", algorithm 3.5. It needs
 * q finite and nothing subnormal, so that x is moved there by a power of two first.
 */
export function floorPowerOfTwo(x: Tensor): Tensor {
  const toMiddle = where(x.greaterEqual(2 ** 64), 2 ** -64, where(x.less(2 ** -64), full(x.shape, 2 ** 64), 1));
  const q = x.mul(toMiddle).mul(2 ** 23 + 1);
  return q
    .sub(q.mul(1 - 2 ** -24))
    .abs()
    .div(toMiddle);
}

/** largest / amax, as a finite float32. */
const quotient = (largest: number, magnitude: Tensor): Tensor =>
  full(magnitude.shape, largest).div(magnitude).minimum(FORMATS.float32.maxFinite);

const isUsable = (magnitude: Tensor): Tensor => magnitude.isFinite().and(magnitude.greater(0));

/** `currentScale` of a scalar. */
export function currentScaleOf(
  magnitude: Tensor,
  format: Float8DType,
  options: Pick<CurrentScaling, "powerOfTwo" | "minimumAmax">,
): Tensor {
  const { powerOfTwo, minimumAmax } = options;
  const scale = where(isUsable(magnitude), quotient(FORMATS[format].maxFinite, magnitude), 1);
  const lowered = powerOfTwo ? floorPowerOfTwo(scale) : scale;
  if (minimumAmax === 0) return lowered;
  // The bound is float64, as torchao's: it is compared, and divided by, before anything is rounded.
  const nearest = Math.fround(minimumAmax);
  const bound = nearest < minimumAmax ? nextUp(nearest, "float32") : nearest;
  return where(magnitude.less(bound), currentScale(0, format, options), lowered);
}

/** What delayed scaling remembers, as tensors: a scalar, and a vector of amaxes. */
export interface DelayedTensors {
  readonly scale: Tensor;
  readonly history: Tensor;
}

/** `nextDelayedState`. */
export function nextDelayedTensors(
  { scale, history }: DelayedTensors,
  magnitude: Tensor,
  format: Float8DType,
  { margin, amax: algorithm }: Pick<DelayedScaling, "margin" | "amax">,
): DelayedTensors {
  const length = history.size;
  const seen = magnitude.reshape([1]);
  const remembered = length > 1 ? history.slice(0, 1, length - 1) : null;
  const chosen = remembered === null || algorithm === "mostRecent" ? magnitude : magnitude.maximum(remembered.max());
  const kept = length > 2 ? [history.slice(0, 2, length - 2)] : [];
  return {
    scale: where(isUsable(chosen), quotient(FORMATS[format].maxFinite * 2 ** -margin, chosen), scale),
    history: length === 1 ? zeros([1]) : concatenate([zeros([1]), ...kept, seen]),
  };
}

/** `blockScale`, elementwise. */
export function blockScaleOf(magnitude: Tensor, format: Float8DType, exponent: BlockExponent): Tensor {
  const infinite = blockScale(Infinity, format, exponent);
  const scale = finiteBlockScale(magnitude, format, exponent).maximum(blockScale(0, format, exponent));
  // The lesser of infinity and a number is the number, of NaN and a number NaN.
  return where(magnitude.isFinite(), scale, magnitude.minimum(infinite));
}

function finiteBlockScale(magnitude: Tensor, format: Float8DType, exponent: BlockExponent): Tensor {
  const { maxFinite, mantissaBits } = FORMATS[format];
  const greatestPower = 2 ** Math.floor(Math.log2(maxFinite));
  const doubledWhere = (condition: Tensor, power: Tensor): Tensor => where(condition, power.mul(2), power);
  if (exponent === "rceil") {
    const ratio = magnitude.div(maxFinite).maximum(blockScale(0, format, exponent));
    const power = floorPowerOfTwo(ratio);
    return doubledWhere(ratio.greater(power), power);
  }
  const power = floorPowerOfTwo(magnitude);
  const scale = power.mul(1 / greatestPower);
  if (exponent === "floor") return scale;
  return doubledWhere(
    exponent === "ceil" ? magnitude.greater(power) : magnitude.greaterEqual(power.mul(2 - 2 ** -(mantissaBits + 1))),
    scale,
  );
}

/** `quantize`, elementwise: float32 numbers that the format holds. `scale` broadcasts. */
export function quantizeTensor(x: Tensor, scale: Tensor, format: Float8DType): Tensor {
  const { maxFinite } = FORMATS[format];
  const scaled = x.mul(scale).minimum(maxFinite).maximum(-maxFinite);
  return where(x.isFinite(), scaled, x).cast(format).cast("float32");
}

/**
 * A float32 tensor as blocks of 32 hold it; the last block may be shorter.
 *
 * @param view its shape as (outer, length, inner): blocks lie along the middle
 */
export function quantizeBlocks(x: Tensor, view: Shape, format: Float8DType, exponent: BlockExponent): Tensor {
  const [outer = 1, length = 1, inner = 1] = view;
  const count = Math.ceil(length / BLOCK);
  const missing = count * BLOCK - length;
  const seen = x.reshape(view);
  const whole = missing === 0 ? seen : concatenate([seen, zeros([outer, missing, inner])], 1);
  const blocks = whole.reshape([outer, count, BLOCK, inner]);
  const magnitudes = blocks.abs().max({ axes: 2, keepAxes: true });
  const scale = blockScaleOf(magnitudes, format, exponent);
  const held = quantizeTensor(blocks, full(scale.shape, 1).div(scale), format).mul(scale);
  const padded = held.reshape([outer, count * BLOCK, inner]);
  return (missing === 0 ? padded : padded.slice(1, 0, length)).reshape(x.shape);
}
