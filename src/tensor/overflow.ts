/** Why a step overflowed: the first op whose result is not finite while its operands are, the rule behind its dtype, and a cure. */
import { type DType, FORMATS, isFloat } from "../formats/index.ts";
import type { Node } from "../ir/graph.ts";
import { showShape } from "../ops/shape.ts";
import { requireFields } from "../precision/options.ts";
import { type AutocastRule, isOpName } from "../precision/rules.ts";
import { explainDType } from "./explain.ts";
import { requireStep, requireTensors } from "./require.ts";
import { variableName } from "./runtime.ts";
import { memoryBehind, type StepValue, type StepValues, valuesOfStep } from "./step-values.ts";
import { Tensor } from "./tensor.ts";

/** An operand of the op that overflowed. */
export interface OverflowOperand {
  readonly value: string;
  readonly dtype: DType;
  /** Largest magnitude. */
  readonly largest: number;
}

/** What would have kept the step finite on these arguments. */
export type OverflowCure =
  /** These rules, given to `autocast`: found by trying, and none of them can be left out. */
  | { readonly kind: "rules"; readonly rules: readonly AutocastRule[] }
  /** A loss scale this many times smaller: from the magnitudes that the step has in float32. */
  | { readonly kind: "lossScale"; readonly divisor: number }
  /** No rule helps: the values leave float32's range too, come in so, or the program itself casts them. */
  | { readonly kind: "none"; readonly advice: string };

export interface OverflowReport {
  /** `input`: an argument or parameter is not finite; `forward`: scaling cannot help; `gradient`: it can. */
  readonly kind: "input" | "forward" | "gradient";
  /** The first op, "cast" for a conversion; the input's name for `input`. */
  readonly op: string;
  /** The function that it is a part of, and the path of its module, where there are such. */
  readonly function: string | null;
  readonly module: string | null;
  /** The op of forward whose gradient it computes; null in forward. */
  readonly gradientOf: string | null;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Elements of the result that are not finite. */
  readonly nonFinite: number;
  readonly operands: readonly OverflowOperand[];
  /** Largest magnitude of the same value in float32; null where it has none, or is not finite either. */
  readonly largestInFloat32: number | null;
  /** Why the result has its dtype. */
  readonly why: string;
  readonly cure: OverflowCure;
}

/**
 * Replays a step on these arguments with the present parameters, and names the first op that made a value which is not finite
 * from values that are. Nothing is assigned. Values that are not finite in float32 either, such as the −∞ of a mask, are passed over
 * where another op can be blamed. Takes several times as long as the step, and as much memory as all its values.
 *
 * @param step the function that was given to `compile`
 * @returns null if everything that the step returns and every gradient is finite.
 * @throws BinadeError `option.invalid` for another step, or arguments that are no tensors; otherwise as `compile`.
 * @example
 * const { outcome } = await compiled(x, y);
 * if (!(await readOutcome(outcome)).applied) {
 *   const report = await explainOverflow(step, x, y);
 *   if (report !== null) console.warn(formatOverflow(report));
 * }
 */
export async function explainOverflow<A extends readonly Tensor[]>(
  step: (...args: A) => unknown,
  ...args: A
): Promise<OverflowReport | null> {
  requireStep("explainOverflow", step);
  requireTensors("explainOverflow: argument", args);
  const watched = await valuesOfStep(step, args);
  if (watched.isFinite) return null;
  const twin = new Twin(watched, await valuesOfStep(step, args, { full: true }));
  const culprit = firstCulprit(watched, twin);
  if (culprit === undefined) return null;
  const kind = kindOf(culprit);
  const { node, place } = culprit;
  const asked = culprit.reason;
  return {
    kind,
    op: kind === "input" ? nameOf(node) : node.op.name,
    function: asked?.function ?? place.function,
    module: asked?.module ?? place.module,
    gradientOf: place.gradientOf,
    dtype: node.dtype,
    shape: node.shape,
    nonFinite: culprit.nonFinite,
    operands: operandsOf(culprit, watched),
    largestInFloat32: twin.largestOf(culprit),
    why: explainDType(new Tensor(node)),
    cure: await cureOf(kind, culprit, twin, (rules) => valuesOfStep(step, args, { rules })),
  };
}

function kindOf({ node, isGradient }: StepValue): OverflowReport["kind"] {
  if (node.op.kind === "source") return "input";
  return isGradient ? "gradient" : "forward";
}

