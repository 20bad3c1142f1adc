/** Autocast: which operands an op sees in which dtype, decided when a node is built: by its row's class, or a rule of the user's. */
import { BinadeError, showValue } from "../errors.ts";
import { type DType, type HalfDType, isFloat, promote, shortName } from "../formats/index.ts";
import { build, type Node } from "../ir/graph.ts";
import type { Op } from "../ops/define.ts";
import { requireFunction, requireKnownKeys } from "./options.ts";
import {
  type AutocastClass,
  type AutocastRule,
  type FunctionName,
  type ReadyRule,
  readyRules,
  requireModules,
  ruleFor,
} from "./rules.ts";

/** Where a node is built. */
export interface AutocastRegion {
  /** The compute dtype of narrow ops; null: a full-precision island. */
  readonly dtype: HalfDType | null;
  /** Overrides: those of inner regions come after those of outer ones. */
  readonly rules: readonly ReadyRule[];
  /** The function that is being built, of those that rules may name. */
  readonly function: FunctionName | null;
  /** Paths of the innermost module that runs, of which rules may name any; none outside of modules. */
  readonly paths: () => readonly string[];
  /** For each region whose rules name modules: every path of the outermost modules that ran in it. */
  readonly ranIn: readonly Set<string>[];
  /** Tells one pass through the outermost region or module from the next; null outside of both. */
  readonly pass: object | null;
}

const OUTSIDE: AutocastRegion = { dtype: null, rules: [], function: null, paths: () => [], ranIn: [], pass: null };
let current = OUTSIDE;

/** The compute dtype in force, or null outside every region. */
export const autocastDType = (): HalfDType | null => current.dtype;

/** Anything but a promise: for the results of functions that only build a graph. */
export type Synchronous<T> = T extends PromiseLike<unknown> ? never : unknown;

export interface AutocastOptions {
  /** Overrides of ops' classes inside the callback, regions within it included; of those that match, the last decides. */
  readonly rules?: readonly AutocastRule[];
}

/**
 * Runs `body` with matrix products, convolutions and attention in `dtype`, and exponentials, norms, losses and sums in
 * float32. Synchronous: two tasks never see each other's setting. `false` makes a full-precision island inside a region.
 *
 * @param dtype "float16", "bfloat16", or false to switch autocast off inside.
 * @returns what `body` returns.
 * @throws BinadeError `autocast.async` if `body` returns a promise; `option.invalid` or `option.unknown` for another dtype or options, a
 * rule that names no op, or one that names no module although modules ran.
 * @example
 * const loss = autocast("bfloat16", () => crossEntropy(model.forward(x), y));
 * @example
 * const rules = [{ op: "matmul", module: "head", autocast: "wide", reason: "its logits reach 1e5" }] as const;
 * const logits = autocast("float16", () => model.forward(x), { rules });
 */
export function autocast<T>(
  dtype: HalfDType | false,
  body: () => T & Synchronous<T>,
  options: AutocastOptions = {},
): T {
  if (dtype !== false && dtype !== "float16" && dtype !== "bfloat16") {
    throw new BinadeError(
      "option.invalid",
      `autocast: dtype is ${showValue(dtype)}, expected "float16", "bfloat16" or false`,
    );
  }
  requireFunction("autocast: the callback", body);
  requireKnownKeys("autocast", options, ["rules"]);
  const { rules = [] } = options;
  const own = readyRules(rules);
  const paths = new Set<string>();
  const ranIn = own.some(({ matchesModule }) => matchesModule !== null) ? [...current.ranIn, paths] : current.ranIn;
  const region = {
    ...current,
    dtype: dtype === false ? null : dtype,
    rules: [...current.rules, ...own],
    ranIn,
    pass: passNow(),
  };
  const result = within(region, body);
  requireModules(own, paths);
  return result;
}

const passNow = (): object => current.pass ?? {};

/** Runs `body` in a region; it must not leave it waiting. */
function within<T>(region: AutocastRegion, body: () => T): T {
  const result = inRegion(region, body);
  if (result instanceof Promise) {
    throw new BinadeError(
      "autocast.async",
      "autocast: the callback returned a promise; build the graph synchronously inside it, and await outside",
    );
  }
  return result;
}

