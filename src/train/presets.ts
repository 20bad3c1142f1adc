/** Named sizes of what `binade train` trains. */

/** Dimensions of a GPT and of its batches. */
export interface Preset {
  readonly layers: number;
  readonly heads: number;
  /** Features per token; divisible by heads. */
  readonly width: number;
  /** Tokens that the model sees at once. */
  readonly context: number;
  /** Windows per step. */
  readonly batch: number;
  /** Steps of a default run. */
  readonly steps: number;
  /** Peak learning rate of a default run. */
  readonly learningRate: number;
}

/** `s`: 0.8 million parameters, a minute on two cores; `m`: 10.8 million. */
export const PRESETS = {
  s: { layers: 4, heads: 4, width: 128, context: 64, batch: 12, steps: 2000, learningRate: 2e-3 },
  m: { layers: 6, heads: 6, width: 384, context: 256, batch: 8, steps: 2000, learningRate: 1e-3 },
} as const satisfies Readonly<Record<string, Preset>>;

export type PresetName = keyof typeof PRESETS;

/** Depth of a residual network, and its batches. */
export interface ResNetPreset {
  /** Layers with weights, 6 n + 2. */
  readonly depth: number;
  /** Pictures per step. */
  readonly batch: number;
  readonly steps: number;
  /** Peak learning rate of a default run. */
  readonly learningRate: number;
}

/** `s`: 0.3 million parameters; `m`: 0.5 million and eight times as many pictures. */
export const RESNET_PRESETS = {
  s: { depth: 20, batch: 64, steps: 1200, learningRate: 0.05 },
  m: { depth: 32, batch: 128, steps: 4000, learningRate: 0.1 },
} as const satisfies Readonly<Record<string, ResNetPreset>>;

/** The precisions of a run: what the matrix products see. Gradients are float32 in all of them, and weights and moments unless asked otherwise. */
export const PRECISIONS = ["fp32", "bf16-mixed", "fp16-mixed"] as const;
export type Precision = (typeof PRECISIONS)[number];
