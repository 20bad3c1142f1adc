/** Where a module runs: its path, and its precision policy around `forward`. */
import { BinadeError } from "../errors.ts";
import { type HalfDType, shortName } from "../formats/index.ts";
import { inModule } from "../precision/autocast.ts";
import { type Policy, readPolicy } from "../precision/policy.ts";
import { type AutocastRule, type ReadyRule, readyRules } from "../precision/rules.ts";
import { castTreeByPolicy } from "../tensor/tree.ts";
import type { Variable } from "../tensor/variable.ts";

/** A policy that is ready to be entered. */
export interface ModulePolicy {
  readonly policy: Policy;
  readonly dtype: HalfDType | null;
  readonly rules: readonly ReadyRule[];
}

/**
 * Checks a policy for a module with these parameters.
 *
 * @throws BinadeError `option.invalid` for an unreadable policy or a compute dtype that autocast does not have;
 * `dtype.mismatch` naming the parameters whose dtype is not the policy's.
 */
export function modulePolicy(
  given: string | Policy,
  rules: readonly AutocastRule[],
  parameters: ReadonlyMap<string, Variable>,
): ModulePolicy {
  const policy = readPolicy(given);
  const { compute, parameter } = policy;
  if (compute !== "float32" && compute !== "float16" && compute !== "bfloat16") {
    throw new BinadeError(
      "option.invalid",
      `withPolicy: compute is ${compute}, expected float32, float16 or bfloat16; name one of them after c=`,
    );
  }
  const others = [...parameters].filter(([, { dtype }]) => dtype !== parameter);
  if (others.length > 0) {
    const names = others.map(([name, { dtype }]) => `${name} (${shortName(dtype)})`).join(", ");
    throw new BinadeError(
      "dtype.mismatch",
      `withPolicy: the policy's parameters are ${parameter}, and these are not: ${names}; call module.to("${parameter}") first, or name another dtype after p=`,
    );
  }
  return { policy, dtype: compute === "float32" ? null : compute, rules: readyRules(rules) };
}

/** Forwards that run under their module's path and policy. */
const scoped = new WeakSet<object>();

/** Whether the module's `forward`, if it has one, is such a one: a field that a class initialises takes its place. */
export function isScoped(module: object): boolean {
  const forward: unknown = Reflect.get(module, "forward");
  return typeof forward !== "function" || scoped.has(forward);
}

/** Modules with all their paths from an outermost one, in order of fields. */
export type ModulePaths = ReadonlyMap<object, readonly string[]>;

/** A module that runs. */
interface Running {
  /** Of the outermost module that runs. */
  readonly tree: () => ModulePaths;
  /** The paths of this one by which rules may mean it here; none of a module in a private field. */
  readonly paths: () => readonly string[];
}

let running: Running | null = null;

/** The value of `make`, which is called when it is first asked for. */
function lazily<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/**
 * Has `forward` run under the module's path and policy. A property of the object, not of its class: `super.forward` stays
 * what the class wrote, and applies no policy twice.
 *
 * @param pathsIn the paths of a module and of what is inside it
 */
export function scopeForward(
  module: object,
  policyNow: () => ModulePolicy | null,
  pathsIn: (outermost: object) => ModulePaths,
): void {
  const forward: unknown = Reflect.get(module, "forward");
  if (typeof forward !== "function") return;
  const value = (...args: readonly unknown[]): unknown => {
    const caller = running;
    const tree = caller?.tree ?? lazily(() => pathsIn(module));
    const own: Running = { tree, paths: lazily(() => pathsThrough(caller, tree().get(module) ?? [])) };
    running = own;
    try {
      return underPolicy(policyNow(), own, args, (given) => Reflect.apply(forward, module, given));
    } finally {
      running = caller;
    }
  };
  scoped.add(value);
  Object.defineProperty(module, "forward", { value, configurable: true, writable: true, enumerable: false });
}

/**
 * Of a module that is reached by several paths, those that lead through the one that called it: a call in `a` is one of
 * "a.shared", not of "b.shared". All of them where none does.
 */
function pathsThrough(caller: Running | null, own: readonly string[]): readonly string[] {
  if (caller === null || own.length < 2) return own;
  const through = own.filter((path) => caller.paths().some((outer) => isWithin(path, outer)));
  return through.length === 0 ? own : through;
}

const isWithin = (path: string, outer: string): boolean =>
  outer === "" || path === outer || path.startsWith(`${outer}.`);

/** After jmp: what goes in is cast to the compute dtype, what comes out to the output dtype. */
function underPolicy(
  policy: ModulePolicy | null,
  { tree, paths }: Running,
  args: readonly unknown[],
  forward: (args: readonly unknown[]) => unknown,
): unknown {
  const allPaths = (): Iterable<string> => [...tree().values()].flat();
  if (policy === null) return inModule(paths, allPaths, null, () => forward(args));
  const { compute, output } = policy.policy;
  return inModule(paths, allPaths, policy, () => castTreeByPolicy(forward(castTreeByPolicy(args, compute)), output));
}