const isCast = ({ op }: Node): boolean => op.kind === "pointwise" && op.converts === true;

/** The float32 twin of a step: the same ops in the same order, but for casts. */
class Twin {
  readonly #own: readonly StepValue[];
  readonly #of = new Map<Node, StepValue>();

  constructor(own: StepValues, twin: StepValues) {
    this.#own = own.values;
    const [mine, theirs] = [byPlace(own.values), byPlace(twin.values)];
    for (const [place, values] of mine) {
      const others = theirs.get(place);
      // Where one side has more uses than the other, nothing says which is which.
      if (others?.length !== values.length) continue;
      values.forEach(({ node }, i) => this.#of.set(node, others[i] as StepValue));
    }
  }

  /** What the value is in float32: that of a cast is its operand's. */
  of(node: Node): StepValue | undefined {
    const [x] = node.inputs;
    return isCast(node) && x !== undefined ? this.of(memoryBehind(x)) : this.#of.get(node);
  }

  largestOf({ node }: StepValue): number | null {
    const other = this.of(node) ?? this.#operandOfCast(node);
    return other === undefined || other.nonFinite > 0 ? null : other.largest;
  }

  /** What the twin does not have, such as products of an 8-bit recipe, still has its full range before it is cast. */
  #operandOfCast(node: Node): StepValue | undefined {
    const [x] = node.inputs;
    if (!isCast(node) || x === undefined) return undefined;
    const behind = memoryBehind(x);
    return this.#own.find((value) => value.node === behind);
  }

  isBroken(value: StepValue): boolean {
    return (this.of(value.node)?.nonFinite ?? 0) > 0;
  }

  /** The largest share of their dtype's range that gradients would take. */
  greatestShare(): number {
    return this.#own.reduce((most, value) => {
      const { node, isGradient } = value;
      const largest = this.largestOf(value);
      return !isGradient || largest === null || !isFloat(node.dtype)
        ? most
        : Math.max(most, largest / FORMATS[node.dtype].maxFinite);
    }, 0);
  }
}

function byPlace(values: readonly StepValue[]): ReadonlyMap<string, readonly StepValue[]> {
  const groups = new Map<string, StepValue[]>();
  for (const value of values) {
    if (isCast(value.node)) continue;
    const { function: called, module, gradientOf } = value.place;
    const key = JSON.stringify([value.node.op.name, called, module, gradientOf, value.node.shape]);
    groups.set(key, [...(groups.get(key) ?? []), value]);
  }
  return groups;
}

const isBroken = ({ nonFinite }: StepValue): boolean => nonFinite > 0;

/** The first value that is not finite though its operands are; one that is finite in float32, if there is one. */
function firstCulprit({ values }: StepValues, twin: Twin): StepValue | undefined {
  const broken = new Set(values.filter(isBroken).map(({ node }) => node));
  const first = values.filter(
    (value) => isBroken(value) && !value.node.inputs.some((input) => broken.has(memoryBehind(input))),
  );
  return first.find((value) => !twin.isBroken(value)) ?? first[0];
}

function operandsOf({ node }: StepValue, { values }: StepValues): readonly OverflowOperand[] {
  return node.inputs.flatMap((input) => {
    const behind = memoryBehind(input);
    const value = values.find((candidate) => candidate.node === behind);
    return value === undefined ? [] : [{ value: nameOf(behind), dtype: behind.dtype, largest: value.largest }];
  });
}

function nameOf(node: Node): string {
  const name = variableName(node) ?? node.attributes.name;
  if (typeof name === "string" && name !== "") return name;
  return node.op.kind === "source" ? "an argument" : `${node.op.name} ${showShape(node.shape)}`;
}

const MOST_RULES = 8;

async function cureOf(
  kind: OverflowReport["kind"],
  culprit: StepValue,
  twin: Twin,
  replay: (rules: readonly AutocastRule[]) => Promise<StepValues>,
): Promise<OverflowCure> {
  if (kind === "input")
    return { kind: "none", advice: "find out who made it: no precision policy repairs a value that comes in so" };
  if (twin.isBroken(culprit) || (kind === "forward" && culprit.node.dtype === "float32")) {
    const advice =
      "switching autocast off does not help either: look at the batch and at casts by hand, lower the learning rate, or clip";
    return { kind: "none", advice };
  }
  if (kind === "gradient") {
    const share = twin.greatestShare();
    if (share > 1) return { kind: "lossScale", divisor: 2 ** Math.ceil(Math.log2(share)) };
  }
  const rules = await curingRules(culprit, replay);
  if (rules !== null) return { kind: "rules", rules };
  return { kind: "none", advice: 'compute in bfloat16, which has the range of float32: autocast("bfloat16", …)' };
}

