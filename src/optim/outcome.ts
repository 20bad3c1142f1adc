/** What became of a step: values on the device, and their reading. */
import { realize } from "../tensor/realize.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * Why a step was skipped. The order is that of the codes on the device, from 1:
 *
 * - `forwardOverflow`: the loss itself was not finite, which no loss scale cures.
 * - `gradientOverflow`: gradients were not finite, and the loss was; a smaller scale cures what overflowed in float16.
 * - `underflow`: every gradient was exactly 0, and the loss was not; asked for with `skipZeroGradients`.
 * - `scaleOutOfRange`: the scale, or its reciprocal, was zero, subnormal or not finite, so that nothing can be unscaled.
 * - `normAboveLimit`: the gradients were finite, and their norm above `skipNormAbove`.
 */
export const SKIP_REASONS = [
  "forwardOverflow",
  "gradientOverflow",
  "underflow",
  "scaleOutOfRange",
  "normAboveLimit",
] as const;
export type SkipReason = (typeof SKIP_REASONS)[number];

/** The code of a reason on the device; 0 is an applied step. */
export const verdictOf = (reason: SkipReason): number => SKIP_REASONS.indexOf(reason) + 1;

/**
 * The outcome of `GradScaler.step` as tensors in a plain object, which a compiled function may return: nobody waits for it,
 * and `readOutcome` reads it when there is time.
 */
export interface StepOutcome {
  /** bool scalar: the optimizer stepped. */
  readonly applied: Tensor;
  /** int32 scalar: 0 if the optimizer stepped, else 1 more than the place of the reason in `SKIP_REASONS`. */
  readonly verdict: Tensor;
  /**
   * float32, one number per entry of `parameters`, not 0 where it made the step skip: how many elements of its gradient were not
   * finite; of a norm above the limit, 1 for the largest gradient.
   */
  readonly blame: Tensor;
  /** Names of the optimizer's parameters that had a gradient. */
  readonly parameters: readonly string[];
  /** float32 scalar: the scale of this step. */
  readonly lossScaleBefore: Tensor;
  /** float32 scalar: the scale of the next step; the same as before until `update` was called. */
  readonly lossScaleAfter: Tensor;
  /** The least value of the loss scale. */
  readonly lossScaleFloor: number;
  /** bool scalar: the system whose preset the scale follows would end the run here; null where it never would. */
  readonly exhausted: Tensor | null;
}

/** The outcome as plain values. A skipped step is an expected outcome, not an error. */
export type ReadOutcome =
  | { readonly applied: true; readonly lossScaleBefore: number; readonly lossScaleAfter: number }
  | {
      readonly applied: false;
      readonly reason: SkipReason;
      /** Names of the parameters whose gradients made the step skip: none of a `scaleOutOfRange`, all of an `underflow`. */
      readonly parameters: readonly string[];
      readonly lossScaleBefore: number;
      readonly lossScaleAfter: number;
      /** The scale could fall no further: if this goes on, the run is stalled, and scaling does not cure it. */
      readonly atFloor: boolean;
      /** The system whose preset the scale follows would end the run here (DeepSpeed, fairseq). */
      readonly exhausted: boolean;
    };

/** A skipped step, read. */
export type SkippedOutcome = Extract<ReadOutcome, { readonly applied: false }>;

/** Every tensor of an outcome. */
export const outcomeTensors = (outcome: StepOutcome): readonly Tensor[] => {
  const { applied, verdict, blame, lossScaleBefore, lossScaleAfter, exhausted } = outcome;
  return [applied, verdict, blame, lossScaleBefore, lossScaleAfter, ...(exhausted === null ? [] : [exhausted])];
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
  const { verdict, blame, lossScaleBefore, lossScaleAfter, exhausted } = outcome;
  // At once: where nothing was compiled, reading one value overwrites the variables that the others are computed from.
  await realize(outcomeTensors(outcome).map((tensor) => tensor.node));
  const scales = { lossScaleBefore: await lossScaleBefore.item(), lossScaleAfter: await lossScaleAfter.item() };
  const reason = SKIP_REASONS[(await verdict.item()) - 1];
  if (reason === undefined) return { applied: true, ...scales };
  const counts = await blame.data();
  return {
    applied: false,
    reason,
    parameters: outcome.parameters.filter((_, i) => counts[i] !== 0),
    ...scales,
    atFloor: scales.lossScaleBefore <= outcome.lossScaleFloor,
    exhausted: exhausted !== null && (await exhausted.item()) === 1,
  };
}
