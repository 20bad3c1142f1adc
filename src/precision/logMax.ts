/** A loss scale that follows the distribution of gradients: their largest magnitude, a quantile of it, and what overflowed. */
import { BinadeError } from "../errors.ts";
import {
  isNonNegative,
  isPositive,
  requireInteger,
  requireKnownKeys,
  requireNumber,
  withoutUndefined,
} from "./options.ts";
import {
  type Arithmetic,
  fieldOf,
  type MachineState,
  type Moved,
  type ScaleMachine,
  type Seen,
  type Where,
} from "./scaleMachine.ts";

export interface LogMaxOptions {
  /** First scale, a power of two. Default 65536. */
  readonly initialScale?: number;
  /** Decay of the mean of log₂ of the largest gradient, from 0 to below 1. Default 0.99. */
  readonly meanDecay?: number;
  /** Decay of its variance, from 0 to below 1. Default 0.999. */
  readonly varianceDecay?: number;
  /** Standard deviations above the mean that must still fit, ≥ 0. Default 3.09: 99.9 % of a normal distribution. */
  readonly deviations?: number;
  /** Binades between there and 2¹⁶, where float16 ends, ≥ 0. Default 1. */
  readonly headroom?: number;
  /** Clean steps after which one binade that an overflow cost is tried again, ≥ 1. Default 2000. */
  readonly recoveryInterval?: number;
  /** Least scale, a power of two. Default 2⁻¹⁴. */
  readonly floor?: number;
  /** Greatest scale, a power of two. Default 2²⁴. */
  readonly ceiling?: number;
}

/** The options with every default filled in. */
export type LogMaxRule = Readonly<Required<LogMaxOptions>>;

const DEFAULTS: LogMaxRule = {
  initialScale: 2 ** 16,
  meanDecay: 0.99,
  varianceDecay: 0.999,
  deviations: 3.09,
  headroom: 1,
  recoveryInterval: 2000,
  floor: 2 ** -14,
  ceiling: 2 ** 24,
};
/** float16 overflows at 65520, which is 2¹⁶ but for a rounding. */
const FLOAT16_EXPONENT = 16;
const LEAST_NORMAL = 2 ** -126;

/**
 * Fills in defaults and checks ranges.
 *
 * @throws BinadeError `option.unknown`, `option.invalid` (bounds out of order, or no powers of two) or `value.range`.
 * @example
 * logMaxRule({ deviations: 2 }).headroom; // 1
 */
export function logMaxRule(options: LogMaxOptions = {}): LogMaxRule {
  requireKnownKeys("logMax", options, Object.keys(DEFAULTS));
  const rule: LogMaxRule = { ...DEFAULTS, ...withoutUndefined(options) };
  const isDecay = (value: number): boolean => value >= 0 && value < 1;
  for (const key of ["meanDecay", "varianceDecay"] as const)
    requireNumber(`logMax: ${key}`, rule[key], isDecay, "a number from 0 to below 1");
  for (const key of ["deviations", "headroom"] as const)
    requireNumber(`logMax: ${key}`, rule[key], isNonNegative, "a finite number ≥ 0");
  requireInteger("logMax: recoveryInterval", rule.recoveryInterval, 1);
  for (const key of ["floor", "initialScale", "ceiling"] as const) {
    requireNumber(`logMax: ${key}`, rule[key], isPositive, "a finite number > 0");
    if (Number.isInteger(Math.log2(rule[key])) && rule[key] >= LEAST_NORMAL && rule[key] <= 1 / LEAST_NORMAL) continue;
    const sentence = `logMax: ${key}: expected a power of two from 2^-126 to 2^126, got ${rule[key]}`;
    throw new BinadeError("option.invalid", `${sentence}; only those scale without rounding`);
  }
  const { floor, initialScale, ceiling } = rule;
  if (floor > initialScale || initialScale > ceiling) {
    const sentence = `logMax: expected floor ≤ initialScale ≤ ceiling, got ${floor}, ${initialScale}, ${ceiling}`;
    throw new BinadeError("option.invalid", `${sentence}; change one of them`);
  }
  return rule;
}

/**
 * The machine of a rule. With x = log₂ of the largest unscaled gradient of a clean step (of a step whose gradients are all zero
 * nothing is learnt), and bias-corrected exponential means of x and of its squared deviation:
 *
 *     clean:     target = 2 ^ ⌊16 − headroom − penalty − (μ + deviations · σ)⌋
 *                scale  ← target, at most doubled, within the bounds
 *     overflow:  scale ← max(scale / 2, floor);  penalty ← penalty + 1 if the scale was at most the target
 *     `recoveryInterval` clean steps in a row:  penalty ← max(penalty − 1, 0)
 *
 * The penalty learns what the gradients of weights do not show: how much larger the 16-bit gradients of activations are. The
 * scale is always a power of two, so that unscaling is exact. Source of the idea: OpenSeq2Seq, automatic_loss_scaler.py
 * (whose substitute for an overflow's maximum enters as 2^x where x is meant); penalty and rate limit are added here.
 */
