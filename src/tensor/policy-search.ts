/** Which ops must stay in float32: the fewest rules with which a step is as close to its float32 twin as asked. */
import { BinadeError, listNames } from "../errors.ts";
import { isPositive, requireInteger, requireKnownKeys, requireNumber } from "../precision/options.ts";
import type { AutocastRule } from "../precision/rules.ts";
import { type ComputedStep, computeStep, errorsOf, grouped } from "./dry-run.ts";
import { requireStep, requireTensors } from "./require.ts";
import type { Tensor } from "./tensor.ts";

export interface RuleSearchOptions {
  /**
   * Largest relative error that is accepted, of every output and of every parameter's gradient: ‖x − x₃₂‖ / ‖x₃₂‖. One
   * rounding to bfloat16 costs about 0.002, one to float16 0.0002.
   */
  readonly tolerance: number;
  /** Most times that the step is computed. Default 200. */
  readonly maxReplays?: number;
}

export interface RuleSearch {
  /** Give them to `autocast(…, { rules })`: none of them can be left out, and no module of them. */
  readonly rules: readonly AutocastRule[];
  /** The largest error with the rules, and without. */
  readonly relativeError: number;
  readonly relativeErrorWithout: number;
  /** Whether the error is within the tolerance. */
  readonly isMet: boolean;
  readonly replays: number;
}

/**
 * Searches for the ops that must compute in float32 for a step to meet a tolerance on these arguments: the op whose error costs
 * most goes first, then what turned out not to be needed is taken back, op by op and module by module. The result is a
 * set of which nothing can be left out, not necessarily the smallest of all. Nothing is assigned.
 *
 * @param step a function as for `compile`, with its own `autocast` inside
 * @param args one probe batch
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for bad options; `value.range` where the step is not
 * finite in float32 either, naming what is not; otherwise as `dryRun`.
 * @example
 * const { rules, isMet } = await searchRules(step, [x, y], { tolerance: 0.01 });
 */
export async function searchRules<A extends readonly Tensor[]>(
  step: (...args: A) => unknown,
  args: A,
  options: RuleSearchOptions,
): Promise<RuleSearch> {
  requireStep("searchRules", step);
  requireTensors("searchRules: argument", args);
  requireKnownKeys("searchRules", options, ["tolerance", "maxReplays"]);
  const { tolerance, maxReplays = 200 } = options;
  requireNumber("searchRules: tolerance", tolerance, isPositive, "a finite number > 0");
  requireInteger("searchRules: maxReplays", maxReplays, 2);
  const twin = await computeStep(step, args, { full: true });
  const bare = await computeStep(step, args);
  const search = new Search((rules) => computeStep(step, args, { rules }), twin, tolerance, maxReplays);
  await search.requireComparable();
  const relativeErrorWithout = await search.errorOf(bare);
  const candidates = candidatesOf(bare);
  const found = relativeErrorWithout <= tolerance ? [] : await search.grow(candidates);
  const chosen = found.length === 0 ? found : await search.shrink(found);
  const rules = chosen.map(({ rule }) => rule);
  const relativeError = rules.length === 0 ? relativeErrorWithout : await search.errorWith(rules);
  return { rules, relativeError, relativeErrorWithout, isMet: relativeError <= tolerance, replays: search.replays };
}

/** A rule that may help, and the modules in which its op runs. */
interface Candidate {
  readonly rule: AutocastRule;
  readonly modules: readonly string[];
}

/** One rule per op that computes in 16 bits. */
function candidatesOf({ decisions }: ComputedStep): readonly Candidate[] {
  const modulesOf = new Map<string, Set<string>>();
  for (const { op, function: called, dtype, modules } of grouped(decisions)) {
    if (dtype !== "float16" && dtype !== "bfloat16") continue;
    const name = called ?? op;
    const known = modulesOf.get(name) ?? new Set<string>();
    for (const path of modules) known.add(path);
    modulesOf.set(name, known);
  }
  return [...modulesOf].map(([op, modules]) => ({ rule: { op, autocast: "wide" }, modules: [...modules] }));
}

