/** Checks of what users pass where tensors and steps are expected. */
import { BinadeError, showValue } from "../errors.ts";
import { requireFunction } from "../precision/options.ts";
import { requireTensor, Tensor } from "./tensor.ts";
import { Variable } from "./variable.ts";

/** `requireTensor` for each of a list, such as the arguments of a step. */
export function requireTensors(subject: string, values: unknown): asserts values is readonly Tensor[] {
  if (!Array.isArray(values)) throw invalid(subject, "a list of tensors", values, "pass one");
  values.forEach((value, i) => {
    requireTensor(`${subject} ${i}`, value);
  });
}

/** The same for operands by name; those in `optional` may be left out. */
export function requireOperands(
  subject: string,
  operands: Readonly<Record<string, unknown>>,
  optional: Readonly<Record<string, unknown>> = {},
): void {
  for (const [name, value] of Object.entries(operands)) requireTensor(`${subject}: ${name}`, value);
  for (const [name, value] of Object.entries(optional)) {
    if (value === undefined || value instanceof Tensor) continue;
    throw invalid(`${subject}: ${name}`, "a tensor, or undefined where there is none", value, "options come last");
  }
}

/** Throws `option.invalid` unless `step` is a function that can be recorded: a compiled one runs when it is called. */
export function requireStep(subject: string, step: unknown): void {
  requireFunction(`${subject}: step`, step);
  if (!Object.hasOwn(step as object, "traces")) return;
  const sentence = `${subject}: step: expected the function that was given to compile, got what compile gave`;
  throw new BinadeError("option.invalid", `${sentence}; pass the former`);
}

/** What `gradients` and its like return. */
export function requireGrads(subject: string, grads: unknown): void {
  if (!(grads instanceof Map))
    throw invalid(subject, "gradients by parameter", grads, "pass gradients(loss, model), or what was made of it");
  requireEntriesOf(subject, grads);
}

/** Pairs of a variable and a tensor. */
export function requireEntries(subject: string, entries: unknown): readonly (readonly [Variable, Tensor])[] {
  if (!isIterable(entries))
    throw invalid(subject, "pairs of a variable and a gradient", entries, "pass a map or a list of pairs");
  const list = [...(entries as Iterable<readonly [Variable, Tensor]>)];
  requireEntriesOf(subject, list);
  return list;
}

function requireEntriesOf(subject: string, entries: Iterable<unknown>): void {
  for (const entry of entries) {
    const [variable, gradient] = Array.isArray(entry) ? entry : [entry, undefined];
    if (variable instanceof Variable && gradient instanceof Tensor) continue;
    const wrong = variable instanceof Variable ? gradient : variable;
    throw invalid(subject, "pairs of a variable and a gradient", wrong, "pass gradients(loss, model)");
  }
}

/** The error for an argument that is something else than expected. */
export const invalid = (subject: string, expected: string, got: unknown, fix: string): BinadeError =>
  new BinadeError("option.invalid", `${subject}: expected ${expected}, got ${showValue(got)}; ${fix}`);

export const isIterable = (value: unknown): value is Iterable<unknown> =>
  typeof value === "object" && value !== null && Symbol.iterator in value;
