/** The dynamic loss scale as a state machine: pure numbers, no tensors. */
import { BinadeError } from "../errors.ts";
import { isPositive, requireInteger, requireKnownKeys, requireNumber } from "./options.ts";

/** What the scale starts from and how it moves. */
export interface LossScaleOptions {
  /** First scale, rounded to float32. Default 65536. */
  readonly initialScale?: number;
  /** Factor after `growthInterval` clean steps in a row, > 1. Default 2. */
  readonly growthFactor?: number;
  /** Factor after an overflow, between 0 and 1. Default 0.5. */
  readonly backoffFactor?: number;
  /** Clean steps in a row before the scale grows, ≥ 1. Default 2000. */
  readonly growthInterval?: number;
  /** Least scale. Default 2⁻¹⁴; none in the profile "pytorch". */
  readonly floor?: number;
  /** Greatest scale. Default 2²⁴; none in the profile "pytorch". */
  readonly ceiling?: number;
  /**
   * "binade" (default), or "pytorch": no floor and no ceiling, and growth only when the tracker meets the interval
   * exactly, so that an interval lowered below the tracker stops growth until the next overflow.
   */
  readonly profile?: "binade" | "pytorch";
}

/** The options with every default filled in. */
export type LossScaleRule = Readonly<Required<LossScaleOptions>>;

/** The scale of the next step, and the clean steps since it last changed. */
export interface LossScaleState {
  /** A float32 number. */
  readonly scale: number;
  /** From 0 to `growthInterval` − 1. */
  readonly growthTracker: number;
}

const KEYS = ["initialScale", "growthFactor", "backoffFactor", "growthInterval", "floor", "ceiling", "profile"];
/** The least normal float32: below it 1/scale, or the scale itself, is subnormal and may be flushed to zero. */
const LEAST_NORMAL = 2 ** -126;
const DEFAULT_FLOOR = 2 ** -14;
const DEFAULT_CEILING = 2 ** 24;

/**
 * Fills in defaults and checks ranges.
 *
 * @throws BinadeError `option.unknown` for another key; `option.invalid` for another profile, or a floor, first scale and
 * ceiling out of order; `value.range` for a number out of its range.
 * @example
 * lossScaleRule({ growthInterval: 500 }).ceiling; // 2 ** 24
 */
export function lossScaleRule(options: LossScaleOptions = {}): LossScaleRule {
  requireKnownKeys("loss scale", options, KEYS);
  const profile = options.profile ?? "binade";
  if (profile !== "binade" && profile !== "pytorch") {
    const got = JSON.stringify(profile satisfies never);
    throw new BinadeError("option.invalid", `loss scale: profile: expected "binade" or "pytorch", got ${got}`);
  }
  const bounded = profile === "binade";
  const rule: LossScaleRule = {
    initialScale: Math.fround(options.initialScale ?? 65536),
    growthFactor: options.growthFactor ?? 2,
    backoffFactor: options.backoffFactor ?? 0.5,
    growthInterval: options.growthInterval ?? 2000,
    floor: Math.fround(options.floor ?? (bounded ? DEFAULT_FLOOR : 0)),
    ceiling: Math.fround(options.ceiling ?? (bounded ? DEFAULT_CEILING : Number.POSITIVE_INFINITY)),
    profile,
  };
  checkRule(rule);
  return rule;
}

function checkRule({
  initialScale,
  growthFactor,
  backoffFactor,
  growthInterval,
  floor,
  ceiling,
  profile,
}: LossScaleRule): void {
  requireNumber("initialScale", initialScale, isPositive, "a number > 0 within float32");
  requireNumber("growthFactor", growthFactor, (v) => v > 1 && Number.isFinite(v), "a finite number > 1");
  requireNumber("backoffFactor", backoffFactor, (v) => v > 0 && v < 1, "a number between 0 and 1, both excluded");
  requireInteger("growthInterval", growthInterval, 1);
  if (profile === "binade") {
    requireNumber("floor", floor, (v) => v >= LEAST_NORMAL && Number.isFinite(v), "a normal float32 number > 0");
    // Above 2^126 the reciprocal is subnormal, and hardware that flushes subnormals would zero every gradient.
    requireNumber("ceiling", ceiling, (v) => v > 0 && v <= 1 / LEAST_NORMAL, "a number > 0 and at most 2^126");
  }
  if (floor > initialScale || initialScale > ceiling) {
    const sentence = `loss scale: expected floor ≤ initialScale ≤ ceiling, got ${floor}, ${initialScale}, ${ceiling}`;
    throw new BinadeError("option.invalid", `${sentence}; change one of them`);
  }
}

/** The state before the first step: the first scale, and no clean steps. */
export const initialLossScale = ({ initialScale }: LossScaleRule): LossScaleState => ({
  scale: initialScale,
  growthTracker: 0,
});

/**
 * The state after a step whose gradients were all finite, or not:
 *
 *     not finite:  scale ← max(scale · backoffFactor, floor);  tracker ← 0
 *     finite:      tracker + 1 reaches growthInterval?
 *        yes:      grown = min(scale · growthFactor, ceiling);  scale ← grown if finite;  tracker ← 0
 *        no:       tracker ← tracker + 1
 *
 * Products are formed in float64 and rounded to float32 once. "Reaches" is ≥ in the profile "binade" and = in "pytorch".
 * Source: PyTorch, torch/amp/grad_scaler.py and the kernel that updates the scale; floor and ceiling are added here.
 *
 * @example
 * nextLossScale({ scale: 4, growthTracker: 1 }, lossScaleRule({ growthInterval: 2 }), true); // { scale: 8, growthTracker: 0 }
 */
export function nextLossScale(state: LossScaleState, rule: LossScaleRule, finite: boolean): LossScaleState {
  const { scale, growthTracker } = state;
  if (!finite) return { scale: Math.max(Math.fround(scale * rule.backoffFactor), rule.floor), growthTracker: 0 };
  const clean = growthTracker + 1;
  const reaches = rule.profile === "pytorch" ? clean === rule.growthInterval : clean >= rule.growthInterval;
  if (!reaches) return { scale, growthTracker: clean };
  const grown = Math.min(Math.fround(scale * rule.growthFactor), rule.ceiling);
  return { scale: Number.isFinite(grown) ? grown : scale, growthTracker: 0 };
}

/** Whether the scale can fall no further: overflows from here on are not cured by scaling. */
export const isAtFloor = ({ scale }: LossScaleState, { floor }: LossScaleRule): boolean => scale <= floor;
