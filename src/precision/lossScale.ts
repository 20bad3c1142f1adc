/** The dynamic loss scale as a state machine: rules, their checks, and the transition that counts clean steps. */
import { BinadeError, showValue } from "../errors.ts";
import {
  isPositive,
  requireChoice,
  requireFields,
  requireInteger,
  requireKnownKeys,
  requireNumber,
  withoutUndefined,
} from "./options.ts";
import {
  type Arithmetic,
  fieldOf,
  initialState,
  type MachineState,
  type Moved,
  moveNumbers,
  type ScaleMachine,
  type Seen,
  type StateField,
  type Where,
} from "./scaleMachine.ts";
import { type CheckedValues, type LossScaleRule, SCALE_PRESETS, type ScalePreset } from "./scalePresets.ts";

/** What the scale starts from and how it moves. */
export interface LossScaleOptions {
  /**
   * The system whose scale this is, with its defaults and its off-by-ones; the other options change single columns. Default
   * "binade". docs/mixed-precision.md lists them.
   */
  readonly preset?: ScalePreset;
  /** First scale, rounded to float32. Default 65536. */
  readonly initialScale?: number;
  /** Factor after `growthInterval` clean steps in a row, > 1. Default 2. */
  readonly growthFactor?: number;
  /** Factor after an overflow, between 0 and 1. Default 0.5. */
  readonly backoffFactor?: number;
  /** Clean steps in a row before the scale grows, ≥ 1. Default 2000. */
  readonly growthInterval?: number;
  /** Least scale. Default 2⁻¹⁴; presets have their own, or none. */
  readonly floor?: number;
  /** Greatest scale. Default 2²⁴; presets have their own, or none. */
  readonly ceiling?: number;
  /** Overflows until the scale backs off, ≥ 1: 2 tolerates one. Default 1. */
  readonly hysteresis?: number;
  /** When the tolerated overflows count anew: after "growth" (Megatron) or after any "clean" step (Apex). Default "growth". */
  readonly refill?: "growth" | "clean";
  /** The scale backs off only if at least this share of the steps since it last changed overflowed, from 0 to 1. Default 0. */
  readonly tolerance?: number;
  /** What the finite check of `GradScaler` looks at. Default "both". */
  readonly checks?: CheckedValues;
}

/** The scale of the next step, and what decides how it moves on. All of them are saved. */
export type LossScaleState = {
  /** A float32 number. */
  readonly scale: number;
  /** Clean steps since the scale last changed, or since an overflow. */
  readonly growthTracker: number;
  /** Overflows that are still tolerated, this many less one; only of rules with hysteresis above 1. */
  readonly hysteresis?: number;
  /** Overflows since the scale last fell; only of rules with a tolerance. */
  readonly overflows?: number;
  /** Steps since the scale last changed; only of rules with a tolerance. */
  readonly sinceChange?: number;
};

const KEYS: readonly (keyof LossScaleOptions)[] = [
  "preset",
  "initialScale",
  "growthFactor",
  "backoffFactor",
  "growthInterval",
  "floor",
  "ceiling",
  "hysteresis",
  "refill",
  "tolerance",
  "checks",
];
/** The least normal float32: below it 1/scale, or the scale itself, is subnormal and may be flushed to zero. */
const LEAST_NORMAL = 2 ** -126;
/** Quotients of smaller integers are exact enough in float32 to find multiples. */
const INTEGER_LIMIT = 2 ** 23;

/**
 * Fills in the preset's columns and checks ranges.
 *
 * @throws BinadeError `option.unknown` for another key; `option.invalid` for another preset, or a floor, first scale and
 * ceiling out of order; `value.range` for a number out of its range.
 * @example
 * lossScaleRule({ growthInterval: 500 }).ceiling; // 2 ** 24
 * lossScaleRule({ preset: "megatron" }).hysteresis; // 2
 */
