/** A dry run: what autocast does to a step, in casts, bytes and error, before the step changes anything. */
import type { MemoryPlan } from "../compile/plan.ts";
import { BinadeError } from "../errors.ts";
import { isFloat } from "../formats/index.ts";
import { type AutocastDecision, observingDecisions } from "../precision/autocast.ts";
import { requireFields } from "../precision/options.ts";
import { describeCast, type ExplainedCast, explain } from "./explain.ts";
import { showBytes } from "./plan.ts";
import { gradientsSoFar, type ReplayOptions, replay } from "./replay.ts";
import { requireStep, requireTensors } from "./require.ts";
import { tensorsByPlace } from "./structure.ts";
import type { Tensor } from "./tensor.ts";

/** Uses of one op for which autocast decided the same. */
export interface DecidedOps extends Omit<AutocastDecision, "module"> {
  readonly count: number;
  /** Paths of the modules, each once; empty outside of modules. */
  readonly modules: readonly string[];
}

/** How far a value is from its float32 twin: ‖x − x₃₂‖ / ‖x₃₂‖, Euclidean; ∞ where only the twin is finite. */
export interface EstimatedError {
  /** Place in what the function returned, or name of the parameter whose gradient it is: "weight (2)" for the second of that name. */
  readonly name: string;
  readonly relativeError: number;
}

export interface DryRun {
  readonly ops: readonly DecidedOps[];
  /** Casts that autocast inserted, each once. */
  readonly casts: readonly ExplainedCast[];
  /**
   * Bytes that forward and backward take as written, and with autocast and policies switched off: what the step assigns, and the
   * optimizer's state with it, is left out. `plan` of the compiled step counts everything.
   */
  readonly plan: MemoryPlan;
  readonly float32Plan: MemoryPlan;
  /** On these arguments, with the present parameters. */
  readonly outputs: readonly EstimatedError[];
  readonly gradients: readonly EstimatedError[];
}

/**
 * Records a step twice, as written and in float32, and computes both on these arguments: casts, bytes, and the error of what
 * it returns and of its gradients. Nothing is assigned: parameters, optimizer, scaler and random streams keep their values.
 *
 * @param step a function as for `compile`
 * @param args one probe batch; errors are those of this batch
 * @throws BinadeError `option.invalid` for another step, arguments that are no tensors, or a step that gives nothing to
 * compare; otherwise as `compile`.
 * @example
 * const report = await dryRun((x: Tensor, y: Tensor) => ({ loss: autocast("bfloat16", () => crossEntropy(model.forward(x), y)) }), x, y);
 * console.log(formatDryRun(report));
 */
export async function dryRun<A extends readonly Tensor[]>(step: (...args: A) => unknown, ...args: A): Promise<DryRun> {
  requireStep("dryRun", step);
  requireTensors("dryRun: argument", args);
  const own = await computeStep(step, args);
  const twin = await computeStep(step, args, { full: true });
  return {
    ops: grouped(own.decisions),
    casts: own.casts,
    plan: own.plan,
    float32Plan: twin.plan,
    outputs: await errorsOf(own.outputs, twin.outputs),
    gradients: await errorsOf(own.gradients, twin.gradients),
  };
}

/** Floating values by name. */
type Values = ReadonlyMap<string, Tensor>;

/** What a step computed, and what autocast did to it on the way. */
export interface ComputedStep {
  readonly outputs: Values;
  readonly gradients: Values;
  readonly decisions: readonly AutocastDecision[];
  readonly casts: readonly ExplainedCast[];
  readonly plan: MemoryPlan;
}

/** Computes what a step returns and its gradients, and assigns nothing. */
export async function computeStep<A extends readonly Tensor[]>(
  step: (...args: A) => unknown,
  args: A,
  options: ReplayOptions = {},
): Promise<ComputedStep> {
  const decisions: AutocastDecision[] = [];
  const casts: ExplainedCast[] = [];
  const body = (...given: A) =>
    observingDecisions(
      (decision) => decisions.push(decision),
      () => resultsOf(step(...given), casts),
    );
  const { result, plan } = await replay(body, args, options);
  const [outputs, gradients] = [new Map(Object.entries(result.outputs)), new Map(Object.entries(result.gradients))];
  return { outputs, gradients, decisions, casts, plan };
}

/** What the step returned and what it differentiated; `casts` receives what autocast inserted on the way there. */
function resultsOf(returned: unknown, casts: ExplainedCast[]) {
  const outputs = Object.fromEntries(
    tensorsByPlace(returned).flatMap(([place, x]) => (isFloat(x.dtype) ? [[place || "result", x] as const] : [])),
  );
  const gradients = distinctlyNamed(gradientsSoFar());
  const all = [...Object.values(outputs), ...Object.values(gradients)];
  if (all.length === 0) {
    throw new BinadeError(
      "option.invalid",
      "dryRun: the function returns no floating tensor and computes no gradients; return the loss, for instance",
    );
  }
  casts.push(...explain(...all).filter(({ reason }) => reason !== null));
  return { outputs, gradients };
}

