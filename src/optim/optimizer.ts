/** What all optimizers share: parameter groups, state variables, the applied clock, and the step as a list of assignments. */
import { BinadeError, listNames } from "../errors.ts";
import { isNonNegative, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { decideStep } from "../tensor/following.ts";
import { type Grads, originOf, type Parameters, parametersOf } from "../tensor/gradients.ts";
import type { VariableRole } from "../tensor/runtime.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { HostNumber, Variable } from "../tensor/variable.ts";

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
   * Parameters of 16 bits: keep a float32 master of each, of which the parameter is the rounded copy. Default true. false
   * rounds every update to 16 bits, which loses most of the small ones: 1 + 0.001 is 1 in bfloat16.
   */
  readonly masterWeights?: boolean;
}

/** Some parameters with options of their own; the others come from the optimizer's. */
export type ParameterGroup<O> = Partial<O> & { readonly parameters: Parameters };

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
  readonly slotNames: (settings: S) => readonly string[];
  readonly update: (args: UpdateArguments<S>) => UpdateResult;
}

/** The variables of one parameter. */
interface Entry {
  readonly parameter: Variable;
  readonly master: Variable | null;
  readonly slots: ReadonlyMap<string, Variable>;
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

/**
 * Base of the optimizers. State is float32 in variables of its own; `apply` inside a compiled step updates parameters and
 * state in place at the end of the step.
 */
export class Optimizer<S extends Required<CommonOptions>> implements Steppable {
  readonly #rule: Rule<S>;
  readonly #groups: readonly Group<S>[];
  /** The applied clock. */
  readonly #steps: Variable;

  constructor(rule: Rule<S>, source: ParameterSource<Partial<S>>, options: Partial<S>) {
    this.#rule = rule;
    requireKnownKeys(rule.name, options, Object.keys(rule.defaults));
    this.#groups = groupsOf(source).map((group) => this.#makeGroup(group, options));
    requireDistinct(rule.name, this.parameters());
    this.#steps = new Variable("step", [], "int32", undefined, this.parameters()[0]?.device);
    this.#steps.role = "optimizerState";
  }