/** Rules that keep the step finite: each takes the op that fails next to float32; then those that are not needed are dropped. */
async function curingRules(
  culprit: StepValue,
  replay: (rules: readonly AutocastRule[]) => Promise<StepValues>,
): Promise<readonly AutocastRule[] | null> {
  let rules: readonly AutocastRule[] = [];
  for (let next: StepValue | undefined = culprit; next !== undefined && rules.length < MOST_RULES; ) {
    const rule = ruleFor(next);
    if (rule === null || rules.some((known) => JSON.stringify(known) === JSON.stringify(rule))) return null;
    rules = [...rules, rule];
    const watched = await replay(rules);
    if (watched.isFinite) return withoutIdle(rules, replay);
    next = firstCulprit(watched, new Twin(watched, watched));
  }
  return null;
}

/** The rule that has the op behind a value compute in float32; null if autocast has no say in it. */
function ruleFor({ node, place, reason }: StepValue): AutocastRule | null {
  // A product with a bias is rounded by a cast of its own, which belongs to the function; so do products of 8-bit recipes.
  const named = place.gradientOf ?? node.op.name;
  const own = isCast(node) || !isOpName(named) ? place.function : named;
  const [op, module] = reason === undefined ? [own, place.module] : [reason.op, reason.module];
  if (op === null || op === "policy") return null;
  return { op, autocast: "wide", ...(module === null || module === "" ? {} : { module }) };
}

async function withoutIdle(
  rules: readonly AutocastRule[],
  replay: (rules: readonly AutocastRule[]) => Promise<StepValues>,
): Promise<readonly AutocastRule[]> {
  let needed = rules;
  for (const rule of rules.length > 1 ? rules : []) {
    const rest = needed.filter((other) => other !== rule);
    if ((await replay(rest)).isFinite) needed = rest;
  }
  return needed;
}

/**
 * A report as a few lines.
 *
 * @example
 * console.warn(formatOverflow(report));
 * // forward overflow: cast in head gives 4 of 8 elements of float16 [2, 4] that are not finite; …
 */
export function formatOverflow(report: OverflowReport): string {
  requireFields("formatOverflow", report, ["kind", "op", "dtype", "shape", "operands", "cure"], "explainOverflow");
  const {
    kind,
    op,
    function: called,
    module,
    gradientOf,
    dtype,
    shape,
    nonFinite,
    operands,
    largestInFloat32,
  } = report;
  const size = shape.reduce((a, b) => a * b, 1);
  const part = called === null || called === op ? "" : ` of ${called}`;
  const place = module === null ? "" : ` in ${module === "" ? "the outermost module" : module}`;
  const subject = `${op}${part}${gradientOf === null ? "" : ` in the gradient of ${gradientOf}`}${place}`;
  const limit = isFloat(dtype) ? FORMATS[dtype].maxFinite : Number.POSITIVE_INFINITY;
  const magnitudes = operands.map(({ value, dtype: d, largest }) => `${value} ${d}, up to ${largest.toPrecision(4)}`);
  return [
    `${kind} ${kind === "input" ? "not finite" : "overflow"}: ${subject} gives ${nonFinite} of ${size} elements of ${dtype} ${showShape(shape)} that are not finite (largest of the format: ${limit.toPrecision(6)})`,
    ...(magnitudes.length > 0 ? [`operands: ${magnitudes.join("; ")}`] : []),
    largestInFloat32 === null
      ? "in float32: not finite either, or not comparable"
      : `in float32: up to ${largestInFloat32.toPrecision(4)}`,
    `dtype: ${report.why}`,
    `cure: ${sentenceOf(report.cure)}`,
  ].join("\n");
}

function sentenceOf(cure: OverflowCure): string {
  switch (cure.kind) {
    case "rules":
      return `rules: ${JSON.stringify(cure.rules)}`;
    case "lossScale":
      return `a loss scale ${cure.divisor} times smaller`;
    case "none":
      return cure.advice;
  }
}
