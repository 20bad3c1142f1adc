/** The public surface: re-exports only. */
export { type DeviceKind } from "./backends/backend.ts";
export { BinadeError, type ErrorCode } from "./errors.ts";
export { type DType, FORMATS } from "./formats/index.ts";
export { autocast, autocastDType } from "./precision/autocast.ts";
export { type Compiled, compile, debug } from "./tensor/compile.ts";
export { arange, fromBytes, full, ones, tensor, type TensorOptions, zeros } from "./tensor/create.ts";
export { Device } from "./tensor/device.ts";
export { defaultDevice, onNotice, useDevice } from "./tensor/devices.ts";
export {
  type AttentionOptions,
  binaryCrossEntropyWithLogits,
  concatenate,
  crossEntropy,
  type CrossEntropyOptions,
  embedding,
  layerNorm,
  linear,
  meanSquaredError,
  rmsNorm,
  scaledDotProductAttention,
  where,
} from "./tensor/functions.ts";
export { type Grads, gradients, gradientsOf, type ScaledLoss } from "./tensor/gradients.ts";
export { Tensor } from "./tensor/tensor.ts";
export { HostNumber, Variable } from "./tensor/variable.ts";
