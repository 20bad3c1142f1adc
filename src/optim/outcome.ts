/** What became of a step: values on the device, and their reading. */
import { requireFields } from "../precision/options.ts";
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

/** How a loss scale stood and moved in a step: tensors. */
export interface ScaleMove {
  /** float32 scalar: the scale of this step. */
  readonly lossScaleBefore: Tensor;
  /** float32 scalar: the scale of the next step; the same as before until `update` was called. */
  readonly lossScaleAfter: Tensor;
  /** The least value of the loss scale. */
  readonly lossScaleFloor: number;
  /** bool scalar: the system whose preset the scale follows would end the run here; null where it never would. */
  readonly exhausted: Tensor | null;
}

/** What one of several scalers had to do with a step. */
export interface ScalerOutcome extends ScaleMove {
  /** As the scaler was named. */
  readonly name: string;
  /** int32 scalar: the code of the reason for which what this scaler scaled made the step skip; 0 if it did not. */
  readonly verdict: Tensor;
}

/**
 * The outcome of `GradScaler.step` as tensors in a plain object, which a compiled function may return: nobody waits for it,
 * and `readOutcome` reads it when there is time. The loss scale is that of the scaler that stepped.
 */
export interface StepOutcome extends ScaleMove {
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
  /**
   * Every scaler that had a part in the gradients: those of a sum in the order of `addGradients`, then those from which they came
   * over a border (`rescale`). Empty where that is the one that stepped, alone.
   */
  readonly scalers: readonly ScalerOutcome[];
}

/** What one of several scalers had to do with a step, as plain values. */
export interface ScalerReading {
  readonly name: string;
  readonly lossScaleBefore: number;
  readonly lossScaleAfter: number;
  /** Why what this scaler scaled made the step skip; null if it did not. What only the sum of all shows is the reason of all. */
  readonly reason: SkipReason | null;
  /** Its scale could fall no further. */
  readonly atFloor: boolean;
  /** The system whose preset the scale follows would end the run here. */
  readonly exhausted: boolean;
}

/** What applied and skipped steps have in common. The loss scale is that of the scaler that stepped. */
interface AnyOutcome {
  readonly lossScaleBefore: number;
  readonly lossScaleAfter: number;
  /** One entry per scaler where several had a part in the gradients; absent otherwise. */
  readonly scalers?: readonly ScalerReading[];
}

/** The outcome as plain values. A skipped step is an expected outcome, not an error. */
export type ReadOutcome =
  | (AnyOutcome & { readonly applied: true })
  | (AnyOutcome & {
      readonly applied: false;
      readonly reason: SkipReason;
      /** Names of the parameters whose gradients made the step skip: none of a `scaleOutOfRange`, all of an `underflow`. */
      readonly parameters: readonly string[];
      /**
       * The scale could fall no further, of several that of every scaler with a reason: if this goes on, the run is stalled,
       * and scaling does not cure it.
       */
      readonly atFloor: boolean;
      /** The system whose preset the scale follows, or one of several, would end the run here (DeepSpeed, fairseq). */
      readonly exhausted: boolean;
    });

/** A skipped step, read. */
export type SkippedOutcome = Extract<ReadOutcome, { readonly applied: false }>;

const moveTensors = ({ lossScaleBefore, lossScaleAfter, exhausted }: ScaleMove): readonly Tensor[] => [
  lossScaleBefore,
  lossScaleAfter,
  ...(exhausted === null ? [] : [exhausted]),
];

/** Every tensor of an outcome. */
export const outcomeTensors = (outcome: StepOutcome): readonly Tensor[] => {
  const { applied, verdict, blame, scalers } = outcome;
  const parts = scalers.flatMap((scaler) => [scaler.verdict, ...moveTensors(scaler)]);
  return [applied, verdict, blame, ...moveTensors(outcome), ...parts];
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
  requireFields("readOutcome", outcome, ["applied", "verdict", "blame", "scalers"], "GradScaler.step");
  const { verdict, blame } = outcome;
  // At once: where nothing was compiled, reading one value overwrites the variables that the others are computed from.
  await realize(outcomeTensors(outcome).map((tensor) => tensor.node));
  const { lossScaleBefore, lossScaleAfter, atFloor, exhausted } = await readMove(outcome);
  const scalers = await Promise.all(outcome.scalers.map(readScaler));
  const common = { lossScaleBefore, lossScaleAfter, ...(scalers.length === 0 ? {} : { scalers }) };
  const reason = await readReason(verdict);
  if (reason === null) return { applied: true, ...common };
  const counts = await blame.data();
  const guilty = scalers.filter((scaler) => scaler.reason !== null);
  return {
    applied: false,
    reason,
    parameters: outcome.parameters.filter((_, i) => counts[i] !== 0),
    ...common,
    atFloor: scalers.length === 0 ? atFloor : guilty.every((scaler) => scaler.atFloor),
    exhausted: exhausted || scalers.some((scaler) => scaler.exhausted),
  };
}

const readReason = async (verdict: Tensor): Promise<SkipReason | null> =>
  SKIP_REASONS[(await verdict.item()) - 1] ?? null;

async function readMove(move: ScaleMove): Promise<Omit<ScalerReading, "name" | "reason">> {
  const lossScaleBefore = await move.lossScaleBefore.item();
  return {
    lossScaleBefore,
    lossScaleAfter: await move.lossScaleAfter.item(),
    atFloor: lossScaleBefore <= move.lossScaleFloor,
    exhausted: move.exhausted !== null && (await move.exhausted.item()) === 1,
  };
}

const readScaler = async (scaler: ScalerOutcome): Promise<ScalerReading> => ({
  name: scaler.name,
  reason: await readReason(scaler.verdict),
  ...(await readMove(scaler)),
});
