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

/** The outermost module that runs. */
let root: object | null = null;

/**
 * Has `forward` run under the module's path and policy. A property of the object, not of its class: `super.forward` stays
 * what the class wrote, and applies no policy twice.
 *
 * @param pathsIn the paths of a module and of what is inside it
 */
export function scopeForward(
  module: object,
  policyNow: () => ModulePolicy | null,
  pathsIn: (outermost: object) => ReadonlyMap<object, string>,
): void {
  const forward: unknown = Reflect.get(module, "forward");
  if (typeof forward !== "function") return;
  const value = (...args: readonly unknown[]): unknown => {
    const outermost = root;
    root ??= module;
    const from = root;
    let paths: ReadonlyMap<object, string> | undefined;
    const pathsNow = (): ReadonlyMap<object, string> => (paths ??= pathsIn(from));
    const place = { path: () => pathsNow().get(module) ?? null, paths: () => pathsNow().values() };
    try {
      return underPolicy(policyNow(), place, args, (given) => Reflect.apply(forward, module, given));
    } finally {
      root = outermost;
    }
  };
  scoped.add(value);
  Object.defineProperty(module, "forward", { value, configurable: true, writable: true, enumerable: false });
}

/** After jmp: what goes in is cast to the compute dtype, what comes out to the output dtype. */
function underPolicy(
  policy: ModulePolicy | null,
  { path, paths }: { readonly path: () => string | null; readonly paths: () => Iterable<string> },
  args: readonly unknown[],
  forward: (args: readonly unknown[]) => unknown,
): unknown {
  if (policy === null) return inModule(path, paths, null, () => forward(args));
  const { compute, output } = policy.policy;
  return inModule(path, paths, policy, () => castTreeByPolicy(forward(castTreeByPolicy(args, compute)), output));
}