/** By name; a name that comes again, of another model or another loss, is followed by its number: none replaces another. */
function distinctlyNamed(entries: readonly (readonly [string, Tensor])[]): Record<string, Tensor> {
  const counts = new Map<string, number>();
  return Object.fromEntries(
    entries.map(([name, tensor]) => {
      const count = (counts.get(name) ?? 0) + 1;
      counts.set(name, count);
      return [count === 1 ? name : `${name} (${count})`, tensor] as const;
    }),
  );
}

/** Errors by name, the largest first. */
export async function errorsOf(own: Values, twin: Values): Promise<readonly EstimatedError[]> {
  const errors: EstimatedError[] = [];
  for (const [name, tensor] of own) {
    const reference = twin.get(name);
    if (reference === undefined) continue;
    errors.push({ name, relativeError: relativeError(await tensor.data(), await reference.data()) });
  }
  return errors.sort((a, b) => b.relativeError - a.relativeError);
}

/**
 * ‖x − y‖ / ‖y‖ over the elements where y is finite, since masks are not; 0 where both are 0. Infinite where no element of y is
 * finite: what cannot be compared is not equal.
 */
export function relativeError(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let [distance, norm, compared] = [0, 0, 0];
  for (let i = 0; i < y.length; i++) {
    const [a = 0, b = 0] = [x[i], y[i]];
    if (!Number.isFinite(b)) continue;
    compared++;
    distance += (a - b) ** 2;
    norm += b ** 2;
  }
  if (Number.isNaN(distance) || (y.length > 0 && compared === 0)) return Number.POSITIVE_INFINITY;
  return distance === 0 ? 0 : Math.sqrt(distance / norm);
}

/** Decisions that are the same, together. */
export function grouped(decisions: readonly AutocastDecision[]): readonly DecidedOps[] {
  const groups = new Map<string, { decision: AutocastDecision; count: number; modules: Set<string> }>();
  for (const decision of decisions) {
    const { module, ...rest } = decision;
    const key = JSON.stringify(rest);
    const group = groups.get(key) ?? { decision, count: 0, modules: new Set<string>() };
    group.count++;
    if (module !== null) group.modules.add(module);
    groups.set(key, group);
  }
  return [...groups.values()].map(({ decision: { module: _, ...rest }, count, modules }) => ({
    ...rest,
    count,
    modules: [...modules],
  }));
}

const REPORT_FIELDS = ["ops", "casts", "plan", "float32Plan", "outputs", "gradients"];
const SHOWN = 8;
const percent = (share: number): string =>
  Number.isFinite(share) ? `${(100 * share).toPrecision(2)} %` : "not finite";

/**
 * A dry run as text: ops by dtype, casts, bytes with and without, and the largest errors.
 *
 * @example
 * console.log(formatDryRun(await dryRun(step, x, y)));
 */
export function formatDryRun(report: DryRun): string {
  requireFields("formatDryRun", report, REPORT_FIELDS, "dryRun");
  const { ops, casts, plan, float32Plan, outputs, gradients } = report;
  const named = ops.filter(({ dtype }) => dtype !== null);
  const opLines = named.map(({ op, function: called, autocast, rule, dtype, count }) => {
    const subject = called === null || called === op ? op : `${called} (${op})`;
    return `  ${`${count} ×`.padStart(6)} ${subject.padEnd(40)} ${String(dtype).padEnd(9)} ${rule ?? autocast}`;
  });
  const written = casts.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const bytes = (label: string, own: number, twin: number): string =>
    `  ${label.padEnd(14)}${showBytes(own).padStart(10)}${showBytes(twin).padStart(14)}`;
  const errorLines = (label: string, errors: readonly EstimatedError[]): readonly string[] =>
    errors
      .slice(0, SHOWN)
      .map(({ name, relativeError: share }) => `  ${label} ${name.padEnd(40)} ${percent(share).padStart(10)}`);
  return [
    "ops by the dtype of their operands",
    ...opLines,
    `casts: ${casts.length}, ${showBytes(written)} if all were stored; stored at most ${showBytes(plan.arena.most.casts)}`,
    ...casts.slice(0, SHOWN).map((cast) => `  ${describeCast(cast)}`),
    ...(casts.length > SHOWN ? [`  … and ${casts.length - SHOWN} more`] : []),
    `bytes${"as written".padStart(21)}${"float32".padStart(14)}`,
    bytes("activations", plan.arena.most.activations, float32Plan.arena.most.activations),
    bytes("whole", plan.byteLength, float32Plan.byteLength),
    "error against float32, on these arguments",
    ...errorLines("output  ", outputs),
    ...errorLines("gradient", gradients),
  ].join("\n");
}