  #makeGroup({ parameters, ...own }: Grouped, options: Partial<S>): Group<S> {
    const { name, defaults, check } = this.#rule;
    requireKnownKeys(`${name}: group`, own, Object.keys(defaults));
    const settings: S = { ...defaults, ...withoutUndefined(options), ...withoutUndefined(own) };
    if (typeof settings.lr === "number")
      requireNumber(`${name}: lr`, settings.lr, isNonNegative, "a finite number ≥ 0");
    requireNumber(`${name}: weightDecay`, settings.weightDecay, isNonNegative, "a finite number ≥ 0");
    check(settings);
    const lr = typeof settings.lr === "number" ? new HostNumber(`${name}.lr`, settings.lr) : settings.lr;
    return { settings, lr, entries: parametersOf(parameters).map((parameter) => this.#makeEntry(parameter, settings)) };
  }

  #makeEntry(parameter: Variable, settings: S): Entry {
    const { name, dtype, shape, device } = parameter;
    if (dtype !== "float32" && dtype !== "bfloat16" && dtype !== "float16") {
      const sentence = `${this.#rule.name}: parameter ${name} is ${dtype}, expected float32, bfloat16 or float16`;
      throw new BinadeError("dtype.unsupported", `${sentence}; leave it out or make it float32`);
    }
    const variable = (suffix: string, role: VariableRole): Variable => {
      const made = new Variable(`${name}.${suffix}`, shape, "float32", undefined, device);
      made.role = role;
      return made;
    };
    parameter.role = "parameter";
    const master = dtype === "float32" || !settings.masterWeights ? null : variable("master", "master");
    master?.assign(parameter.read().cast("float32"));
    return {
      parameter,
      master,
      slots: new Map(this.#rule.slotNames(settings).map((slot) => [slot, variable(slot, "optimizerState")])),
    };
  }

  parameters(): readonly Variable[] {
    return this.#groups.flatMap((group) => group.entries.map((entry) => entry.parameter));
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
    requireNumber(`${this.#rule.name}: lr`, value, isNonNegative, "a finite number ≥ 0");
    for (const rate of this.#hostRates()) rate.value = value;
  }

  /** Learning rates by group, to be read or set one by one. */
  get rates(): readonly { value: number }[] {
    return this.#hostRates();
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
    return lr instanceof HostNumber ? lr.read() : lr(this.#steps.read().cast("float32"));
  }

  /** Applied steps so far, an int32 scalar; skipped steps do not count. */
  get steps(): Variable {
    return this.#steps;
  }

  /** State for checkpoints by name: "step", and "<parameter>.<slot>" for every slot and master. */
  namedState(): ReadonlyMap<string, Variable> {
    const variables = this.#groups.flatMap((group) =>
      group.entries.flatMap(({ master, slots }) => [...(master === null ? [] : [master]), ...slots.values()]),
    );
    return new Map([this.#steps, ...variables].map((variable) => [variable.name, variable]));
  }

  /**
   * Every variable that a step overwrites, with its new value; assigns nothing. Parameters without a gradient are left as
   * they are, and gradients of other parameters are ignored.
   *
   * @throws BinadeError `gradient.missing` if there is no gradient for any parameter; `scaler.order` for scaled gradients.
   */
  updates(grads: Grads<"true">): readonly (readonly [Variable, Tensor])[] {
    const { name } = this.#rule;
    if (originOf(grads)?.kind === "scaled") {
      const sentence = `${name}: the gradients of ${listNames([...grads.keys()].map((p) => p.name))} are scaled`;
      throw new BinadeError("scaler.order", `${sentence}; pass what GradScaler.unscale returns`);
    }
    if (!this.parameters().some((parameter) => grads.has(parameter))) {
      const sentence = `${name}: no gradient belongs to any of the optimizer's parameters`;
      throw new BinadeError("gradient.missing", `${sentence}; pass gradients(loss, model) of the same model`);
    }
    const steps = this.#steps.read().add(1);
    return [[this.#steps, steps], ...this.#groups.flatMap((group) => this.#groupUpdates(group, grads, steps))];
  }

  #groupUpdates(
    { lr, settings, entries }: Group<S>,
    grads: Grads<"true">,
    steps: Tensor,
  ): (readonly [Variable, Tensor])[] {
    const shared = { lr: this.#rateOf(lr), step: steps.cast("float32"), settings };
    return entries.flatMap(({ parameter, master, slots }) => {
      const gradient = grads.get(parameter)?.cast("float32");
      if (gradient === undefined) return [];
      const weight = (master ?? parameter).read().cast("float32");
      const state = Object.fromEntries([...slots].map(([slot, variable]) => [slot, variable.read()]));
      const result = this.#rule.update({ ...shared, weight, gradient, slots: state });
      const copies = master === null ? [] : [[master, result.weight] as const];
      const moments = [...slots].map(([slot, variable]) => [variable, result.slots[slot] ?? variable.read()] as const);
      return [[parameter, result.weight.cast(parameter.dtype)] as const, ...copies, ...moments];
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
  }
}

/** A group whose options are not checked yet. */
interface Grouped {
  readonly parameters: Parameters;
}

function groupsOf(source: Parameters | readonly Grouped[]): readonly Grouped[] {
  if ("parameters" in source) return [{ parameters: source }];
  const variables = source.filter((item) => item instanceof Variable);
  const groups = source.filter((item): item is Grouped => !(item instanceof Variable));
  if (groups.length > 0 && variables.length > 0) {
    throw new BinadeError(
      "option.invalid",
      "optimizer: expected variables or groups, got both; put the variables into a group",
    );
  }
  return groups.length > 0 ? groups : [{ parameters: variables }];
}

/** State is kept by parameter and saved by name, so both must be unique. */
function requireDistinct(subject: string, parameters: readonly Variable[]): void {
  if (parameters.length === 0) {
    throw new BinadeError(
      "option.invalid",
      `${subject}: expected at least one parameter, got none; pass a module or a list of variables`,
    );
  }
  const seen = new Map<string, Variable>();
  for (const parameter of parameters) {
    const other = seen.get(parameter.name);
    if (other === parameter)
      throw new BinadeError(
        "option.invalid",
        `${subject}: parameter ${parameter.name} is given twice; put it in one group`,
      );
    if (other !== undefined) {
      const fix = "call namedParameters() of the module that holds both, or name them apart";
      throw new BinadeError("option.invalid", `${subject}: two parameters are called ${parameter.name}; ${fix}`);
    }
    seen.set(parameter.name, parameter);
  }
}

/** An option that is given as undefined keeps its default. */
function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}
