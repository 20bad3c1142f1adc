/** Loss scales of other systems as rows of one table: what differs between them is a column, never a name. */

/** When the count of clean steps makes the scale grow: it meets the interval, has reached it, or is a multiple of it. */
export type Reaches = "equal" | "atLeast" | "multiple";

/**
 * What a step's finite check looks at: the scaled gradients, the unscaled ones, both (one look at the unscaled ones finds what
 * either shows while the scale is usable), or the norm of all scaled ones, whose sum of squares may overflow by itself.
 */
export type CheckedValues = "scaled" | "unscaled" | "both" | "norm";

/** Where a scale starts and how it moves: every column of a preset. */
export interface LossScaleRule {
  /** First scale, rounded to float32. */
  readonly initialScale: number;
  /** Factor after `growthInterval` clean steps in a row. */
  readonly growthFactor: number;
  /** Factor after an overflow; null divides by `growthFactor`. */
  readonly backoffFactor: number | null;
  /** Clean steps in a row before the scale grows. */
  readonly growthInterval: number;
  /** Least scale; 0 for none. */
  readonly floor: number;
  /** Greatest scale; infinite for none. */
  readonly ceiling: number;
  readonly reaches: Reaches;
  /** Clean steps that do not count: after an overflow the scale grows after `growthInterval` + `lag` of them. */
  readonly lag: 0 | 1;
  /** The count is kept modulo the interval, also where the interval was lowered below it. */
  readonly wraps: boolean;
  /** A growth that leaves float32 is not made. */
  readonly guardsGrowth: boolean;
  /** Overflows until the scale backs off: 1 at once, 2 tolerates one. */
  readonly hysteresis: number;
  /** When the tolerance is whole again: with the next growth, or with the next clean step. */
  readonly refill: "growth" | "clean";
  /** Least share of overflows among the steps since the scale last changed that makes it back off. */
  readonly tolerance: number;
  /** An overflow for which the scale cannot fall: it holds, or the run is over (where the scale was there already, or where it would arrive). */
  readonly exhaustion: "hold" | "failAtFloor" | "failToFloor";
  /** Factors are rounded to float32 before they are used. */
  readonly singleFactors: boolean;
  /** Bounds must keep the scale and its reciprocal normal float32 numbers. */
  readonly staysNormal: boolean;
  readonly checks: CheckedValues;
}

const INFINITE = Number.POSITIVE_INFINITY;
const FLOAT32_MAX = (2 - 2 ** -23) * 2 ** 127;

/** PyTorch's, which the others are written as differences to. */
const PYTORCH: LossScaleRule = {
  initialScale: 2 ** 16,
  growthFactor: 2,
  backoffFactor: 0.5,
  growthInterval: 2000,
  floor: 0,
  ceiling: INFINITE,
  reaches: "equal",
  lag: 0,
  wraps: false,
  guardsGrowth: true,
  hysteresis: 1,
  refill: "growth",
  tolerance: 0,
  exhaustion: "hold",
  singleFactors: false,
  staysNormal: false,
  checks: "scaled",
};

/** Source: DeepSpeed, runtime/fp16/loss_scaler.py; the window starts one step late, and its multiples count from there. */
const DEEPSPEED: LossScaleRule = {
  ...PYTORCH,
  growthInterval: 1000,
  floor: 1,
  reaches: "multiple",
  lag: 1,
  guardsGrowth: false,
  hysteresis: 2,
  exhaustion: "failAtFloor",
  checks: "norm",
};

/** Rules by name, each with its system's defaults. */
export const SCALE_PRESETS = {
  /** Binade's own: PyTorch's numbers between bounds that keep the reciprocal normal; ≥, so that lowering the interval never stops growth. */
  binade: { ...PYTORCH, floor: 2 ** -14, ceiling: 2 ** 24, reaches: "atLeast", staysNormal: true, checks: "both" },
  /** Source: PyTorch, torch/amp/grad_scaler.py and the kernel that updates the scale. */
  pytorch: PYTORCH,
  /** Source: Keras 3, keras/src/optimizers/loss_scale_optimizer.py. */
  keras: { ...PYTORCH, initialScale: 2 ** 15, guardsGrowth: false },
  /** Source: tf-keras, tf_keras/mixed_precision/loss_scale_optimizer.py. */
  "tf-keras": {
    ...PYTORCH,
    initialScale: 2 ** 15,
    backoffFactor: null,
    floor: 1,
    reaches: "atLeast",
    singleFactors: true,
    checks: "unscaled",
  },
  /** Source: jmp, jmp/_src/loss_scale.py; its documentation starts at 2^15. */
  jmp: {
    ...PYTORCH,
    initialScale: 2 ** 15,
    backoffFactor: null,
    floor: 1,
    wraps: true,
    singleFactors: true,
    checks: "unscaled",
  },
  /** Source: Flax, flax/training/dynamic_scale.py; growth takes one clean step more than its interval. */
  flax: {
    ...PYTORCH,
    floor: 2 ** -126,
    ceiling: FLOAT32_MAX,
    lag: 1,
    singleFactors: true,
    checks: "unscaled",
  },
  /** Source: Apex, apex/amp/scaler.py as of its removal in 2025. */
  apex: { ...PYTORCH, ceiling: 2 ** 24, guardsGrowth: false },
  /** Source: Apex, csrc/update_scale_hysteresis.cu. */
  "apex-hysteresis": { ...PYTORCH, hysteresis: 2, refill: "clean" },
  /** Source: Megatron-LM, megatron/core/optimizer/grad_scaler.py, with the defaults of its arguments. */
  megatron: {
    ...PYTORCH,
    initialScale: 2 ** 32,
    growthInterval: 1000,
    floor: 1,
    guardsGrowth: false,
    hysteresis: 2,
    singleFactors: true,
  },
  deepspeed: DEEPSPEED,
  /** Source: DeepSpeed, runtime/fp16/fused_optimizer.py: without ZeRO the hysteresis is ignored and the run goes on at the floor. */
  "deepspeed-zero0": { ...DEEPSPEED, hysteresis: 1, exhaustion: "hold" },
  /** Source: fairseq, fairseq/optim/dynamic_loss_scaler.py, with the defaults of the class. */
  fairseq: {
    ...PYTORCH,
    initialScale: 2 ** 15,
    backoffFactor: null,
    floor: 1e-4,
    reaches: "multiple",
    guardsGrowth: false,
    exhaustion: "failToFloor",
    checks: "norm",
  },
} as const satisfies Readonly<Record<string, LossScaleRule>>;

export type ScalePreset = keyof typeof SCALE_PRESETS;
