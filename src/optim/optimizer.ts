/** What all optimizers share: parameter groups, state variables, the applied clock, and the step as a list of assignments. */
import { BinadeError, listNames, showValue } from "../errors.ts";
import { philoxKey } from "../formats/index.ts";
import { build } from "../ir/graph.ts";
import { type Shape, showShape } from "../ops/shape.ts";
import { isNonNegativeSingle, requireKnownKeys, requireNumber, withoutUndefined } from "../precision/options.ts";
import { arange, full } from "../tensor/create.ts";
import { decideStep } from "../tensor/following.ts";
import { where } from "../tensor/functions.ts";
import { type Grads, originOf, type Parameters, parametersOf } from "../tensor/gradients.ts";
import { computeWithNextRun } from "../tensor/realize.ts";
import { requireGrads } from "../tensor/require.ts";
import { Tensor } from "../tensor/tensor.ts";
import { HostNumber, Variable } from "../tensor/variable.ts";
import { type Draw, Entry } from "./entry.ts";
import { type Grouped, groupsOf, requireDistinct } from "./groups.ts";
import { STATE_FORMS, type StateDType, type StateSlot } from "./states.ts";
import { type MasterWeights, WEIGHT_FORMS } from "./weights.ts";

/**
 * A learning rate as a graph expression of the applied clock: `step` is the number of applied steps so far (float32
 * scalar, 0 in the first step), the result a float32 scalar. Skipped steps do not advance it.
 */
export type Schedule = (step: Tensor) => Tensor;

/** Options that every optimizer has. */
export interface CommonOptions {
  /** Learning rate, ≥ 0; a number can be changed between steps, a schedule is part of the step. */
  readonly lr?: number | Schedule;
  /** ≥ 0; how it acts is the optimizer's. */
  readonly weightDecay?: number;
  /**
   * How the float32 weight behind a 16-bit parameter is kept. float32 parameters are their own masters in every form.
   *
   * - `float32` (default): in a variable of 4 bytes per parameter, of which the parameter is the rounded copy.
   * - `split` (bfloat16): its lower 16 bits in a variable of 2 bytes per parameter; the parameter holds the upper ones. Every
   *   update has the bits of the first form. Half-way the parameter rounds away from zero, not to even.
   * - `stochastic` (bfloat16): not at all; updates round up or down at random, and are kept on average.
   * - `kahan`: what rounding took away, in a variable of the parameter's dtype.
   * - `none`: not at all. Updates below half a spacing are lost: 1 + 0.001 is 1 in bfloat16.
   */
  readonly masterWeights?: MasterWeights;
  /**
   * How moments are kept between steps; updates compute in float32. `float32` (default); `bfloat16`, rounded stochastically;
   * `int8-blockwise`, 8-bit codes with a scale for every 256 elements, for state of at least 4096 elements and whole blocks
   * (other state is float32).
   */
  readonly stateDType?: StateDType;
  /** Seed of stochastic rounding, an integer from 0 to 2^53 − 1; one for all groups. Default 0. */
  readonly seed?: number;
}

/** Defaults of how weights and state are kept. */
export const STORAGE = { masterWeights: "float32", stateDType: "float32", seed: 0 } as const;

/** Some parameters with options of their own; the others come from the optimizer's. */
export type ParameterGroup<O> = Omit<Partial<O>, (typeof SHARED)[number]> & { readonly parameters: Parameters };

/** A module, a list of variables, or groups of them. */
export type ParameterSource<O> = Parameters | readonly ParameterGroup<O>[];

/** Everything that the update of one parameter reads: float32 tensors; scalars have shape []. */
export interface UpdateArguments<S> {
  readonly weight: Tensor;
  readonly gradient: Tensor;
  /** The parameter's state, by slot name. */
  readonly slots: Readonly<Record<string, Tensor>>;
  readonly lr: Tensor;
  /** Applied steps, this one included: 1 in the first step. */
  readonly step: Tensor;
  readonly settings: S;
}

