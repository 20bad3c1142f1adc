/** What a scaler remembers between two updates, and the checks on it. */
import { BinadeError } from "../errors.ts";
import { full } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import { nonFiniteCount } from "./finite.ts";
import type { Steppable } from "./optimizer.ts";

/** An unscaled gradient and the count of elements that are not finite before or after unscaling. */
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

/** The count from `unscale`, and that of a gradient which was changed since. */
export function lateCheck(known: Checked | undefined, gradient: Tensor, again: boolean): Tensor {
  if (known === undefined) return nonFiniteCount(gradient);
  if (!again || known.gradient.node === gradient.node) return known.nonFinite;
  return known.nonFinite.maximum(nonFiniteCount(gradient));
}
