/** Optimizers, schedules, clipping, loss scaling: re-exports only. */

export { allFinite } from "../tensor/finite.ts";
export { GradientAccumulator, type GradientAccumulatorOptions } from "./accumulate.ts";
export { Adafactor, type AdafactorOptions } from "./adafactor.ts";
export { Adam, type AdamOptions, AdamW, type AdamWOptions } from "./adam.ts";
export type { LossTree, Scaled, StepOptions } from "./arguments.ts";
export { WeightAverage, type WeightAverageOptions } from "./average.ts";
export { clipByGlobalNorm, globalNorm } from "./clip.ts";
export { GradScaler } from "./gradScaler.ts";
export { Lion, type LionOptions } from "./lion.ts";
export {
  type MeterReading,
  type Meters,
  meterUpdates,
  meterValues,
  readMeters,
  readUpdateMeters,
  type UpdateMeters,
  type UpdateReading,
} from "./meters.ts";
export { Muon, type MuonOptions } from "./muon.ts";
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
export {
  type ReadOutcome,
  readOutcome,
  type ScalerOutcome,
  type ScalerReading,
  SKIP_REASONS,
  type SkippedOutcome,
  type SkipReason,
  type StepOutcome,
} from "./outcome.ts";
export { type ProbedStep, type ProbeOptions, probeLossScale } from "./probe.ts";
export type { GradScalerOptions, LogMaxState, SavedScaler, ScalerState } from "./scaleSource.ts";
export { constant, type WarmupCosineOptions, warmupCosine } from "./schedule.ts";
export { SGD, type SGDOptions } from "./sgd.ts";
export { type Stall, StallDetector, type StallOptions } from "./stall.ts";
export type { StateDType, StateSlot } from "./states.ts";
export type { MasterWeights } from "./weights.ts";