/** The new weight and the new state, by slot name. */
export interface UpdateResult {
  readonly weight: Tensor;
  readonly slots: Readonly<Record<string, Tensor>>;
}

/** An optimizer as data: its defaults, the state of a parameter, and the update as a pure function. */
export interface Rule<S extends Required<CommonOptions>> {
  readonly name: string;
  readonly defaults: S;
  /** Throws unless the settings that are its own are in range. */
  readonly check: (settings: S) => void;
  /** Throws for a parameter that it cannot update. */
  readonly requireParameter?: (parameter: Variable) => void;
  /** The state of a parameter of this shape. */
  readonly slots: (settings: S, shape: Shape) => readonly StateSlot[];
  readonly update: (args: UpdateArguments<S>) => UpdateResult;
}

interface Group<S> {
  readonly settings: S;
  readonly lr: HostNumber | Schedule;
  readonly entries: readonly Entry[];
}

/** What `GradScaler.step` needs of an optimizer; any object with these two methods will do. */
export interface Steppable {
  parameters(): readonly Variable[];
  /** Every variable that a step overwrites, with its new value; assigns nothing. */
  updates(grads: Grads<"true">): Iterable<readonly [Variable, Tensor]>;
}

/** The fourth word of the key of stochastic rounding ("STOC"): other numbers than those of a `RandomStream` of the same seed. */
const ROUNDING = 0x53544f43;

/** Options that belong to the optimizer as a whole. */
const SHARED = ["seed"] as const;

/**
 * Base of the optimizers. The update computes in float32; weights and state are kept as `masterWeights` and `stateDType` say.
 * `apply` inside a compiled step updates parameters and state in place at the end of the step.
 */
export class Optimizer<S extends Required<CommonOptions>> implements Steppable {
  readonly #rule: Rule<S>;
  readonly #groups: readonly Group<S>[];
  /** The applied clock. */
  readonly #steps: Variable;
  readonly #seed: readonly [number, number];

  constructor(rule: Rule<S>, source: ParameterSource<Partial<S>>, options: Partial<S>) {
    this.#rule = rule;
    requireKnownKeys(rule.name, options, Object.keys(rule.defaults));
    this.#seed = philoxKey(options.seed === undefined ? rule.defaults.seed : options.seed);
    let position = 0;
    this.#groups = groupsOf(rule.name, source).map((group) => this.#makeGroup(group, options, () => position++));
    requireDistinct(rule.name, this.parameters());
    this.#requireUse();
    this.#steps = new Variable("step", [], "int32", undefined, this.parameters()[0]?.device);
    this.#steps.role = "optimizerState";
  }

