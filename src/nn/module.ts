/** Module: an object that holds parameters, found by walking its fields. */
import { BinadeError } from "../errors.ts";
import { FLOAT_DTYPES, type FloatDType, isFloat } from "../formats/index.ts";
import { requireChoice, requireKnownKeys, requireOptions } from "../precision/options.ts";
import { formatPolicy, type Policy, readPolicy } from "../precision/policy.ts";
import { type AutocastRule, exactModulePattern, showPaths } from "../precision/rules.ts";
import { RandomStream } from "../tensor/random.ts";
import { guarded } from "../tensor/trace.ts";
import { Variable } from "../tensor/variable.ts";
import { isScoped, type ModulePolicy, modulePolicy, scopeForward } from "./scope.ts";

/** Variables that are state and not trained. */
const bufferVariables = new WeakSet<Variable>();

interface Found {
  readonly owner: object;
  readonly key: string;
  readonly path: string;
  readonly variable: Variable;
  readonly isBuffer: boolean;
}

export interface PolicyOptions {
  /** Overrides of ops' autocast classes inside the module; paths in them start at the outermost module that runs. */
  readonly rules?: readonly AutocastRule[];
}

/**
 * Base of layers and models. Every `Variable` in a field, in an array in a field, or in a submodule there is a parameter,
 * unless it went through `buffer`; its name is the path of fields, such as "blocks.0.attention.qkv.weight". Private
 * `#fields` are not seen. A variable that is reached twice counts once, under the first path in order of fields.
 *
 * @example
 * class Classifier extends nn.Module {
 *   readonly hidden = new nn.Linear(784, 256);
 *   readonly head = new nn.Linear(256, 10);
 *   forward(x: Tensor): Tensor {
 *     return this.head.forward(this.hidden.forward(x).relu());
 *   }
 * }
 */
export abstract class Module {
  #training = true;
  #policy: ModulePolicy | null = null;
  /** How often `to` replaced parameters of this module or of one inside: recordings hold the old ones. */
  #conversions = 0;

