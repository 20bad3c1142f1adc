/** The finite check of a scaler: what it looks at, what it makes of a step, and whom it blames. */
import type { CheckedValues } from "../precision/scalePresets.ts";
import { full } from "../tensor/create.ts";
import { nonFiniteCount } from "../tensor/finite.ts";
import { concatenate, where } from "../tensor/functions.ts";
import type { LossFacts } from "../tensor/gradients.ts";
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

/** The part of one scaler in a step. */
export interface Share {
  /** What it found in the gradients that it scaled, where its `unscale` or `step` has looked at them. */
  readonly checked: readonly Checked[];
  /** Losses that it scaled, or whose gradients came through it. */
  readonly losses: readonly LossFacts[];
  /** bool scalar: its scale can be divided by; null where that is certain. */
  readonly usable: Tensor | null;
  /** bool scalar: gradients that it scaled were finite where they went on to another scaler; null if they did not. */
  readonly passedOn: Tensor | null;
  /** bool scalar: what it got from another scaler was finite; null if it got nothing. */
  readonly received: Tensor | null;
}

/** What one scaler did in two ways: its own gradients, and those that it handed down. */
export function bothShares(a: Share | undefined, b: Share): Share {
  if (a === undefined) return b;
  return {
    checked: [...a.checked, ...b.checked],
    losses: [...new Set([...a.losses, ...b.losses])],
    usable: b.usable,
    passedOn: allOf([a.passedOn, b.passedOn].flatMap((flag) => flag ?? [])),
    received: allOf([a.received, b.received].flatMap((flag) => flag ?? [])),
  };
}

/** What a step is judged by. */
export interface Evidence {
  readonly entries: readonly Entry[];
  /** What `unscale` found, for every entry that went through it; several for one whose gradients come from several losses. */
  readonly found: readonly (readonly Checked[])[];
  /** Whether gradients that were changed since `unscale` are checked once more. */
  readonly again: boolean;
  /** One per scaler that had a part in the gradients. */
  readonly shares: readonly Share[];
  /** Of which losses the gradients are; none if that is not known. */
  readonly losses: readonly LossFacts[];
  readonly skipNormAbove: number | undefined;
  readonly skipZeroGradients: boolean;
}

/** What `StepOutcome` tells of it; and whether all gradients were finite, a bool scalar. */
export interface Judgement {
  readonly applied: Tensor;
  readonly verdict: Tensor;
  readonly blame: Tensor;
  readonly finite: Tensor;
  /** The verdict on every share: 0 unless it made the step skip. What only the sum of all shows is everybody's. */
  readonly verdicts: readonly Tensor[];
}

/** A reason to skip, in the order of precedence, and whom it blames. */
interface Finding {
  readonly holds: Tensor;
  readonly verdict: Tensor;
  readonly blame: Tensor;
}

/** Judges a step on the device. */
export function judge(evidence: Evidence): Judgement {
  const { entries, losses, shares } = evidence;
  const none = full([entries.length], 0);
  const { finite, blame: nonFinite } = findNonFinite(evidence);
  const usable = allOf(shares.flatMap((share) => share.usable ?? []));
  const findings: readonly Finding[] = [
    ...(usable === null ? [] : [{ holds: usable.not(), verdict: code("scaleOutOfRange"), blame: none }]),
    { holds: finite.not(), verdict: overflowOf(losses), blame: nonFinite },
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
  return { applied: holds.not(), verdict, blame, finite, verdicts: verdictsOn(shares, verdict) };
}

/** The conjunction of bool scalars; null of none. */
export function allOf(flags: readonly Tensor[]): Tensor | null {
  const [first, ...rest] = flags;
  return first === undefined ? null : rest.reduce((all, flag) => all.and(flag), first);
}

/** Which overflow it is: of the loss itself, or of gradients alone. Of gradients of unknown losses it is the latter. */
function overflowOf(losses: readonly LossFacts[]): Tensor {
  const finite = allOf(losses.map((loss) => loss.finite));
  return finite === null ? code("gradientOverflow") : where(finite, code("gradientOverflow"), code("forwardOverflow"));
}

function verdictsOn(shares: readonly Share[], verdict: Tensor): readonly Tensor[] {
  if (shares.length === 1) return [verdict];
  const own = shares.map(verdictOn);
  const nobody = own.reduce((none, one) => none.and(one.equal(0)), full([], 1, "bool"));
  return own.map((one) => where(nobody, verdict, one));
}

/** What is wrong with one share, whatever the others are. What came broken from another scaler is that one's. */
function verdictOn({ checked, losses, usable, passedOn, received }: Share): Tensor {
  const clean = full([], 0, "int32");
  const finite = allOf([...(checked.length === 0 ? [] : [allCheckedFinite(checked)]), ...(passedOn ? [passedOn] : [])]);
  const overflow = finite === null ? clean : where(finite, clean, overflowOf(losses));
  const own = received === null ? overflow : where(received, overflow, clean);
  return usable === null ? own : where(usable, own, code("scaleOutOfRange"));
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
  // A loss that is not known is taken for one that is not 0.
  const [first, ...rest] = evidence.losses.map((loss) => loss.nonZero);
  const lossNonZero = first === undefined ? full([], 1, "bool") : rest.reduce((any, one) => any.or(one), first);
  return [
    {
      holds: nonZero.equal(0).and(lossNonZero),
      verdict: code("underflow"),
      blame: full([evidence.entries.length], 1),
    },
  ];
}
