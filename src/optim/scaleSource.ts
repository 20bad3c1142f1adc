/** Where a scaler's scale comes from: a number, or variables that a machine moves; their saved form. */
import { BinadeError, showValue } from "../errors.ts";
import { type LogMaxOptions, logMaxMachine, logMaxRule } from "../precision/logMax.ts";
import { FACTORS, type LossScaleOptions, lossScaleRule, resumedRule, USABLE_SCALES } from "../precision/lossScale.ts";
import { isPositive, requireBoolean, requireKnownKeys, requireNumber, requireOptions } from "../precision/options.ts";
import { initialState, type MachineState, type ScaleMachine } from "../precision/scaleMachine.ts";
import type { CheckedValues, LossScaleRule } from "../precision/scalePresets.ts";
import { full } from "../tensor/create.ts";
import { Device } from "../tensor/device.ts";
import { defaultDevice } from "../tensor/devices.ts";
import { realize } from "../tensor/realize.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { guarded, isTracing } from "../tensor/trace.ts";
import type { Variable } from "../tensor/variable.ts";
import { deviceMachine, ScaleVariables, startingFrom } from "./scaleTransition.ts";

export interface GradScalerOptions extends LossScaleOptions {
  /** What outcomes, errors and the names of its variables call it: tells several scalers apart. Default "scaler". */
  readonly name?: string;
  /**
   * Where the scale is kept: that of the parameters. Default: where the first loss was computed that it scales; the default
   * device if its state is asked for before.
   */
  readonly device?: Device;
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
  | { readonly kind: "moving"; variables: ScaleVariables | null; machine: ScaleMachine; rule: LossScaleRule | null };

export class ScaleSource {
  readonly name: string;
  readonly enabled: boolean;
  readonly checks: CheckedValues;
  readonly #mode: Mode;
  /** Begins the names of variables. */
  readonly #prefix: string;
  readonly #device: Device | null;

  constructor(options: GradScalerOptions) {
    requireOptions("GradScaler", options);
    const { enabled = true, staticScale, logMax, name, device, ...counting } = options;
    requireBoolean("GradScaler: enabled", options.enabled);
    requireName(name);
    requireDevice(device);
    this.name = name ?? "scaler";
    this.#prefix = name === undefined ? "" : `${name}.`;
    this.#device = device ?? null;
    const rule = lossScaleRule(counting);
    this.enabled = enabled;
    this.checks = rule.checks;
    if (staticScale !== undefined) {
      requireKnownKeys("GradScaler with staticScale", { ...counting, ...given({ logMax }) }, ["checks"]);
      requireNumber("GradScaler: staticScale", staticScale, isScale, "a number > 0 within float32");
    }
    if (logMax !== undefined) {
      requireKnownKeys("GradScaler with logMax", counting, ["checks"]);
    }
    const machine = logMax === undefined ? deviceMachine(rule) : logMaxMachine(logMaxRule(logMax));
    this.#mode =
      !enabled || staticScale !== undefined
        ? { kind: "static", scale: enabled ? Math.fround(staticScale ?? 1) : 1 }
        : { kind: "moving", variables: null, machine, rule: logMax === undefined ? rule : null };
  }

  /** Made when they are first needed: until then it is open on which device. */
  #variables(device: () => Device = defaultDevice): ScaleVariables {
    const mode = this.#mode as Extract<Mode, { readonly kind: "moving" }>;
    mode.variables ??= new ScaleVariables(mode.machine, this.#prefix, this.#device ?? device());
    return mode.variables;
  }

