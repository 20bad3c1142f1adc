/** Where a scaler's scale comes from: a number, or variables that a machine moves; their saved form. */
import { BinadeError } from "../errors.ts";
import { type LogMaxOptions, logMaxMachine, logMaxRule } from "../precision/logMax.ts";
import { FACTORS, type LossScaleOptions, lossScaleRule, resumedRule } from "../precision/lossScale.ts";
import { isPositive, requireBoolean, requireKnownKeys, requireNumber } from "../precision/options.ts";
import type { MachineState, ScaleMachine } from "../precision/scaleMachine.ts";
import type { CheckedValues, LossScaleRule } from "../precision/scalePresets.ts";
import { full } from "../tensor/create.ts";
import { realize } from "../tensor/realize.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { guarded } from "../tensor/trace.ts";
import type { Variable } from "../tensor/variable.ts";
import { deviceMachine, ScaleVariables } from "./scaleTransition.ts";

export interface GradScalerOptions extends LossScaleOptions {
  /** false: losses pass unscaled, but gradients are checked and bad steps skipped all the same. Default true. */
  readonly enabled?: boolean;
  /** A scale that never moves, > 0, instead of a dynamic one. */
  readonly staticScale?: number;
  /** A scale that follows the distribution of gradients instead of counting clean steps; `{}` for its defaults. */
  readonly logMax?: LogMaxOptions;
}

/** The saved state of a scaler that counts clean steps. */
export interface ScalerState {
  readonly scale: number;
  readonly growthFactor: number;
  /** Absent where the rule divides by `growthFactor`. */
  readonly backoffFactor?: number;
  readonly growthInterval: number;
  readonly growthTracker: number;
  /** As in `LossScaleState`; only of rules that have it. */
  readonly hysteresis?: number;
  readonly overflows?: number;
  readonly sinceChange?: number;
}

/** The saved state of a scaler with `logMax`. */
export interface LogMaxState {
  readonly scale: number;
  readonly growthTracker: number;
  readonly penalty: number;
  readonly mean: number;
  readonly slowMean: number;
  readonly variance: number;
  readonly meanBias: number;
  readonly varianceBias: number;
}

/** What `GradScaler.state` returns; empty unless the scale moves. */
export type SavedScaler = ScalerState | LogMaxState | Readonly<Record<string, never>>;

type Mode =
  | { readonly kind: "static"; readonly scale: number }
  | { readonly kind: "moving"; readonly variables: ScaleVariables; machine: ScaleMachine; rule: LossScaleRule | null };

export class ScaleSource {
  readonly enabled: boolean;
  readonly checks: CheckedValues;
  readonly #mode: Mode;

  constructor(options: GradScalerOptions) {
    const { enabled = true, staticScale, logMax, ...counting } = options;
    requireBoolean("GradScaler: enabled", options.enabled);
    const rule = lossScaleRule(counting);
    this.enabled = enabled;
    this.checks = rule.checks;
    if (staticScale !== undefined) {
      requireKnownKeys("GradScaler with staticScale", { ...counting, ...given({ logMax }) }, ["checks"]);
      requireNumber("GradScaler: staticScale", Math.fround(staticScale), isPositive, "a number > 0 within float32");
    }
    if (logMax !== undefined) requireKnownKeys("GradScaler with logMax", counting, ["checks"]);
    const machine = logMax === undefined ? deviceMachine(rule) : logMaxMachine(logMaxRule(logMax));
    this.#mode =
      !enabled || staticScale !== undefined
        ? { kind: "static", scale: enabled ? Math.fround(staticScale ?? 1) : 1 }
        : { kind: "moving", variables: new ScaleVariables(machine), machine, rule: logMax === undefined ? rule : null };
  }

  /** Whether the scale is 1 for certain. */
  get isOne(): boolean {
    return this.#mode.kind === "static" && this.#mode.scale === 1;
  }

  /** Least scale; 0 for none. */
  get floor(): number {
    return this.#mode.kind === "static" ? this.#mode.scale : this.#mode.machine.floor;
  }