export function logMaxMachine(rule: LogMaxRule): ScaleMachine {
  const float = (name: string, initial: number) => ({ name, dtype: "float32", initial }) as const;
  const int = (name: string) => ({ name, dtype: "int32", initial: 0 }) as const;
  return {
    fields: [
      float("scale", rule.initialScale),
      int("growthTracker"),
      int("penalty"),
      float("mean", 0),
      float("slowMean", 0),
      float("variance", 0),
      // What is left of the weight of "nothing seen yet": decay^n.
      float("meanBias", 1),
      float("varianceBias", 1),
    ],
    floor: rule.floor,
    ceiling: rule.ceiling,
    readsLargest: true,
    next: (state, seen, where) => nextLogMax(rule, state, seen, where),
  };
}

function nextLogMax<T extends Arithmetic<T>>(
  rule: LogMaxRule,
  state: MachineState<T>,
  { finite, largest }: Seen<T>,
  where: Where<T>,
): Moved<T> {
  if (largest === undefined) throw new TypeError("logMax: the largest gradient was not measured");
  const scale = fieldOf(state, "scale");
  const learns = finite.and(largest.greater(0));
  // Of a step that teaches nothing, log must still be finite: a NaN would pass through products.
  const moments = learn(rule, state, where(learns, largest, 1).log().mul(Math.LOG2E));
  const kept = Object.fromEntries(
    Object.entries(moments).map(([name, value]) => [name, where(learns, value, fieldOf(state, name))]),
  );
  const target = targetOf(rule, kept, fieldOf(state, "penalty"));
  const isKnown = fieldOf(state, "meanBias").less(1);
  const counters = countPenalty(rule, state, { finite, isSurprise: isKnown.and(scale.lessEqual(target)) }, where);
  const { floor, ceiling } = rule;
  const clean = where(learns, target.minimum(scale.mul(2).minimum(ceiling)), scale);
  return {
    state: { scale: where(finite, clean, scale.mul(0.5).maximum(floor)), ...counters, ...kept },
    exhausted: null,
  };
}

/** The largest power of two that keeps the quantile below float16's end, within the bounds. */
function targetOf<T extends Arithmetic<T>>(rule: LogMaxRule, moments: MachineState<T>, penalty: T): T {
  const { floor, ceiling, headroom, deviations } = rule;
  const quantile = fieldOf(moments, "mean").add(fieldOf(moments, "variance").sqrt().mul(deviations));
  const exponent = quantile
    .add(penalty.cast("float32"))
    .mul(-1)
    .add(FLOAT16_EXPONENT - headroom)
    .floor();
  return powerOfTwo(exponent.maximum(Math.log2(floor)).minimum(Math.log2(ceiling)));
}

/** An overflow at a scale that the distribution promised to fit costs a binade; one on the way down from a first guess does not. */
function countPenalty<T extends Arithmetic<T>>(
  { recoveryInterval }: LogMaxRule,
  state: MachineState<T>,
  { finite, isSurprise }: { readonly finite: T; readonly isSurprise: T },
  where: Where<T>,
): { readonly growthTracker: T; readonly penalty: T } {
  const [clean, before] = [fieldOf(state, "growthTracker").add(1), fieldOf(state, "penalty")];
  const recovers = clean.greaterEqual(recoveryInterval);
  const afterOverflow = where(isSurprise, before.add(1), before);
  return {
    growthTracker: where(finite.and(recovers.not()), clean, 0),
    penalty: where(finite, where(recovers, before.sub(1).maximum(0), before), afterOverflow),
  };
}

/**
 * Exponential means with the gain (1 − β) / (1 − βⁿ), which is the bias-corrected mean written as a recursion: the first
 * observation counts whole. The variance is that of deviations from the mean before, after Welford: a difference of two means
 * of squares would cancel.
 */
function learn<T extends Arithmetic<T>>({ meanDecay, varianceDecay }: LogMaxRule, state: MachineState<T>, x: T) {
  const [mean, slowMean, variance] = [fieldOf(state, "mean"), fieldOf(state, "slowMean"), fieldOf(state, "variance")];
  // float32 holds both decays and their complements, so that the first gain is exactly 1.
  const [fastDecay, slowDecay] = [Math.fround(meanDecay), Math.fround(varianceDecay)];
  const meanBias = fieldOf(state, "meanBias").mul(fastDecay);
  const varianceBias = fieldOf(state, "varianceBias").mul(slowDecay);
  const fast = x
    .sub(mean)
    .mul(1 - fastDecay)
    .div(meanBias.mul(-1).add(1));
  const share = varianceBias.mul(-1).add(1);
  const deviation = x.sub(slowMean);
  const step = deviation.mul(1 - slowDecay).div(share);
  const rest = share.sub(1 - slowDecay).div(share);
  return {
    mean: mean.add(fast),
    slowMean: slowMean.add(step),
    variance: variance.add(step.mul(deviation)).mul(rest),
    meanBias,
    varianceBias,
  };
}

/** 2^k for an integer k from −126 to 126, exactly: as a product of two halves, which the splitting below holds. */
function powerOfTwo<T extends Arithmetic<T>>(k: T): T {
  const half = k.mul(0.5).floor();
  return smallPowerOfTwo(half).mul(smallPowerOfTwo(k.sub(half)));
}

/**
 * 2^k for an integer k from −126 to 100, exactly: the exponential is a few ulps off, and Veltkamp's splitting keeps one
 * significant bit of it. Source: T. J. Dekker, Numerische Mathematik 18 (1971), 224–242.
 */
function smallPowerOfTwo<T extends Arithmetic<T>>(k: T): T {
  const near = k.mul(Math.LN2).exp();
  const wide = near.mul(2 ** 23 + 1);
  return wide.sub(wide.sub(near));
}
