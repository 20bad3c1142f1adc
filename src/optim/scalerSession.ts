/** What a scaler remembers between two updates, and the checks on it. */
import { BinadeError } from "../errors.ts";
import { full } from "../tensor/create.ts";
import { concatenate, where } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import { nonFiniteCount } from "./finite.ts";
import type { Steppable } from "./optimizer.ts";

/** An unscaled gradient and the count of elements that are not finite. */
export interface Checked {
  readonly gradient: Tensor;
  readonly nonFinite: Tensor;
}

/** What happened between two updates. */
export interface Session {
  readonly checked: Map<Variable, Checked>;
  readonly stepped: Map<Steppable, Tensor>;
  readonly steppedParameters: Set<Variable>;
  lossFinite: Tensor;
  after: Tensor | null;
}

export const newSession = (): Session => ({
  checked: new Map(),
  stepped: new Map(),
  steppedParameters: new Set(),
  lossFinite: full([], 1, "bool"),
  after: null,
});

export const orderError = (message: string): BinadeError => new BinadeError("scaler.order", message);

/** At least one gradient, and none in float16. */
export function requireGradients(subject: string, entries: readonly (readonly [Variable, Tensor])[]): void {
  if (entries.length === 0) {
    throw new BinadeError(
      "gradient.missing",
      `${subject}: expected gradients of the optimizer's parameters, got none; pass gradients of a loss that depends on them`,
    );
  }
  const half = entries.filter(([, gradient]) => gradient.dtype === "float16").map(([parameter]) => parameter.name);
  if (half.length === 0) return;
  throw new BinadeError(
    "dtype.unsupported",
    `${subject}: the gradients of ${half.join(", ")} are float16, expected float32 or bfloat16; keep the parameters in float32 and use autocast("float16", …)`,
  );
}

/**
 * For each gradient the count of elements that are not finite, and whether there are none. Gradients that were changed since
 * `unscale` are counted `again`; what is found then is reported only if `unscale` had found nothing, since clipping spreads
 * one infinity over all gradients.
 */
export function countNonFinite(
  entries: readonly (readonly [Variable, Tensor])[],
  checked: ReadonlyMap<Variable, Checked>,
  again: boolean,
): { readonly applied: Tensor; readonly nonFinite: Tensor } {
  const first = stack(
    entries.map(([parameter, gradient]) => checked.get(parameter)?.nonFinite ?? nonFiniteCount(gradient)),
  );
  const isChanged = ([parameter, gradient]: readonly [Variable, Tensor]): boolean =>
    checked.has(parameter) && checked.get(parameter)?.gradient.node !== gradient.node;
  if (!again || !entries.some(isChanged)) return { applied: first.sum().equal(0), nonFinite: first };
  const late = stack(entries.map(([, gradient]) => nonFiniteCount(gradient)));
  const [clean, stillClean] = [first.sum().equal(0), late.sum().equal(0)];
  return { applied: clean.and(stillClean), nonFinite: where(clean, late, first) };
}

const stack = (scalars: readonly Tensor[]): Tensor => concatenate(scalars.map((scalar) => scalar.reshape([1])));