function inRegion<T>(region: AutocastRegion, body: () => T): T {
  const before = current;
  current = isFullPrecision ? { ...region, dtype: null } : region;
  try {
    return body();
  } finally {
    current = before;
  }
}

/** The module that runs by its path, the first of several; null outside of modules. */
const moduleNow = (): string | null => current.paths()[0] ?? null;

/** The function and the module that nodes are built for. */
export const placeNow = (): { readonly function: string | null; readonly module: string | null } => ({
  function: current.function,
  module: moduleNow(),
});

/** Runs `body` with rules that every region inside begins with: the step's own come after them, and win. */
export const underRules = <T>(rules: readonly AutocastRule[], body: () => T): T =>
  inRegion({ ...current, rules: [...current.rules, ...readyRules(rules)] }, body);

/** Runs `body` outside of every region, rule, function and module: so are gradients and recordings made. */
export const outsideRegions = <T>(body: () => T): T => inRegion(OUTSIDE, body);

/** Runs `body` as a part of the function that users call by this name: an outer one keeps its name. */
export const inFunction = <T>(name: FunctionName, body: () => T): T =>
  inRegion({ ...current, function: current.function ?? name }, body);

/**
 * Runs `body` as the forward of a module; a policy has rules and a compute dtype of its own.
 *
 * @param paths those of the module by which a rule may mean it here
 * @param allPaths of the outermost module that runs: its own and those inside
 */
export function inModule<T>(
  paths: () => readonly string[],
  allPaths: () => Iterable<string>,
  policy: Pick<AutocastRegion, "dtype" | "rules"> | null,
  body: () => T,
): T {
  for (const ran of current.ranIn) for (const known of allPaths()) ran.add(known);
  if (policy !== null && policy.rules.length > 0) requireModules(policy.rules, new Set(allPaths()));
  const region = { ...current, function: null, paths, pass: passNow() };
  if (policy === null) return inRegion(region, body);
  return within({ ...region, dtype: policy.dtype, rules: [...current.rules, ...policy.rules] }, body);
}

let isFullPrecision = false;

/** Runs `body` as if no region and no policy in it were there: the float32 twin of a computation. */
export function fullPrecision<T>(body: () => T): T {
  const before = isFullPrecision;
  isFullPrecision = true;
  try {
    return inRegion(current, body);
  } finally {
    isFullPrecision = before;
  }
}

/** Whether this is such a twin: 8-bit recipes are left out of it as well. */
export const inFullPrecision = (): boolean => isFullPrecision;

/** What autocast decided for one use of an op. */
export interface AutocastDecision {
  readonly op: string;
  readonly function: string | null;
  readonly module: string | null;
  readonly autocast: AutocastClass;
  /** The user's rule that decided. */
  readonly rule: string | null;
  /** The dtype of its floating operands then; null: it has none that autocast touches. */
  readonly dtype: DType | null;
}

let observer: ((decision: AutocastDecision) => void) | null = null;

/** Runs `body`; every decision inside a region on the way. */
export function observingDecisions<T>(observe: (decision: AutocastDecision) => void, body: () => T): T {
  const before = observer;
  observer = observe;
  try {
    return body();
  } finally {
    observer = before;
  }
}

function tell(op: string, autocast: AutocastClass, rule: string | null, operands: readonly Node[]): void {
  if (observer === null || current.dtype === null) return;
  const dtype = operands.find(isAutocastable)?.dtype ?? null;
  observer({ op, function: current.function, module: moduleNow(), autocast, rule, dtype });
}

/** Why a cast was inserted: what asked for it, and by which rule. */
export interface CastReason {
  /** The row that asked, or "policy": a module's, for what goes in and comes out. */
  readonly op: string;
  /** The function that the row is a part of. */
  readonly function: string | null;
  /** Path of the module, "" for the outermost one; null outside of modules. */
  readonly module: string | null;
  readonly autocast: AutocastClass | "policy";
  /** The user's rule that took the place of the row's class. */
  readonly rule: string | null;
  readonly from: DType;
  readonly to: DType;
}

const reasons = new WeakMap<Node, { readonly pass: object | null; readonly reason: CastReason }>();

/**
 * Why autocast made this cast; undefined for casts that were written by hand. One that is made again is the same node: the first
 * reason of the last pass counts.
 */
export const reasonOf = (cast: Node): CastReason | undefined => reasons.get(cast)?.reason;

