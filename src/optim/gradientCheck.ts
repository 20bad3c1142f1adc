/** The finite check of a scaler: what it looks at, what it makes of a step, and whom it blames. */
import type { CheckedValues } from "../precision/scalePresets.ts";
import { full } from "../tensor/create.ts";
import { nonFiniteCount } from "../tensor/finite.ts";
import { concatenate, where } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import { type SkipReason, verdictOf } from "./outcome.ts";

/** An unscaled gradient and what was found in it. */
export interface Checked {
  readonly gradient: Tensor;
  /** How many elements of what the check looks at are not finite; of a norm, 1 if it is not finite. */
  readonly nonFinite: Tensor;
  /** The sum of squares of the scaled gradient, where the check looks at the norm. */
  readonly squares: Tensor | null;
}

export type Entry = readonly [parameter: Variable, gradient: Tensor];

const code = (reason: SkipReason): Tensor => full([], verdictOf(reason), "int32");
const sumOfSquares = (gradient: Tensor): Tensor => gradient.cast("float32").square().sum();
const sumOf = (scalars: readonly Tensor[]): Tensor => scalars.reduce((sum, one) => sum.add(one));
const stack = (scalars: readonly Tensor[]): Tensor => concatenate(scalars.map((scalar) => scalar.reshape([1])));

/** Divides a gradient by the scale (null: by 1, which changes no bit), and looks at it. */
export function unscaleAndCheck(scaled: Tensor, lossScale: Tensor | null, checks: CheckedValues): Checked {
  const gradient = lossScale === null ? scaled : scaled.cast("float32").mul(lossScale.reciprocal()).cast(scaled.dtype);
  if (checks === "norm") {
    const squares = sumOfSquares(scaled);
    return { gradient, nonFinite: nonFiniteCount(squares), squares };
  }
  // One look at the unscaled side serves for both: what was infinite or NaN is so after the product (∞ · 0 is NaN).
  return { gradient, nonFinite: nonFiniteCount(checks === "scaled" ? scaled : gradient), squares: null };
}

/** Whether everything that was checked is finite: a bool scalar. */
export function allCheckedFinite(checked: readonly Checked[]): Tensor {
  const finite = sumOf(checked.map(({ nonFinite }) => nonFinite)).equal(0);
  const squares = checked.flatMap((one) => one.squares ?? []);
  return squares.length === 0 ? finite : finite.and(sumOf(squares).isFinite());
}

/** The largest magnitude of all gradients, a float32 scalar: 0 of no elements. */
export const largestMagnitude = (gradients: readonly Tensor[]): Tensor =>
  gradients
    .filter(({ size }) => size > 0)
    .map((gradient) => gradient.cast("float32").abs().max())
    .reduce((a, b) => a.maximum(b), full([], 0));

/** What a step is judged by. */
export interface Evidence {
  readonly entries: readonly Entry[];
  /** What `unscale` found, for every entry that went through it; several for one whose gradients come from several losses. */
  readonly found: readonly (readonly Checked[])[];
  /** Whether gradients that were changed since `unscale` are checked once more. */
  readonly again: boolean;
  /** bool scalars of the session: the losses were finite, and one was not 0. */
  readonly lossFinite: Tensor;
  readonly lossNonZero: Tensor;
  /** bool scalar: the scale can be divided by; null where that is certain. */
  readonly usable: Tensor | null;
  readonly skipNormAbove: number | undefined;
  readonly skipZeroGradients: boolean;
}

/** What `StepOutcome` tells of it; and whether all gradients were finite, a bool scalar. */
export interface Judgement {
  readonly applied: Tensor;
  readonly verdict: Tensor;
  readonly blame: Tensor;
  readonly finite: Tensor;
}

/** A reason to skip, in the order of precedence, and whom it blames. */
interface Finding {
  readonly holds: Tensor;
  readonly verdict: Tensor;
  readonly blame: Tensor;
}

/** Judges a step on the device. */
export function judge(evidence: Evidence): Judgement {
  const { entries, lossFinite, usable } = evidence;
  const none = full([entries.length], 0);
  const { finite, blame: nonFinite } = findNonFinite(evidence);
  const overflow = where(lossFinite, code("gradientOverflow"), code("forwardOverflow"));
  const findings: readonly Finding[] = [
    ...(usable === null ? [] : [{ holds: usable.not(), verdict: code("scaleOutOfRange"), blame: none }]),
    { holds: finite.not(), verdict: overflow, blame: nonFinite },
    ...findNorm(evidence),
    ...findZeros(evidence),
  ];
  const passed = { holds: full([], 0, "bool"), verdict: full([], 0, "int32"), blame: none };
  const { holds, verdict, blame } = findings.reduceRight(
    (rest, finding) => ({
      holds: finding.holds.or(rest.holds),
      verdict: where(finding.holds, finding.verdict, rest.verdict),
      blame: where(finding.holds, finding.blame, rest.blame),
    }),
    passed,
  );
  return { applied: holds.not(), verdict, blame, finite };
}

/**
 * Whether all gradients are finite, and the counts by parameter. What is found in gradients that were changed since `unscale` is
 * reported only if `unscale` had found nothing, since clipping spreads one infinity over all gradients.
 */
function findNonFinite({ entries, found, again }: Evidence): { readonly finite: Tensor; readonly blame: Tensor } {
  const first = stack(
    entries.map(([, gradient], i) => {
      const counts = found[i]?.map(({ nonFinite }) => nonFinite) ?? [];
      return counts.length === 0 ? nonFiniteCount(gradient) : sumOf(counts);
    }),
  );
  const checked = found.flat();
  const norms = checked.some(({ squares }) => squares !== null) ? [allCheckedFinite(checked)] : [];
  const clean = norms.reduce((all, one) => all.and(one), first.sum().equal(0));
  const isChanged = ([, gradient]: Entry, i: number): boolean =>
    found[i] !== undefined && found[i].length > 0 && found[i][0]?.gradient.node !== gradient.node;
  if (!again || !entries.some(isChanged)) return { finite: clean, blame: first };
  const late = stack(entries.map(([, gradient]) => nonFiniteCount(gradient)));
  return { finite: clean.and(late.sum().equal(0)), blame: where(clean, late, first) };
}

/** The unscaled gradient before anything was made of it: a clipped one has a norm below every limit. */
const unclipped = ({ entries, found }: Evidence): readonly Tensor[] =>
  entries.map(([, gradient], i) => (found[i]?.length === 1 ? (found[i][0]?.gradient ?? gradient) : gradient));

function findNorm(evidence: Evidence): readonly Finding[] {
  const { skipNormAbove: limit } = evidence;
  if (limit === undefined) return [];
  const squares = stack(unclipped(evidence).map(sumOfSquares));
  // Finite gradients whose sum of squares is not have a norm above 1e19: that is above the limit.
  const blame = squares.equal(squares.max()).cast("float32");
  return [{ holds: squares.sum().sqrt().lessEqual(limit).not(), verdict: code("normAboveLimit"), blame }];
}

function findZeros(evidence: Evidence): readonly Finding[] {
  if (!evidence.skipZeroGradients) return [];
  const nonZero = sumOf(unclipped(evidence).map((gradient) => gradient.notEqual(0).cast("float32").sum()));
  return [
    {
      holds: nonZero.equal(0).and(evidence.lossNonZero),
      verdict: code("underflow"),
      blame: full([evidence.entries.length], 1),
    },
  ];
}