export function lossScaleRule(options: LossScaleOptions = {}): LossScaleRule {
  requireKnownKeys("loss scale", options, KEYS);
  const { preset = "binade", ...own } = options;
  requireOneOf("preset", preset, Object.keys(SCALE_PRESETS));
  const rule: LossScaleRule = { ...SCALE_PRESETS[preset], ...withoutUndefined(own) };
  // What is no number stays as it is, and is refused: Math.fround makes 1 of true.
  const single = (value: number): number => (typeof value === "number" ? Math.fround(value) : value);
  const factor = (value: number): number => (rule.singleFactors ? single(value) : value);
  const rounded: LossScaleRule = {
    ...rule,
    initialScale: single(rule.initialScale),
    growthFactor: factor(rule.growthFactor),
    backoffFactor: rule.backoffFactor === null ? null : factor(rule.backoffFactor),
    floor: single(rule.floor),
    ceiling: single(rule.ceiling),
  };
  checkRule(rounded);
  return rounded;
}

function requireOneOf(name: string, value: string, choices: readonly string[]): void {
  if (choices.includes(value)) return;
  const sentence = `loss scale: ${name}: expected one of ${choices.join(", ")}, got ${showValue(value)}`;
  throw new BinadeError("option.invalid", `${sentence}; choose one of them`);
}

function checkRule(rule: LossScaleRule): void {
  const { initialScale, growthFactor, backoffFactor, growthInterval, floor, ceiling } = rule;
  requireNumber("initialScale", initialScale, isPositive, "a number > 0 within float32");
  requireNumber("growthFactor", growthFactor, (v) => v > 1 && Number.isFinite(v), "a finite number > 1");
  if (backoffFactor !== null)
    requireNumber("backoffFactor", backoffFactor, (v) => v > 0 && v < 1, "a number between 0 and 1, both excluded");
  requireInteger("growthInterval", growthInterval, 1);
  if (rule.reaches === "multiple" || rule.wraps)
    requireNumber("growthInterval", growthInterval, (v) => v < INTEGER_LIMIT, "an integer below 2^23 in this preset");
  requireInteger("hysteresis", rule.hysteresis, 1);
  requireNumber("tolerance", rule.tolerance, (v) => v >= 0 && v <= 1, "a number from 0 to 1");
  requireOneOf("refill", rule.refill, ["growth", "clean"]);
  requireOneOf("checks", rule.checks, ["scaled", "unscaled", "both", "norm"]);
  requireNumber("floor", floor, (v) => v >= 0 && Number.isFinite(v), "a finite number ≥ 0");
  requireNumber("ceiling", ceiling, (v) => v > 0, "a number > 0");
  if (rule.staysNormal) {
    requireNumber("floor", floor, (v) => v >= LEAST_NORMAL, "a normal float32 number > 0");
    // Above 2^126 the reciprocal is subnormal, and hardware that flushes subnormals would zero every gradient.
    requireNumber("ceiling", ceiling, (v) => v <= 1 / LEAST_NORMAL, "a number > 0 and at most 2^126");
  }
  if (floor > initialScale || initialScale > ceiling) {
    const sentence = `loss scale: expected floor ≤ initialScale ≤ ceiling, got ${floor}, ${initialScale}, ${ceiling}`;
    throw new BinadeError("option.invalid", `${sentence}; change one of them`);
  }
}

/**
 * The rule with the factors of a saved state, after a look at both.
 *
 * @throws BinadeError as `lossScaleRule`: also for a scale beyond the bounds.
 */
export function resumedRule(
  rule: LossScaleRule,
  { scale, ...factors }: Partial<Pick<LossScaleRule, Factor>> & { readonly scale: number },
): LossScaleRule {
  const resumed = { ...rule, ...factors };
  checkRule({ ...resumed, initialScale: scale });
  return FACTORS.every((key) => resumed[key] === rule[key]) ? rule : resumed;
}

/** What of a rule is saved with its state, as PyTorch does. */
export const FACTORS = ["growthFactor", "backoffFactor", "growthInterval"] as const;
export type Factor = (typeof FACTORS)[number];

/** Between these, a scale and its reciprocal are normal: beyond, nothing can be scaled and back. */
export const USABLE_SCALES = { least: LEAST_NORMAL, greatest: 1 / LEAST_NORMAL } as const;