  /** Greatest scale; infinite for none. */
  get ceiling(): number {
    return this.#mode.kind === "static" ? this.#mode.scale : this.#mode.machine.ceiling;
  }

  read(): Tensor {
    return this.#mode.kind === "static" ? full([], this.#mode.scale) : this.#mode.variables.scale.read();
  }

  /** Moves the scale; the condition under which the run is over, or null. `largest` is computed only if it is read. */
  move({ finite, largest }: { readonly finite: Tensor; readonly largest: () => Tensor }): Tensor | null {
    const mode = this.#mode;
    if (mode.kind === "static") return null;
    const machine = guarded(() => mode.machine);
    return mode.variables.move(machine, { finite, ...(machine.readsLargest ? { largest: largest() } : {}) });
  }

  set(scale: number): void {
    const { kind } = this.#mode;
    if (kind === "static")
      throw new BinadeError("scaler.order", "setScale: the scale does not move; make a scaler with another one");
    const value = Math.fround(scale);
    const { floor, ceiling } = this;
    const isWithin = (v: number): boolean => v > 0 && v >= floor && v <= ceiling && Number.isFinite(v);
    requireNumber("setScale: scale", value, isWithin, `a number > 0 from ${floor} to ${ceiling}`);
    this.#mode.variables.scale.assign(full([], value));
  }

  namedState(): ReadonlyMap<string, Variable> {
    return this.#mode.kind === "static" ? new Map() : this.#mode.variables.named();
  }

  async state(): Promise<SavedScaler> {
    if (this.#mode.kind === "static") return {};
    const { variables, rule } = this.#mode;
    await realize([]);
    const values = await variables.values();
    const factors = FACTORS.map((key) => [key, rule?.[key]] as const).filter(([, value]) => typeof value === "number");
    return { ...values, ...Object.fromEntries(factors) } as SavedScaler;
  }

  async load(state: SavedScaler): Promise<void> {
    const mode = this.#mode;
    if (mode.kind === "static") return;
    const saved: MachineState<number> = { ...state };
    const known = [...mode.machine.fields.map(({ name }) => name), ...this.#factorNames()];
    const foreign = Object.keys(saved).find((key) => !known.includes(key));
    const missing = known.find((key) => typeof saved[key] !== "number");
    if (foreign !== undefined) throw stateError(`${foreign} is no part of this scaler's state`);
    if (missing !== undefined) throw stateError(`expected a number ${missing}, got ${String(saved[missing])}`);
    const rule = mode.rule === null ? null : ruleOf(mode.rule, saved);
    if (rule === null) requireWithin(saved.scale ?? Number.NaN, mode.machine);
    await realize([]);
    await mode.variables.load(saved);
    if (rule === null || rule === mode.rule) return;
    mode.rule = rule;
    mode.machine = deviceMachine(rule);
  }

  #factorNames(): readonly string[] {
    if (this.#mode.kind === "static" || this.#mode.rule === null) return [];
    const { rule } = this.#mode;
    return FACTORS.filter((key) => rule[key] !== null);
  }
}

const given = (options: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

const stateError = (message: string, cause?: unknown): BinadeError =>
  new BinadeError("scaler.state", `load: ${message}; load what state() of the same kind of scaler returned`, { cause });

function requireWithin(scale: number, { floor, ceiling }: ScaleMachine): void {
  if (scale >= floor && scale <= ceiling) return;
  throw stateError(`scale: expected a number from ${floor} to ${ceiling}, got ${scale}`);
}

/** The rule with the saved factors; the same object where they do not differ. */
function ruleOf(rule: LossScaleRule, saved: MachineState<number>): LossScaleRule {
  try {
    const factors = FACTORS.filter((key) => rule[key] !== null).map((key) => [key, saved[key]] as const);
    return resumedRule(rule, { ...Object.fromEntries(factors), scale: saved.scale ?? Number.NaN });
  } catch (error) {
    throw stateError(error instanceof Error ? error.message : String(error), error);
  }
}
