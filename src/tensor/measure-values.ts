/** Per op: how a step's values lie in float16's range. On request, for it takes several times as long as the step. */
import type { DType } from "../formats/index.ts";
import type { Magnitudes } from "./magnitudes.ts";
import { requireStep, requireTensors } from "./require.ts";
import { type Place, valuesOfStep } from "./step-values.ts";
import type { Tensor } from "./tensor.ts";

/** One value of a step. */
export interface MeasuredValue extends Place, Magnitudes {
  readonly op: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** It is a gradient, or made of one. */
  readonly isGradient: boolean;
  /** Elements that are infinite or NaN. */
  readonly nonFinite: number;
  /** Largest magnitude among the finite ones. */
  readonly largest: number;
}

/**
 * Replays a step on these arguments with the present parameters and measures every floating value on the way, in the order of
 * the program. Nothing is assigned.
 *
 * @param step the function that was given to `compile`
 * @throws BinadeError `option.invalid` for another step, or arguments that are no tensors; otherwise as `compile`.
 * @example
 * const tiny = (await measureValues(step, x, y)).filter((value) => value.isGradient && value.belowSubnormalShare > 0.1);
 */
export async function measureValues<A extends readonly Tensor[]>(
  step: (...args: A) => unknown,
  ...args: A
): Promise<readonly MeasuredValue[]> {
  requireStep("measureValues", step);
  requireTensors("measureValues: argument", args);
  const { values } = await valuesOfStep(step, args, { countsMagnitudes: true });
  return values.flatMap(({ node, place, isGradient, reason, nonFinite, largest, magnitudes }) => {
    if (magnitudes === null) return [];
    const [called, module] = [reason?.function ?? place.function, reason?.module ?? place.module];
    const where = { function: called, module, gradientOf: place.gradientOf, isGradient };
    return [{ op: node.op.name, dtype: node.dtype, shape: node.shape, ...where, nonFinite, largest, ...magnitudes }];
  });
}
