/** Optimizers, schedules, clipping, loss scaling: re-exports only. */
export { GradientAccumulator, type GradientAccumulatorOptions } from "./accumulate.ts";
export { Adam, type AdamOptions, AdamW, type AdamWOptions } from "./adam.ts";
export { clipByGlobalNorm, globalNorm } from "./clip.ts";
export { allFinite } from "./finite.ts";
export {
  GradScaler,
  type GradScalerOptions,
  type LossTree,
  type Scaled,
  type ScalerState,
  type StepOptions,
} from "./gradScaler.ts";
export {
  type CommonOptions,
  Optimizer,
  type ParameterGroup,
  type ParameterSource,
  type Rule,
  type Schedule,
  type Steppable,
  type UpdateArguments,
  type UpdateResult,
} from "./optimizer.ts";
export { type ReadOutcome, readOutcome, type StepOutcome } from "./outcome.ts";
export { constant, type WarmupCosineOptions, warmupCosine } from "./schedule.ts";
export { SGD, type SGDOptions } from "./sgd.ts";
