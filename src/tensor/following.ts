/** Assignments that follow the outcome of the step: statistics that a skipped step leaves as they were. */
import { build, type Node } from "../ir/graph.ts";
import { Tensor } from "./tensor.ts";
import { currentTrace, type Trace } from "./trace.ts";
import type { Variable } from "./variable.ts";

/** What one step assigned so, with the values from before, and whether an optimizer has stepped since. */
class FollowingStep {
  readonly before = new Map<Variable, Node>();
  /** Of values that earlier calls kept, when: float32 scalars, the first is the smallest. */
  readonly #since = new Map<Variable, Tensor>();
  readonly #outcomes: Tensor[] = [];
  isDecided = false;

  assign(variable: Variable, value: Tensor): void {
    if (!this.before.has(variable)) this.before.set(variable, variable.node);
    variable.assign(value);
  }

  keepSince(variable: Variable, before: Tensor, since: Tensor): void {
    const [known, other] = [this.#since.get(variable), this.before.get(variable)];
    if (known === undefined || other === undefined) {
      this.before.set(variable, before.node);
      this.#since.set(variable, since);
      return;
    }
    this.before.set(variable, build.where(since.less(known).node, before.node, other));
    this.#since.set(variable, since.minimum(known));
  }

  decide(applied: Tensor | null): void {
    this.isDecided = true;
    if (applied !== null) this.#outcomes.push(applied);
  }

  /** Takes back what the outcomes so far do not let stand: all of them must be true. */
  settle(): void {
    const [first, ...rest] = this.#outcomes;
    if (first === undefined) return;
    const applied = rest.reduce((all, one) => all.and(one), first);
    for (const [variable, before] of this.before)
      variable.assign(new Tensor(build.where(applied.node, variable.node, before)));
  }
}

const recorded = new WeakMap<Trace, FollowingStep>();
/** Outside of compiled functions a step reaches from the first such assignment after an optimizer's step to `endStep`, or the next one. */
let eager = new FollowingStep();

function stepOf(trace: Trace): FollowingStep {
  const known = recorded.get(trace);
  if (known !== undefined) return known;
  const step = new FollowingStep();
  recorded.set(trace, step);
  trace.atEnd.set(step, () => step.settle());
  return step;
}

/**
 * Assigns `value`, which stays only if every optimizer that steps in the same step applies its update; where none steps, it
 * stays. Reads see it at once. In a compiled function the step is the whole function.
 */
export function assignFollowing(variable: Variable, value: Tensor): void {
  const trace = currentTrace();
  if (trace === null && eager.isDecided) eager = new FollowingStep();
  (trace === null ? eager : stepOf(trace)).assign(variable, value);
}

/** What the present step assigned so, in the function that is being recorded or outside of one, with the values from before it. */
export function followedSoFar(): ReadonlyMap<Variable, Tensor> {
  const trace = currentTrace();
  const before = trace !== null ? recorded.get(trace)?.before : eager.isDecided ? undefined : eager.before;
  return new Map([...(before ?? [])].map(([variable, node]) => [variable, new Tensor(node)]));
}

/**
 * The variable was moved by earlier calls that belong to this step: it goes back to `before` unless the optimizers apply.
 *
 * @param since a float32 scalar: of several such values of one step the one with the smallest is the first
 */
export function followSince(variable: Variable, before: Tensor, since: Tensor): void {
  const trace = currentTrace();
  if (trace === null && eager.isDecided) eager = new FollowingStep();
  (trace === null ? eager : stepOf(trace)).keepSince(variable, before, since);
}

/** An optimizer's step, which is applied if the bool scalar `applied` is true, or for certain (null): for use by optimizers. */
export function decideStep(applied: Tensor | null): void {
  const trace = currentTrace();
  const step = trace === null ? eager : stepOf(trace);
  step.decide(applied);
  // A second optimizer's outcome takes back what the first one's let stand.
  if (trace === null) step.settle();
}

/** The step is over, for use by scalers: what a later step's outcome is, is nothing to what this one assigned. */
export function endStep(): void {
  if (currentTrace() === null && eager.isDecided) eager = new FollowingStep();
}

/** Values that a skipped step may still bring back: a run that overwrites them keeps copies. */
export const valuesBefore = (variables: Iterable<Variable>): readonly Node[] =>
  [...variables].flatMap((variable) => eager.before.get(variable) ?? []);

/** The variable was overwritten by other means: no step outside of compiled functions takes that back. */
export function forgetFollowing(variable: Variable): void {
  eager.before.delete(variable);
}
