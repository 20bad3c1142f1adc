/** Gradients of a scalar with respect to tensors. Cotangent dtypes come through the casts: autocast is off here. */
import { gradients as nodeGradients } from "../autodiff/backward.ts";
import { BinadeError } from "../errors.ts";
import { inRegion } from "../precision/autocast.ts";
import { Tensor } from "./tensor.ts";
import { Variable } from "./variable.ts";

declare const scale: unique symbol;

/**
 * Gradients by parameter, each with its parameter's shape and dtype. The type argument is a compile-time fact: gradients of
 * a scaled loss are `scaled`, and neither clip nor step until `GradScaler.unscale` makes them `true`.
 */
export type Grads<S extends "scaled" | "true"> = ReadonlyMap<Variable, Tensor> & { readonly [scale]?: S };

declare const scaledLoss: unique symbol;
/** A loss that was multiplied by a loss scale. */
export type ScaledLoss = Tensor & { readonly [scaledLoss]: true };

/** Anything with parameters: a module, or a list of variables. */
export type Parameters = { parameters(): readonly Variable[] } | readonly Variable[];

export const parametersOf = (source: Parameters): readonly Variable[] => ("parameters" in source ? source.parameters() : source);

/**
 * Gradients of `loss` with respect to every parameter.
 *
 * @throws BinadeError `gradient.missing` naming the parameters on which the loss does not depend, unless `allowUnused`.
 * @example
 * const grads = gradients(loss, model); // Grads<"true">
 */
export function gradients(loss: ScaledLoss, parameters: Parameters, options?: GradientOptions): Grads<"scaled">;
export function gradients(loss: Tensor, parameters: Parameters, options?: GradientOptions): Grads<"true">;
export function gradients(loss: Tensor, parameters: Parameters, { allowUnused = false }: GradientOptions = {}): Grads<"scaled"> | Grads<"true"> {
  const variables = parametersOf(parameters);
  const found = inRegion({ dtype: null }, () => nodeGradients(loss.node, variables.map((v) => v.node)));
  const missing = variables.filter((v) => !found.has(v.node));
  if (missing.length > 0 && !allowUnused) {
    throw new BinadeError("gradient.missing", `gradients: the loss does not depend on ${missing.map((v) => v.name).join(", ")}; leave them out, or pass { allowUnused: true }`);
  }
  return new Map(variables.flatMap((v) => {
    const node = found.get(v.node);
    return node === undefined ? [] : [[v, new Tensor(node)] as const];
  }));
}

export interface GradientOptions {
  /** Leave out parameters that the loss does not depend on, instead of throwing. Default false. */
  readonly allowUnused?: boolean;
}

/** Gradient of a scalar with respect to plain tensors: one per tensor, with its shape and dtype. */
export function gradientsOf(loss: Tensor, tensors: readonly Tensor[]): readonly Tensor[] {
  const found = inRegion({ dtype: null }, () => nodeGradients(loss.node, tensors.map((t) => t.node)));
  return tensors.map((t, i) => {
    const node = found.get(t.node);
    if (node === undefined) throw new BinadeError("gradient.missing", `gradientsOf: the loss does not depend on tensor ${i}; leave it out`);
    return new Tensor(node);
  });
}