  constructor() {
    scopeForward(
      this,
      () => {
        guarded(() => this.#conversions);
        return guarded(() => this.#policy);
      },
      (outermost) => (outermost instanceof Module ? pathsOf(outermost) : new Map()),
    );
  }

  /** Whether the module trains (default) or is evaluated; a compiled function is recorded anew when this has changed. */
  get training(): boolean {
    return guarded(() => this.#training);
  }

  /** Training mode, for this module and those inside: dropout drops. */
  train(): this {
    return this.#setTraining(true);
  }

  /** Evaluation mode, for this module and those inside: dropout is the identity. */
  evaluate(): this {
    return this.#setTraining(false);
  }

  #setTraining(training: boolean): this {
    for (const module of pathsOf(this).keys()) module.#training = training;
    return this;
  }

  /** Marks a variable as state that is saved but not trained; returns it, for use in a field's initialiser. */
  protected buffer(variable: Variable): Variable {
    bufferVariables.add(variable);
    return variable;
  }

  /**
   * Parameters by dotted path, in order of fields. Names the variables: messages, optimizer state and checkpoints use the
   * path from the outermost module that was asked.
   */
  namedParameters(): ReadonlyMap<string, Variable> {
    return new Map(this.#named().flatMap(({ path, variable, isBuffer }) => (isBuffer ? [] : [[path, variable]])));
  }

  /** Buffers by dotted path, random streams included; names them like parameters. */
  namedBuffers(): ReadonlyMap<string, Variable> {
    return new Map(this.#named().flatMap(({ path, variable, isBuffer }) => (isBuffer ? [[path, variable]] : [])));
  }

  parameters(): readonly Variable[] {
    return [...this.namedParameters().values()];
  }

  buffers(): readonly Variable[] {
    return [...this.namedBuffers().values()];
  }

  /** This module under the path "", and those inside by dotted path, the first of several, in order of fields. */
  namedModules(): ReadonlyMap<string, Module> {
    return new Map([...pathsOf(this)].map(([module, [path = ""]]) => [path, module]));
  }

  /**
   * Has `forward` compute under a policy of its own, whatever region it is called in: floating tensors that go in are cast to
   * the compute dtype, ops see it as in `autocast` (float32: as outside of every region), and what comes out is cast to the
   * output dtype. Integers, booleans and float64 are not touched. Modules inside keep policies of their own.
   *
   * @param policy as `parsePolicy` reads it ("p=f32,c=bf16,o=f32", "mixed_bfloat16"), or null for none
   * @throws BinadeError `option.invalid` or `option.unknown` for a bad policy or rule, or a `forward` that is a field and no
   * method; `dtype.mismatch` if the parameters are not in the policy's dtype.
   * @example
   * const model = new nn.GPT({ vocabulary: 256, context: 64, layers: 2, heads: 2, width: 64 });
   * model.head.withPolicy("fp32"); // logits in float32, whatever the rest computes in
   */
  withPolicy(policy: string | Policy | null, options: PolicyOptions = {}): this {
    requireKnownKeys("withPolicy", options, ["rules"]);
    if (!isScoped(this)) {
      throw new BinadeError(
        "option.invalid",
        `withPolicy: forward of ${this.constructor.name} is a field, which no policy reaches; expected a method: write forward(x) { … }`,
      );
    }
    const { rules = [] } = options;
    this.#policy = policy === null ? null : modulePolicy(policy, rules, this.namedParameters());
    return this;
  }

  /** The policy given to `withPolicy`; a compiled function is recorded anew when it has changed. */
  get policy(): Policy | null {
    return guarded(() => this.#policy)?.policy ?? null;
  }

  /**
   * `withPolicy` for modules by path: `*` stands for one part of a path, `**` for any number of parts. Later entries win. A
   * module has one policy, whichever of its paths names it.
   *
   * @throws BinadeError `option.invalid` for a path at which there is no module, or different policies for two paths of one module,
   * before any policy is set; otherwise as `withPolicy`.
   * @example
   * model.withPolicies({ "blocks.*.feedForward": "mixed_float16", head: "fp32" });
   */
  withPolicies(byPath: Readonly<Record<string, string | Policy | null>>): this {
    requireOptions("withPolicies", byPath);
    const modules = pathsOf(this);
    const entries = Object.entries(byPath).map(([text, policy]) => ({
      text,
      policy: policy === null ? null : readPolicy(policy),
      pattern: exactModulePattern(text),
    }));
    const known = [...modules.values()].flat();
    const unmet = entries.find(({ pattern }) => !known.some((path) => pattern.test(path)));
    if (unmet !== undefined) {
      throw new BinadeError(
        "option.invalid",
        `withPolicies: no module is at ${JSON.stringify(unmet.text)}; expected one of ${showPaths(known)}`,
      );
    }
    const chosen = [...modules].flatMap(([module, paths]) => {
      const entry = oneEntry(paths.flatMap((path) => entries.findLast(({ pattern }) => pattern.test(path)) ?? []));
      return entry === undefined ? [] : [{ module, policy: entry.policy }];
    });
    for (const { module, policy } of chosen) {
      if (policy !== null) modulePolicy(policy, [], module.namedParameters());
    }
    for (const { module, policy } of chosen) module.withPolicy(policy);
    return this;
  }

  /**
   * Replaces every floating parameter by one of another dtype with the same values, rounded; a compiled function that runs
   * `forward` is recorded anew. Do so before an optimizer is made: it would go on updating the old ones. Buffers keep their
   * dtype: running statistics stay float32.
   *
   * @throws BinadeError `option.invalid` for another dtype; `dtype.mismatch` if a policy, of this module or of one inside, names another dtype for its parameters.
   * @example
   * const model = new nn.Linear(4, 2).to("bfloat16"); // 16-bit parameters; optimizers keep float32 masters of them
   */
  to(dtype: FloatDType): this {
    requireChoice("to: dtype", dtype, FLOAT_DTYPES);
    this.#named();
    for (const [module, [path = ""]] of pathsOf(this)) module.#requirePolicyOf(dtype, path);
    const replacements = new Map<Variable, Variable>();
    for (const { owner, key, variable, isBuffer } of variablesIn(this, "", new Set())) {
      if (isBuffer || variable.dtype === dtype || !isFloat(variable.dtype)) continue;
      const known = replacements.get(variable) ?? convert(variable, dtype);
      replacements.set(variable, known);
      Reflect.set(owner, key, known);
    }
    if (replacements.size > 0) for (const module of pathsOf(this).keys()) module.#conversions++;
    return this;
  }

  #requirePolicyOf(dtype: FloatDType, path: string): void {
    const policy = this.#policy?.policy;
    if (policy === undefined || policy.parameter === dtype || this.parameters().length === 0) return;
    const subject = path === "" ? "the module" : path;
    throw new BinadeError(
      "dtype.mismatch",
      `to: the policy of ${subject} has parameters in ${policy.parameter}, and they were to become ${dtype}; change the policy after to(), or take it away first with withPolicy(null)`,
    );
  }

  /** Number of trained elements. */
  get parameterCount(): number {
    return this.parameters().reduce((count, { shape }) => count + shape.reduce((a, b) => a * b, 1), 0);
  }

  #named(): readonly Found[] {
    const found = new Map<Variable, Found>();
    for (const item of variablesIn(this, "", new Set())) if (!found.has(item.variable)) found.set(item.variable, item);
    for (const { path, variable, isBuffer } of found.values()) {
      if (depth(path) >= depth(variable.name)) variable.name = path;
      if (!isBuffer) variable.role = "parameter";
    }
    return [...found.values()];
  }
}

interface PolicyEntry {
  readonly text: string;
  readonly policy: Policy | null;
}

/** The entry of a module, of those that decide for each of its paths: of two that differ, one would not have what it asked for. */
function oneEntry([first, ...rest]: readonly PolicyEntry[]): PolicyEntry | undefined {
  const meaning = ({ policy }: PolicyEntry): string => (policy === null ? "none" : formatPolicy(policy));
  const other = rest.find((entry) => first !== undefined && meaning(entry) !== meaning(first));
  if (first === undefined || other === undefined) return first;
  const both = `${JSON.stringify(first.text)} and ${JSON.stringify(other.text)}`;
  throw new BinadeError(
    "option.invalid",
    `withPolicies: ${both} name one module by two of its paths, with different policies; a module has one: give both the same`,
  );
}

/** A part that is asked for its own parameters must not shorten the names that the whole gave. */
const depth = (path: string): number => path.split(".").length;

function* variablesIn(owner: object, prefix: string, visited: Set<object>): Generator<Found> {
  if (visited.has(owner)) return;
  visited.add(owner);
  for (const [key, value] of Object.entries(owner)) {
    const path = `${prefix}${key}`;
    if (value instanceof Variable) yield { owner, key, path, variable: value, isBuffer: bufferVariables.has(value) };
    else if (value instanceof RandomStream) yield { owner, key, path, variable: value.state, isBuffer: true };
    else if (value instanceof Module || Array.isArray(value)) yield* variablesIn(value, `${path}.`, visited);
  }
}

/** Of modules that refer to each other at will there would be more paths than can be listed: the shortest are known. */
const MOST_PATHS = 64;

/** Modules in order of fields, itself included, with all their paths: the first in that order, then the shorter ones first. */
export function pathsOf(outermost: Module): ReadonlyMap<Module, readonly string[]> {
  const found = new Map([...firstPaths(outermost)].map(([module, path]) => [module, [path]]));
  type Visit = { readonly owner: object; readonly path: string; readonly above: Visit | null };
  const isAbove = (owner: object, at: Visit | null): boolean =>
    at !== null && (at.owner === owner || isAbove(owner, at.above));
  const queue: Visit[] = [{ owner: outermost, path: "", above: null }];
  for (const visit of queue) {
    const known = visit.owner instanceof Module ? found.get(visit.owner) : undefined;
    if (isAbove(visit.owner, visit.above) || (known?.length ?? 0) >= MOST_PATHS) continue;
    if (known?.includes(visit.path) === false) known.push(visit.path);
    for (const [key, owner] of partsOf(visit.owner))
      queue.push({ owner, path: visit.path === "" ? key : `${visit.path}.${key}`, above: visit });
  }
  return found;
}

/** Modules by the first path in order of fields. */
function firstPaths(outermost: Module): ReadonlyMap<Module, string> {
  const paths = new Map<Module, string>();
  const visited = new Set<object>();
  const visit = (owner: object, path: string): void => {
    if (visited.has(owner)) return;
    visited.add(owner);
    if (owner instanceof Module) paths.set(owner, path);
    for (const [key, part] of partsOf(owner)) visit(part, path === "" ? key : `${path}.${key}`);
  };
  visit(outermost, "");
  return paths;
}

const partsOf = (owner: object): readonly (readonly [string, object])[] =>
  Object.entries(owner).filter(([, value]) => value instanceof Module || Array.isArray(value));

/** A parameter of the same name and values in another dtype. */
function convert(variable: Variable, dtype: FloatDType): Variable {
  const { name, shape, device, role } = variable;
  const converted = new Variable(name, shape, dtype, undefined, device);
  converted.role = role;
  converted.assign(variable.read().cast(dtype));
  return converted;
}
