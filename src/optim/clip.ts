/** Clipping of gradients by their global norm. */
import { BinadeError, listNames } from "../errors.ts";
import { isPositive, requireNumber } from "../precision/options.ts";
import { full } from "../tensor/create.ts";
import { type Grads, mapGradients, originOf } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Keeps the quotient finite where all gradients are 0. */
const NORM_EPS = 1e-6;

function requireTrue(subject: string, grads: Grads<"true">): void {
  if (originOf(grads)?.kind !== "scaled") return;
  const names = listNames([...grads.keys()].map(({ name }) => name));
  const sentence = `${subject}: the gradients of ${names} are scaled`;
  throw new BinadeError("scaler.order", `${sentence}; pass what GradScaler.unscale returns`);
}

/**
 * √(Σ g²) over all elements of all gradients, in float32: a scalar. Infinite where the sum of squares exceeds float32.
 *
 * @throws BinadeError `scaler.order` for scaled gradients; `gradient.missing` for none.
 * @example
 * const norm = globalNorm(scaler.unscale(scaled));
 */
export function globalNorm(grads: Grads<"true">): Tensor {
  requireTrue("globalNorm", grads);
  const squares = [...grads.values()].map((gradient) => gradient.cast("float32").square().sum());
  const [first, ...rest] = squares;
  if (first === undefined)
    throw new BinadeError("gradient.missing", "globalNorm: expected at least one gradient, got none");
  return rest.reduce((sum, square) => sum.add(square), first).sqrt();
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