/** Autocast touches floats of at most 32 bits: never float64, integers or booleans. */
export const isAutocastable = (node: Node): boolean => isFloat(node.dtype) && node.dtype !== "float64" && !isWeak(node);
const isWeak = (node: Node): boolean => node.op.kind === "source" && node.op.weak === true;

/** A cast that knows its reason. */
function castFor(node: Node, to: DType, reason: Pick<CastReason, "op" | "autocast" | "rule">): Node {
  if (node.dtype === to) return node;
  const cast = build.cast(node, to);
  const { pass } = current;
  if (reasons.get(cast)?.pass !== pass || pass === null) {
    const place = { function: current.function, module: moduleNow() };
    reasons.set(cast, { pass, reason: { ...reason, ...place, from: node.dtype, to } });
  }
  return cast;
}

/** The value in a dtype that a module's policy asks for. */
export const castByPolicy = (node: Node, to: DType): Node =>
  isAutocastable(node) && !isFullPrecision ? castFor(node, to, { op: "policy", autocast: "policy", rule: null }) : node;

/** The operands as `op` shall see them. Outside a region only the widest-operand rule acts. */
export function castOperands(op: Pick<Op, "name" | "autocast" | "uncast">, inputs: readonly Node[]): readonly Node[] {
  const { autocast, rule } = classOf(op);
  const target = targetOf(autocast, inputs, current.function ?? op.name);
  const operands = target === null ? inputs : castTo(target, op, autocast, rule, inputs);
  tell(op.name, autocast, rule, operands);
  return operands;
}

function castTo(
  target: DType,
  op: Pick<Op, "name" | "uncast">,
  autocast: AutocastClass,
  rule: string | null,
  inputs: readonly Node[],
): readonly Node[] {
  return inputs.map((node, i) => {
    const touched =
      autocast === "widest"
        ? isFloat(node.dtype) && !isWeak(node)
        : isAutocastable(node) && op.uncast?.includes(i) !== true;
    return touched ? castFor(node, target, { op: op.name, autocast, rule }) : node;
  });
}

/**
 * The dtype in which a norm keeps its normalised value for backward: the region's, unless a rule has the norm in float32;
 * outside of regions that of `x`.
 */
export function savedDType(op: string, x: Node): DType {
  const { dtype } = current;
  if (dtype === null) return x.dtype;
  const rule = userRule(op);
  const saved = rule?.autocast === "wide" ? "float32" : dtype;
  observer?.({
    op: "saved",
    function: current.function ?? op,
    module: moduleNow(),
    autocast: saved === dtype ? "narrow" : "wide",
    rule: rule?.text ?? null,
    dtype: saved,
  });
  return saved;
}

/** The user's rule for an op here; none outside of regions. */
function userRule(name: string): ReadyRule | null {
  const { dtype, rules, paths } = current;
  const called = current.function === null ? [name] : [name, current.function];
  return dtype === null || rules.length === 0 ? null : ruleFor(rules, called, paths);
}

/** The class in force: the user's last rule that matches inside a region, else the row's. */
function classOf({ name, autocast }: Pick<Op, "name" | "autocast">): { autocast: AutocastClass; rule: string | null } {
  const { dtype } = current;
  const rule = userRule(name);
  if (rule !== null) return { autocast: rule.autocast, rule: rule.text };
  if (typeof autocast !== "object") return { autocast, rule: null };
  if (dtype === null) return { autocast: "as-is", rule: null };
  throw new BinadeError(
    "autocast.refused",
    `${current.function ?? name}: refused under autocast ${shortName(dtype)}; ${autocast.refuse}`,
  );
}

function targetOf(rule: AutocastClass, inputs: readonly Node[], name: string): DType | null {
  switch (rule) {
    case "narrow":
      return current.dtype;
    case "wide":
      return current.dtype === null ? null : "float32";
    case "widest":
      return widest(inputs, name);
    case "as-is":
      return null;
  }
}

function widest(inputs: readonly Node[], name: string): DType | null {
  const dtypes = inputs.filter((n) => isFloat(n.dtype) && !isWeak(n)).map((n) => n.dtype);
  if (new Set(dtypes).size < 2) return null;
  try {
    return dtypes.reduce(promote);
  } catch (error) {
    throw new BinadeError("dtype.mismatch", `${name}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}