/**
 * The machine that counts clean steps. With the default columns:
 *
 *     not finite:  scale ← max(scale · backoffFactor, floor);  tracker ← 0
 *     finite:      tracker + 1 reaches growthInterval?
 *        yes:      grown = min(scale · growthFactor, ceiling);  scale ← grown if finite;  tracker ← 0
 *        no:       tracker ← tracker + 1
 *
 * Products are formed in float64 and rounded to float32 once, on numbers; devices multiply in float32 with the factor rounded
 * to it, which is the same for powers of two and for whatever else float32 holds exactly. (A product of 24 by 53 bits is so
 * often next to a tie, 11/10 of a number is one in every tenth, that nothing less than float64 rounds it rightly.)
 */
export function countingMachine(rule: LossScaleRule): ScaleMachine {
  const field = (name: string, initial: number): StateField => ({ name, dtype: "int32", initial });
  const { floor, ceiling, initialScale } = rule;
  return {
    fields: [
      { name: "scale", dtype: "float32", initial: initialScale },
      field("growthTracker", 0),
      ...(rule.hysteresis > 1 ? [field("hysteresis", rule.hysteresis)] : []),
      ...(rule.tolerance > 0 ? [field("overflows", 0), field("sinceChange", 0)] : []),
    ],
    floor,
    ceiling,
    readsLargest: false,
    next: (state, seen, where) => nextCounted(rule, state, seen, where),
  };
}

/** The parts of one transition in which rules differ. */
function nextCounted<T extends Arithmetic<T>>(
  rule: LossScaleRule,
  state: MachineState<T>,
  { finite }: Seen<T>,
  where: Where<T>,
): Moved<T> {
  const scale = fieldOf(state, "scale");
  const clean = fieldOf(state, "growthTracker").add(1);
  const grows = reachesInterval(rule, clean);
  const { backsOff, counters } = countOverflows(rule, state, { finite, grows }, where);
  const { fallen, exhausted } = fall(rule, scale, where);
  const afterOverflow = backsOff === null ? fallen : where(backsOff, fallen, scale);
  const failed = exhausted?.and(finite.not()) ?? null;
  return {
    state: {
      scale: where(finite, grow(rule, scale, grows, where), afterOverflow),
      growthTracker: where(finite, restart(rule, clean, grows, where), 0),
      ...counters,
    },
    exhausted: failed === null || backsOff === null ? failed : failed.and(backsOff),
  };
}

function reachesInterval<T extends Arithmetic<T>>({ reaches, growthInterval, lag }: LossScaleRule, clean: T): T {
  if (reaches === "equal") return clean.equal(growthInterval + lag);
  if (reaches === "atLeast") return clean.greaterEqual(growthInterval + lag);
  const counted = clean.sub(lag).cast("float32");
  const whole = counted.div(growthInterval).floor().mul(growthInterval);
  return counted.greater(0).and(whole.equal(counted));
}

/** A multiple begins again at the clean step that does not count, so that the next one is `growthInterval` away. */
function restart<T extends Arithmetic<T>>(rule: LossScaleRule, clean: T, grows: T, where: Where<T>): T {
  if (rule.wraps) {
    const whole = clean.cast("float32").div(rule.growthInterval).floor().mul(rule.growthInterval);
    return clean.sub(whole.cast("int32"));
  }
  return where(grows, rule.reaches === "multiple" ? rule.lag : 0, clean);
}

function grow<T extends Arithmetic<T>>(rule: LossScaleRule, scale: T, grows: T, where: Where<T>): T {
  const product = scale.mul(rule.growthFactor);
  const grown = Number.isFinite(rule.ceiling) ? product.minimum(rule.ceiling) : product;
  return where(rule.guardsGrowth ? grows.and(grown.isFinite()) : grows, grown, scale);
}

/** The scale after an overflow that counts, and whether the run is over. */
function fall<T extends Arithmetic<T>>(
  { backoffFactor, growthFactor, floor, exhaustion }: LossScaleRule,
  scale: T,
  where: Where<T>,
): { readonly fallen: T; readonly exhausted: T | null } {
  const lower = backoffFactor === null ? scale.div(growthFactor) : scale.mul(backoffFactor);
  if (exhaustion === "hold") return { fallen: lower.maximum(floor), exhausted: null };
  if (exhaustion === "failAtFloor") return { fallen: lower.maximum(floor), exhausted: scale.equal(floor) };
  const exhausted = lower.lessEqual(floor);
  return { fallen: where(exhausted, scale, lower), exhausted };
}