  /** Keeps the scale on this device unless it is kept somewhere already. */
  place(device: () => Device): void {
    if (this.#mode.kind === "moving") this.#variables(device);
  }

  /** @throws BinadeError `device.failed` if a parameter is not where the scale is. */
  requireOn(parameters: readonly Variable[]): void {
    if (this.#mode.kind === "static") return;
    const { device } = this.#variables(() => parameters[0]?.device ?? defaultDevice()).scale;
    const other = parameters.find((parameter) => parameter.device !== device);
    if (other === undefined) return;
    const { kind } = other.device;
    throw new BinadeError(
      "device.failed",
      `GradScaler: the loss scale of ${this.name} is on the device ${device.kind}, and parameter ${other.name} on ${kind}; construct the scaler with { device: parameter.device }, or after useDevice(${JSON.stringify(kind)})`,
    );
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

  /** bool scalar: the scale and its reciprocal are normal numbers; null where its bounds see to it. */
  usable(): Tensor | null {
    const { least, greatest } = USABLE_SCALES;
    if (this.floor >= least && this.ceiling <= greatest) return null;
    const scale = this.read();
    return scale.greaterEqual(least).and(scale.lessEqual(greatest));
  }

  read(): Tensor {
    const mode = this.#mode;
    if (mode.kind === "static") return full([], mode.scale);
    // A look at the first scale, for a log, does not decide where it is kept.
    if (mode.variables === null && !isTracing()) return full([], initialState(mode.machine).scale ?? Number.NaN);
    return this.#variables().scale.read();
  }

  /**
   * Moves the scale; the condition under which the run is over, or null. `largest` is computed only if it is read; `holds` (null:
   * always true): otherwise the step has shown nothing, and not a bit of the state changes.
   */
  move(seen: {
    readonly finite: Tensor;
    readonly largest: () => Tensor;
    readonly holds: Tensor | null;
  }): Tensor | null {
    const mode = this.#mode;
    if (mode.kind === "static") return null;
    const { finite, largest, holds } = seen;
    const machine = guarded(() => mode.machine);
    return this.#variables().move(machine, { finite, ...(machine.readsLargest ? { largest: largest() } : {}) }, holds);
  }

  set(scale: number): void {
    const { kind } = this.#mode;
    if (kind === "static")
      throw new BinadeError("scaler.order", "setScale: the scale does not move; make a scaler with another one");
    const { floor, ceiling } = this;
    const isWithin = (v: number): boolean => isScale(v) && Math.fround(v) >= floor && Math.fround(v) <= ceiling;
    requireNumber("setScale: scale", scale, isWithin, `a number > 0 from ${floor} to ${ceiling}`);
    this.#variables().scale.assign(full([], Math.fround(scale)));
  }

  namedState(): ReadonlyMap<string, Variable> {
    return this.#mode.kind === "static" ? new Map() : this.#variables().named();
  }

  async state(): Promise<SavedScaler> {
    if (this.#mode.kind === "static") return {};
    const { rule, variables, machine } = this.#mode;
    await realize([]);
    const values = variables === null ? initialState(machine) : await variables.values();
    const factors = FACTORS.map((key) => [key, rule?.[key]] as const).filter(([, value]) => typeof value === "number");
    return { ...values, ...Object.fromEntries(factors) } as SavedScaler;
  }

  async load(state: SavedScaler): Promise<void> {
    const mode = this.#mode;
    if (mode.kind === "static") return;
    if (typeof state !== "object" || state === null) throw stateError(`expected an object, got ${showValue(state)}`);
    const saved: MachineState<number> = { ...state };
    const known = [...mode.machine.fields.map(({ name }) => name), ...this.#factorNames()];
    const foreign = Object.keys(saved).find((key) => !known.includes(key));
    const missing = known.find((key) => typeof saved[key] !== "number");
    if (foreign !== undefined) throw stateError(`${foreign} is no part of this scaler's state`);
    if (missing !== undefined) throw stateError(`expected a number ${missing}, got ${String(saved[missing])}`);
    const rule = mode.rule === null ? null : ruleOf(mode.rule, saved);
    if (rule === null) requireWithin(saved.scale ?? Number.NaN, mode.machine);
    await realize([]);
    const machine = rule === null || rule === mode.rule ? mode.machine : deviceMachine(rule);
    if (mode.variables !== null) await mode.variables.load(saved);
    // Kept nowhere yet: the state is where it begins.
    mode.machine = mode.variables === null ? startingFrom(machine, saved) : machine;
    mode.rule = rule;
  }

  #factorNames(): readonly string[] {
    if (this.#mode.kind === "static" || this.#mode.rule === null) return [];
    const { rule } = this.#mode;
    return FACTORS.filter((key) => rule[key] !== null);
  }
}

const isScale = (value: number): boolean => isPositive(Math.fround(value));

function requireName(name: unknown): void {
  if (name === undefined || (typeof name === "string" && name !== "")) return;
  throw new BinadeError(
    "option.invalid",
    `GradScaler: name: expected a word, got ${showValue(name)}; leave it out, or give one`,
  );
}

function requireDevice(device: unknown): void {
  if (device === undefined || device instanceof Device) return;
  throw new BinadeError(
    "option.invalid",
    `GradScaler: device: expected a device, got ${showValue(device)}; pass the device of a parameter, or what useDevice returns`,
  );
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
