/** The finite check: by the bits of stored values, inside the graph. */
import { isFloat } from "../formats/index.ts";
import { full } from "./create.ts";
import { isIterable, requireTensors } from "./require.ts";
import type { Tensor } from "./tensor.ts";

/**
 * How many elements are infinite or NaN: a float32 scalar, never 0 where there is one (a sum of ones in float32 stops
 * growing at 2²⁴, but not at 0).
 */
export const nonFiniteCount = (x: Tensor): Tensor => x.isFinite().not().cast("float32").sum();

/**
 * Whether every element of every tensor is finite: a bool scalar, true for no tensors. Integers always are.
 *
 * @example
 * const applied = allFinite(grads.values());
 */
export function allFinite(tensors: Iterable<Tensor>): Tensor {
  const all: unknown = isIterable(tensors) ? [...tensors] : tensors;
  requireTensors("allFinite: tensor", all);
  const counts = all.filter((x) => isFloat(x.dtype)).map(nonFiniteCount);
  return counts.reduce((sum, count) => sum.add(count), full([], 0)).equal(0);
}
