/** Clipping of gradients by their global norm. */
import { BinadeError, listNames } from "../errors.ts";
import { isPositive, requireNumber } from "../precision/options.ts";
import { full } from "../tensor/create.ts";
import { where } from "../tensor/functions.ts";
import { type Grads, mapGradients, originOf } from "../tensor/gradients.ts";
import { requireGrads } from "../tensor/require.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Keeps the quotient finite where all gradients are 0. */
const NORM_EPS = 1e-6;

function requireTrue(subject: string, grads: Grads<"true">): void {
  requireGrads(subject, grads);
  if (originOf(grads)?.kind !== "scaled") return;
  const names = listNames([...grads.keys()].map(({ name }) => name));
  const sentence = `${subject}: the gradients of ${names} are scaled`;
  throw new BinadeError("scaler.order", `${sentence}; pass what GradScaler.unscale returns`);
}

/** 2^−80: squares of what is larger than 2^64 fit after it, and those of what matters beside them are normal. */
const DOWN = 2 ** -80;

/**
 * √(Σ g²) over all elements of all gradients, in float32: a scalar. Where the sum of squares exceeds float32 and the norm does not,
 * squares are summed of gradients times a power of two: clipping must not take finite gradients for infinite ones.
 *
 * @throws BinadeError `scaler.order` for scaled gradients; `gradient.missing` for none.
 * @example
 * const norm = globalNorm(scaler.unscale(scaled));
 */
export function globalNorm(grads: Grads<"true">): Tensor {
  requireTrue("globalNorm", grads);
  const wide = [...grads.values()].map((gradient) => gradient.cast("float32"));
  if (wide.length === 0)
    throw new BinadeError("gradient.missing", "globalNorm: expected at least one gradient, got none");
  const sumOfSquares = (tensors: readonly Tensor[]): Tensor =>
    tensors.map((x) => x.square().sum()).reduce((sum, squares) => sum.add(squares));
  const squares = sumOfSquares(wide);
  const lowered = sumOfSquares(wide.map((gradient) => gradient.mul(DOWN)));
  return where(squares.isFinite(), squares.sqrt(), lowered.sqrt().mul(1 / DOWN));
}

/**
 * Gradients times min(1, max / (norm + 1e-6)), norm being the global one: PyTorch's clip_grad_norm_, in float32. Gradients
 * with an infinity come out as zeros and NaN, which `GradScaler.step` skips.
 *
 * @param max greatest norm of the result, > 0
 * @throws BinadeError `value.range` for another `max`; `scaler.order` for scaled gradients.
 * @example
 * scaler.step(optimizer, clipByGlobalNorm(scaler.unscale(scaled), 1));
 */
export function clipByGlobalNorm(grads: Grads<"true">, max: number): Grads<"true"> {
  requireTrue("clipByGlobalNorm", grads);
  requireNumber("clipByGlobalNorm: max", max, isPositive, "a finite number > 0");
  const factor = full([], max).div(globalNorm(grads).add(NORM_EPS)).minimum(1);
  return mapGradients(grads, (gradient) => gradient.cast("float32").mul(factor).cast(gradient.dtype));
}