  /** A form that no parameter is kept in is a mistake: the model is of float32. */
  #requireUse(): void {
    const form = this.#groups.find(({ settings }) => settings.masterWeights !== STORAGE.masterWeights)?.settings
      .masterWeights;
    if (form === undefined || this.parameters().some(({ dtype }) => dtype !== "float32")) return;
    const sentence = `${this.#rule.name}: masterWeights ${JSON.stringify(form)} is for 16-bit parameters, and all are float32`;
    throw new BinadeError("option.invalid", `${sentence}; leave it out, or make parameters bfloat16`);
  }

  #makeGroup({ parameters, ...own }: Grouped, options: Partial<S>, next: () => number): Group<S> {
    const { name, defaults, check, requireParameter, slots } = this.#rule;
    const known = Object.keys(defaults).filter((key) => !SHARED.some((shared) => shared === key));
    requireKnownKeys(`${name}: group`, own, known);
    const settings: S = { ...defaults, ...withoutUndefined(options), ...withoutUndefined(own) };
    if (typeof settings.lr !== "function") requireRate(name, settings.lr, ", or a schedule");
    requireNumber(
      `${name}: weightDecay`,
      settings.weightDecay,
      isNonNegativeSingle,
      "a finite number ≥ 0 within float32",
    );
    requireChoice(`${name}: masterWeights`, settings.masterWeights, WEIGHT_FORMS);
    requireChoice(`${name}: stateDType`, settings.stateDType, STATE_FORMS);
    check(settings);
    const lr = typeof settings.lr === "number" ? new HostNumber(`${name}.lr`, settings.lr) : settings.lr;
    const entries = parametersOf(parameters).map((parameter) => {
      requireParameter?.(parameter);
      return new Entry(name, parameter, slots(settings, parameter.shape), settings, next());
    });
    return { settings, lr, entries };
  }

  parameters(): readonly Variable[] {
    return this.#groups.flatMap(({ entries }) => entries.map(({ parameter }) => parameter));
  }

  /**
   * Learning rate of the first group. Assigning sets it for every group, from the next step on; a compiled step is not
   * recorded anew.
   *
   * @throws BinadeError `option.invalid` where a group's rate is a schedule; `value.range` for a negative number.
   */
  get lr(): number {
    return this.#hostRates()[0]?.value ?? Number.NaN;
  }
  set lr(value: number) {
    requireRate(this.#rule.name, value);
    for (const rate of this.#hostRates()) rate.value = value;
  }

  /**
   * Learning rates by group, to be read or set one by one.
   *
   * @throws BinadeError as `lr`.
   */
  get rates(): readonly { value: number }[] {
    const { name } = this.#rule;
    return this.#hostRates().map((rate) => ({
      get value() {
        return rate.value;
      },
      set value(value: number) {
        requireRate(name, value);
        rate.value = value;
      },
    }));
  }

  #hostRates(): readonly HostNumber[] {
    return this.#groups.map(({ lr }) => {
      if (lr instanceof HostNumber) return lr;
      const sentence = `${this.#rule.name}: lr: the rate is a schedule, which follows the applied steps`;
      throw new BinadeError(
        "option.invalid",
        `${sentence}; read learningRate(), or construct the optimizer with a number`,
      );
    });
  }

  /** The first group's rate in the next update as a float32 scalar, for logs: ask before `apply` or `GradScaler.step`. */
  learningRate(): Tensor {
    return this.#rateOf(this.#groups[0]?.lr ?? new HostNumber("lr", 0));
  }

  #rateOf(lr: HostNumber | Schedule): Tensor {
    if (lr instanceof HostNumber) return lr.read();
    const rate: unknown = lr(this.#steps.read().cast("float32"));
    if (rate instanceof Tensor && rate.dtype === "float32" && rate.shape.length === 0) return rate;
    const got = rate instanceof Tensor ? `${rate.dtype} ${showShape(rate.shape)}` : showValue(rate);
    throw new BinadeError(
      "option.invalid",
      `${this.#rule.name}: lr: expected a float32 scalar tensor from the schedule, got ${got}; write (step) => step.mul(…), or give a number instead of a schedule`,
    );
  }

  /** Applied steps so far, an int32 scalar; skipped steps do not count. */
  get steps(): Variable {
    return this.#steps;
  }

  /** State for checkpoints by name: "step", "<parameter>.master" and its like, and "<parameter>.<slot>" for every slot. */
  namedState(): ReadonlyMap<string, Variable> {
    const variables = this.#entries.flatMap((entry) => entry.variables());
    return new Map([this.#steps, ...variables].map((variable) => [variable.name, variable]));
  }

  get #entries(): readonly Entry[] {
    return this.#groups.flatMap(({ entries }) => entries);
  }

  /**
   * For every parameter of 16 bits by name, how many of its elements have become infinite or NaN although the float32 weight
   * behind them is finite (in forms that keep none: all that are not finite): float32 scalars, for logs. 65520 is infinite in
   * float16; no loss scale cures that, a bfloat16 parameter does.
   *
   * @example
   * const overflowed = optimizer.overflowedWeights(); // in a compiled step, or between steps
   */
  overflowedWeights(): ReadonlyMap<string, Tensor> {
    const narrow = this.#entries.filter(({ parameter }) => parameter.dtype !== "float32");
    return new Map(narrow.map((entry) => [entry.parameter.name, entry.overflowed()]));
  }

  /**
   * Every variable that a step overwrites, with its new value; assigns nothing. Parameters without a gradient are left as
   * they are, and gradients of other parameters are ignored.
   *
   * @throws BinadeError `gradient.missing` if there is no gradient for any parameter; `scaler.order` for scaled gradients.
   */
  updates(grads: Grads<"true">): readonly (readonly [Variable, Tensor])[] {
    const { name } = this.#rule;
    requireGrads(name, grads);
    if (originOf(grads)?.kind === "scaled") {
      const sentence = `${name}: the gradients of ${listNames([...grads.keys()].map((p) => p.name))} are scaled`;
      throw new BinadeError("scaler.order", `${sentence}; pass what GradScaler.unscale returns`);
    }
    if (!this.parameters().some((parameter) => grads.has(parameter))) {
      const sentence = `${name}: no gradient belongs to any of the optimizer's parameters`;
      throw new BinadeError("gradient.missing", `${sentence}; pass gradients(loss, model) of the same model`);
    }
    const steps = this.#steps.read().add(1);
    const draw = this.#drawFor(steps);
    return [[this.#steps, steps], ...this.#groups.flatMap((group) => this.#groupUpdates(group, grads, steps, draw))];
  }

  /**
   * Random numbers of this step: a function of seed, applied steps, parameter and element alone. So they need no state of their
   * own, a skipped step moves nothing, and a resumed run draws what the first one would have.
   */
  #drawFor(steps: Tensor): Draw {
    const [low, high] = this.#seed;
    const word = (value: number): Tensor => full([4], value, "uint32");
    const at = arange(4);
    const clock = where(at.equal(2), steps.cast("uint32"), word(ROUNDING));
    const key = where(at.equal(0), word(low), where(at.equal(1), word(high), clock));
    return (stream, shape) => new Tensor(build.random(key.node, shape, stream));
  }

  #groupUpdates(
    { lr, settings, entries }: Group<S>,
    grads: Grads<"true">,
    steps: Tensor,
    draw: Draw,
  ): (readonly [Variable, Tensor])[] {
    const shared = { lr: this.#rateOf(lr), step: steps.cast("float32"), settings };
    return entries.flatMap((entry) => {
      const gradient = grads.get(entry.parameter)?.cast("float32");
      if (gradient === undefined) return [];
      const result = this.#rule.update({ ...shared, weight: entry.weight(), gradient, slots: entry.state() });
      return entry.updates(result.weight, result.slots, draw);
    });
  }

  /**
   * One step, unconditionally; `GradScaler.step` makes the same step only if the gradients are finite.
   *
   * @throws BinadeError as `updates`.
   * @example
   * optimizer.apply(clipByGlobalNorm(gradients(loss, model), 1));
   */
  apply(grads: Grads<"true">): void {
    for (const [variable, value] of this.updates(grads)) variable.assign(value);
    decideStep(null);
    computeWithNextRun((originOf(grads)?.losses ?? []).flatMap(({ loss }) => loss ?? []));
  }
}

function requireRate(owner: string, value: unknown, otherwise = ""): void {
  requireNumber(`${owner}: lr`, value, isNonNegativeSingle, `a finite number ≥ 0 within float32${otherwise}`);
}

function requireChoice(subject: string, value: string, rows: object): void {
  if (Object.hasOwn(rows, value)) return;
  const choices = Object.keys(rows)
    .map((key) => JSON.stringify(key))
    .join(", ");
  throw new BinadeError("option.invalid", `${subject}: expected one of ${choices}, got ${JSON.stringify(value)}`);
}
