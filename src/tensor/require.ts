/** Checks of what users pass where tensors and steps are expected. */
import { BinadeError, showValue } from "../errors.ts";
import { requireFunction } from "../precision/options.ts";
import { Tensor } from "./tensor.ts";

/** Throws `option.invalid` unless `value` is a tensor: something else would fail far from here, or pass for a constant. */
export function requireTensor(subject: string, value: unknown): asserts value is Tensor {
  if (value instanceof Tensor) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected a tensor, got ${showValue(value)}; make one of it, with full or tensor`,
  );
}

/** The same for each of a list, such as the arguments of a step. */
export function requireTensors(subject: string, values: readonly unknown[]): asserts values is readonly Tensor[] {
  if (!Array.isArray(values))
    throw new BinadeError(
      "option.invalid",
      `${subject}: expected a list of tensors, got ${showValue(values)}; pass one`,
    );
  values.forEach((value, i) => {
    requireTensor(`${subject} ${i}`, value);
  });
}

/** Throws `option.invalid` unless `step` is a function that can be recorded: a compiled one runs when it is called. */
export function requireStep(subject: string, step: unknown): void {
  requireFunction(`${subject}: step`, step);
  if (!Object.hasOwn(step as object, "traces")) return;
  const sentence = `${subject}: step: expected the function that was given to compile, got what compile gave`;
  throw new BinadeError("option.invalid", `${sentence}; pass the former`);
}