class Search {
  readonly #compute: (rules: readonly AutocastRule[]) => Promise<ComputedStep>;
  readonly #twin: ComputedStep;
  readonly #tolerance: number;
  readonly #maxReplays: number;
  readonly #known = new Map<string, number>();
  replays = 2;

  constructor(
    compute: (rules: readonly AutocastRule[]) => Promise<ComputedStep>,
    twin: ComputedStep,
    tolerance: number,
    maxReplays: number,
  ) {
    this.#compute = compute;
    this.#twin = twin;
    this.#tolerance = tolerance;
    this.#maxReplays = maxReplays;
  }

  /** Throws where float32 itself gives nothing to compare with: the error would be infinite under any rules. */
  async requireComparable(): Promise<void> {
    const { outputs, gradients } = this.#twin;
    const errors = [...(await errorsOf(outputs, outputs)), ...(await errorsOf(gradients, gradients))];
    const bad = errors.filter(({ relativeError }) => relativeError > 0).map(({ name }) => name);
    if (bad.length === 0) return;
    throw new BinadeError(
      "value.range",
      `searchRules: ${listNames(bad)}: expected numbers in float32, got NaN or infinities only; give a batch and parameters that float32 computes with`,
    );
  }

  /** The largest error of a computed step. */
  async errorOf(own: ComputedStep): Promise<number> {
    const errors = [
      ...(await errorsOf(own.outputs, this.#twin.outputs)),
      ...(await errorsOf(own.gradients, this.#twin.gradients)),
    ];
    return Math.max(0, ...errors.map(({ relativeError }) => relativeError));
  }

  /** The largest error with rules; ∞ for what was not tried when the replays ran out. */
  async errorWith(rules: readonly AutocastRule[]): Promise<number> {
    const key = JSON.stringify(rules);
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    if (this.replays >= this.#maxReplays) return Number.POSITIVE_INFINITY;
    this.replays++;
    const error = await this.errorOf(await this.#compute(rules));
    this.#known.set(key, error);
    return error;
  }

  async #meets(candidates: readonly Candidate[]): Promise<boolean> {
    return (await this.errorWith(candidates.map(({ rule }) => rule))) <= this.#tolerance;
  }

  /** Adds the candidate that leaves the least error, until the tolerance is met or none are left. */
  async grow(candidates: readonly Candidate[]): Promise<readonly Candidate[]> {
    let chosen: readonly Candidate[] = [];
    let left = candidates;
    while (left.length > 0) {
      const tried: { candidate: Candidate; error: number }[] = [];
      for (const candidate of left)
        tried.push({ candidate, error: await this.errorWith([...chosen, candidate].map(({ rule }) => rule)) });
      const best = tried.reduce((a, b) => (b.error < a.error ? b : a));
      chosen = [...chosen, best.candidate];
      left = left.filter((candidate) => candidate !== best.candidate);
      if (best.error <= this.#tolerance) break;
    }
    return chosen;
  }

  /** Takes back rules, and then modules of the rules that stay, while the tolerance stays met. */
  async shrink(chosen: readonly Candidate[]): Promise<readonly Candidate[]> {
    if (!(await this.#meets(chosen))) return chosen;
    let needed = chosen;
    for (const candidate of chosen) {
      const rest = needed.filter((other) => other !== candidate);
      if (rest.length > 0 && (await this.#meets(rest))) needed = rest;
    }
    for (const candidate of needed) needed = await this.#withFewerModules(needed, candidate);
    return needed;
  }

  async #withFewerModules(needed: readonly Candidate[], candidate: Candidate): Promise<readonly Candidate[]> {
    let best = needed;
    let current = candidate;
    // The outermost module has no path that a rule could name.
    if (candidate.modules.length < 2 || candidate.modules.includes("")) return needed;
    for (const path of candidate.modules) {
      const modules = current.modules.filter((other) => other !== path);
      if (modules.length === 0) break;
      const narrowed: Candidate = { rule: { ...candidate.rule, module: modules }, modules };
      const tried = best.map((other) => (other === current ? narrowed : other));
      if (await this.#meets(tried)) [best, current] = [tried, narrowed];
    }
    return best;
  }
}