/** Whether an overflow counts (null: always), and the counters that decide it. */
function countOverflows<T extends Arithmetic<T>>(
  rule: LossScaleRule,
  state: MachineState<T>,
  { finite, grows }: { readonly finite: T; readonly grows: T },
  where: Where<T>,
): { readonly backsOff: T | null; readonly counters: MachineState<T> } {
  const conditions: T[] = [];
  const counters: Record<string, T> = {};
  if (rule.hysteresis > 1) {
    const before = fieldOf(state, "hysteresis");
    const left = before.sub(1).maximum(0);
    conditions.push(left.equal(0));
    const refills = rule.refill === "clean" ? finite : finite.and(grows);
    counters.hysteresis = where(refills, rule.hysteresis, where(finite, before, left));
  }
  if (rule.tolerance > 0) {
    const [before, since] = [fieldOf(state, "overflows"), fieldOf(state, "sinceChange").add(1)];
    const share = before.add(1).cast("float32").div(since.cast("float32"));
    const tooMany = share.greaterEqual(Math.fround(rule.tolerance));
    conditions.push(tooMany);
    const falls = conditions.reduce((all, one) => all.and(one));
    counters.overflows = where(finite, before, where(falls, 0, before.add(1)));
    counters.sinceChange = where(where(finite, grows, falls), 0, since);
  }
  const [first, ...rest] = conditions;
  return { backsOff: first === undefined ? null : rest.reduce((all, one) => all.and(one), first), counters };
}

/** The state before the first step: the first scale, and no clean steps. */
export function initialLossScale(rule: LossScaleRule): LossScaleState {
  requireRule(rule);
  return initialState(countingMachine(rule)) as LossScaleState;
}

const requireRule = (rule: LossScaleRule): void =>
  requireFields("loss scale: rule", rule, Object.keys(SCALE_PRESETS.pytorch), "lossScaleRule");

/** The state after a step, and whether the system that the rule reproduces would end the run there. */
export interface LossScaleMove {
  readonly state: LossScaleState;
  readonly exhausted: boolean;
}

/**
 * `nextLossScale` that also says whether the run is over: DeepSpeed and fairseq raise when the scale cannot fall.
 *
 * @throws BinadeError `option.invalid` for a rule that `lossScaleRule` did not make, a state of another rule, or no boolean;
 * `value.range` for a state that does not hold numbers.
 */
export function moveLossScale(state: LossScaleState, rule: LossScaleRule, finite: boolean): LossScaleMove {
  requireRule(rule);
  requireChoice("loss scale: finite", finite, [true, false]);
  const machine = countingMachine(rule);
  const names = machine.fields.map(({ name }) => name);
  requireFields("loss scale: state", state, names, "initialLossScale of the same rule");
  for (const name of names)
    requireNumber(`loss scale: state: ${name}`, Reflect.get(state, name), () => true, "a number");
  const moved = moveNumbers(machine, state, { finite });
  return { state: moved.state as LossScaleState, exhausted: moved.exhausted };
}

/**
 * The state after a step whose gradients were all finite, or not; see `countingMachine` for the formula.
 *
 * @throws BinadeError as `moveLossScale`.
 * @example
 * nextLossScale({ scale: 4, growthTracker: 1 }, lossScaleRule({ growthInterval: 2 }), true); // { scale: 8, growthTracker: 0 }
 */
export const nextLossScale = (state: LossScaleState, rule: LossScaleRule, finite: boolean): LossScaleState =>
  moveLossScale(state, rule, finite).state;

/** Whether the scale can fall no further: overflows from here on are not cured by scaling. */
export function isAtFloor(state: LossScaleState, rule: LossScaleRule): boolean {
  requireRule(rule);
  requireFields("loss scale: state", state, ["scale"], "initialLossScale");
  return state.scale <= rule.floor;
}
