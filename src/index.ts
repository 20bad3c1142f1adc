/** The public surface: re-exports only. */
export type { DeviceKind } from "./backends/backend.ts";
export type { AliveValues, ArenaCategory, MemoryPlan, ResidentCategory } from "./compile/plan.ts";
export { BinadeError, type ErrorCode } from "./errors.ts";
export { type DType, FORMATS } from "./formats/index.ts";
export * as nn from "./nn/index.ts";
export * as optim from "./optim/index.ts";
export {
  allFinite,
  clipByGlobalNorm,
  GradScaler,
  type GradScalerOptions,
  globalNorm,
  type ReadOutcome,
  readOutcome,
  type SkipReason,
  type StepOutcome,
} from "./optim/index.ts";
export {
  type AutocastDecision,
  type AutocastOptions,
  autocast,
  autocastDType,
  type CastReason,
  type Synchronous,
} from "./precision/autocast.ts";
export {
  amaxOf,
  blockScale,
  currentScale,
  type DelayedState,
  decodeE8M0,
  encodeE8M0,
  initialDelayedState,
  nextDelayedState,
  quantizeByBlock,
  quantizeByTensor,
} from "./precision/fp8.ts";
export {
  type BlockExponent,
  type BlockScaling,
  type CurrentScaling,
  type DelayedScaling,
  type Float8DType,
  type Fp8Formats,
  type Fp8Recipe,
  type Fp8RecipeOptions,
  type Fp8Role,
  type Fp8Scaling,
  fp8Recipe,
} from "./precision/fp8-recipe.ts";
export { type LogMaxOptions, logMaxRule } from "./precision/logMax.ts";
export {
  initialLossScale,
  isAtFloor,
  type LossScaleMove,
  type LossScaleOptions,
  type LossScaleState,
  lossScaleRule,
  moveLossScale,
  nextLossScale,
} from "./precision/lossScale.ts";
export { formatPolicy, type Policy, parsePolicy } from "./precision/policy.ts";
export type { AutocastClass, AutocastRule } from "./precision/rules.ts";
export { type CheckedValues, type LossScaleRule, SCALE_PRESETS, type ScalePreset } from "./precision/scalePresets.ts";
export { type CheckpointOptions, checkpoint } from "./tensor/checkpoint.ts";
export { type Compiled, type CompileOptions, compile, debug } from "./tensor/compile.ts";
export {
  type ConvolutionOptions,
  conv1d,
  conv2d,
  convTranspose1d,
  convTranspose2d,
  type PerAxis,
  type TransposedConvolutionOptions,
} from "./tensor/convolution.ts";
export { arange, fromBytes, full, ones, type TensorOptions, tensor, zeros } from "./tensor/create.ts";
export { type BackwardArguments, defineOp, type OpDefinition } from "./tensor/custom.ts";
export { Device } from "./tensor/device.ts";
export { defaultDevice, onNotice, useDevice } from "./tensor/devices.ts";
export { type DecidedOps, type DryRun, dryRun, type EstimatedError, formatDryRun } from "./tensor/dry-run.ts";
export { describeCast, type ExplainedCast, explain, explainDType } from "./tensor/explain.ts";
export {
  type AttentionOptions,
  binaryCrossEntropy,
  binaryCrossEntropyWithLogits,
  type CrossEntropyOptions,
  concatenate,
  crossEntropy,
  embedding,
  layerNorm,
  linear,
  meanSquaredError,
  rmsNorm,
  scaledDotProductAttention,
  where,
} from "./tensor/functions.ts";
export {
  addGradients,
  type Grads,
  gradients,
  gradientsFrom,
  gradientsOf,
  mapGradients,
  type Parameters,
  type ScaledLoss,
} from "./tensor/gradients.ts";
export { type MeasuredValue, measureValues } from "./tensor/measure-values.ts";
export { MemoryError, type MemoryFacts } from "./tensor/memory-error.ts";
export { type BatchNormOptions, batchNorm, groupNorm, type RunningStatistics } from "./tensor/normalization.ts";
export {
  explainOverflow,
  formatOverflow,
  type OverflowCure,
  type OverflowOperand,
  type OverflowReport,
} from "./tensor/overflow.ts";
export { formatMemoryPlan } from "./tensor/plan.ts";
export { type RuleSearch, type RuleSearchOptions, searchRules } from "./tensor/policy-search.ts";
export {
  type AveragePoolOptions,
  adaptiveAvgPool1d,
  adaptiveAvgPool2d,
  adaptiveMaxPool1d,
  adaptiveMaxPool2d,
  avgPool1d,
  avgPool2d,
  flatten,
  type MaxPoolOptions,
  maxPool1d,
  maxPool2d,
  type PoolOptions,
  type UpsampleOptions,
  upsample,
} from "./tensor/pooling.ts";
export { RandomStream } from "./tensor/random.ts";
export { type CellParameters, gruCell, type LstmState, lstmCell } from "./tensor/recurrent.ts";
export { Tensor } from "./tensor/tensor.ts";
export { castTree, selectTree } from "./tensor/tree.ts";
export { HostNumber, Variable } from "./tensor/variable.ts";
