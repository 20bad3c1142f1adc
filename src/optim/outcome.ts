/** What became of a step: values on the device, and their reading. */
import { realize } from "../tensor/realize.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * The outcome of `GradScaler.step` as tensors in a plain object, which a compiled function may return: nobody waits for it,
 * and `readOutcome` reads it when there is time.
 */
export interface StepOutcome {
  /** bool scalar: all gradients were finite and the optimizer stepped. */
  readonly applied: Tensor;
  /** bool scalar: the loss given to `scale` was finite before scaling; true if none was. */
  readonly lossFinite: Tensor;
  /** float32, one number per entry of `parameters`: how many elements of its gradient were not finite. */
  readonly nonFinite: Tensor;
  /** Names of the optimizer's parameters that had a gradient. */
  readonly parameters: readonly string[];
  /** float32 scalar: the scale of this step. */
  readonly lossScaleBefore: Tensor;
  /** float32 scalar: the scale of the next step; the same as before until `update` was called. */
  readonly lossScaleAfter: Tensor;
  /** The least value of the loss scale. */
  readonly lossScaleFloor: number;
}

/** The outcome as plain values. A skipped step is an expected outcome, not an error. */
export type ReadOutcome =
  | { readonly applied: true; readonly lossScaleBefore: number; readonly lossScaleAfter: number }
  | {
      readonly applied: false;
      /** `forwardOverflow`: the loss itself was not finite, which no loss scale cures. */
      readonly reason: "gradientOverflow" | "forwardOverflow";
      /** Names of the parameters whose gradients were not finite. */
      readonly parameters: readonly string[];
      readonly lossScaleBefore: number;
      readonly lossScaleAfter: number;
      /** The scale could fall no further: if this goes on, the run is stalled, and scaling does not cure it. */
      readonly atFloor: boolean;
    };

/**
 * Reads an outcome.
 *
 * @example
 * const { outcome } = await step(tokens, targets);
 * const read = await readOutcome(outcome);
 * if (!read.applied) console.warn(`skipped: ${read.reason} in ${read.parameters.join(", ")}`);
 */
export async function readOutcome(outcome: StepOutcome): Promise<ReadOutcome> {
  const { applied, lossFinite, nonFinite, lossScaleBefore, lossScaleAfter } = outcome;
  // At once: where nothing was compiled, reading one value overwrites the variables that the others are computed from.
  await realize([applied, lossFinite, nonFinite, lossScaleBefore, lossScaleAfter].map((tensor) => tensor.node));
  const scales = { lossScaleBefore: await lossScaleBefore.item(), lossScaleAfter: await lossScaleAfter.item() };
  if ((await applied.item()) === 1) return { applied: true, ...scales };
  const counts = await nonFinite.data();
  return {
    applied: false,
    reason: (await lossFinite.item()) === 1 ? "gradientOverflow" : "forwardOverflow",
    parameters: outcome.parameters.filter((_, i) => counts[i] !== 0),
    ...scales,
    atFloor: scales.lossScaleBefore <= outcome.lossScaleFloor,
  };
}
