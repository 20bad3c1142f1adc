/** Modules, layers and initial values: re-exports only. */
export type { BlockChoice } from "./blocks.ts";
export {
  BatchNorm1d,
  BatchNorm2d,
  type BatchNormLayerOptions,
  GroupNorm,
  type GroupNormOptions,
} from "./channel-norm.ts";
export {
  Conv1d,
  Conv2d,
  type ConvolutionLayerOptions,
  ConvTranspose1d,
  ConvTranspose2d,
  type TransposedConvolutionLayerOptions,
} from "./convolution.ts";
export { AmaxHistory, Fp8, type Fp8Options, fp8 } from "./fp8.ts";
export { type AttentionModuleOptions, CausalSelfAttention, GPT, type GPTOptions } from "./gpt.ts";
export {
  type Initializer,
  kaimingUniform,
  manualSeed,
  normal,
  ones,
  type Seed,
  SeedSequence,
  uniform,
  xavierUniform,
  zeros,
} from "./initializers.ts";
export {
  Dropout,
  type DropoutOptions,
  Embedding,
  type EmbeddingOptions,
  GELU,
  type Layer,
  LayerNorm,
  type LayerNormOptions,
  Linear,
  type LinearOptions,
  ReLU,
  RMSNorm,
  Sequential,
  Sigmoid,
  SiLU,
  Tanh,
} from "./layers.ts";
export { Module, type PolicyOptions } from "./module.ts";
export {
  AdaptiveAvgPool1d,
  AdaptiveAvgPool2d,
  AdaptiveMaxPool1d,
  AdaptiveMaxPool2d,
  type AveragePoolLayerOptions,
  AvgPool1d,
  AvgPool2d,
  Flatten,
  MaxPool1d,
  MaxPool2d,
  type PoolLayerOptions,
  Upsample,
} from "./pooling.ts";
export { type CellOptions, GRUCell, LSTMCell } from "./recurrent.ts";
export {
  ResidualBlock,
  type ResidualBlockOptions,
  ResNet,
  type ResNetOptions,
  resnet20,
  type Shortcut,
} from "./resnet.ts";
export { UNet, type UNetOptions } from "./unet.ts";
