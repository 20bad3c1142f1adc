/** Gradients of a scalar with respect to tensors. Cotangent dtypes come through the casts: autocast is off here. */
import { gradients as nodeGradients } from "../autodiff/backward.ts";
import { BinadeError, listNames, showValue } from "../errors.ts";
import type { Node } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { outsideRegions } from "../precision/autocast.ts";
import { requireBoolean, requireFunction, requireKnownKeys } from "../precision/options.ts";
import { nonFiniteCount } from "./finite.ts";
import { computeWithNextRun } from "./realize.ts";
import { requireEntries, requireGrads, requireTensors } from "./require.ts";
import { requireTensor, Tensor } from "./tensor.ts";
import { currentTrace } from "./trace.ts";
import { Variable } from "./variable.ts";

declare const scaling: unique symbol;

/**
 * Gradients by parameter, each with its parameter's shape and dtype. The type argument is a compile-time fact: gradients of
 * a scaled loss are `scaled`, and neither clip nor step an optimizer until `GradScaler.unscale` makes them `true`. Made by
 * `gradients`, `mapGradients` and `gradientsFrom`; a plain map is not accepted in their place.
 */
export type Grads<S extends "scaled" | "true"> = ReadonlyMap<Variable, Tensor> & { readonly [scaling]: S };

/**
 * A loss times a loss scale, made by `GradScaler.scale`. Not a tensor, so that arithmetic cannot lose the mark; add losses
 * and divide them before scaling. `tensor` is the product itself.
 */
export class ScaledLoss {
  readonly tensor: Tensor;
  /** What was scaled. */
  readonly loss: Tensor;
  /** The scaler that made it. */
  readonly scaler: object;
  /** Of all that was scaled between two updates the same object. */
  readonly session: object;

  constructor(tensor: Tensor, loss: Tensor, scaler: object, session: object) {
    this.tensor = tensor;
    this.loss = loss;
    this.scaler = scaler;
    this.session = session;
  }
}

/** What is known of a loss whose gradients were taken. */
export interface LossFacts {
  /** Before it was scaled; null if it is gone, as those of an accumulator are. */
  readonly loss: Tensor | null;
  /** bool scalar. */
  readonly finite: Tensor;
  /** bool scalar: at least one element is not 0. */
  readonly nonZero: Tensor;
  /** The scaler that scaled it, or through which gradients came since; null for a plain loss. */
  readonly scaler: object | null;
  /** Those that have a gradient of it. */
  readonly parameters: ReadonlySet<Variable>;
  /** Cotangents of the watched tensors that it depends on, by node. */
  readonly cotangents: ReadonlyMap<Node, Tensor>;
}

let watched: WeakSet<Node> | null = null;

/** From now on gradients of losses that depend on `x` come with its cotangent: for use by scalers. */
export function watchCotangent(x: Tensor): void {
  watched ??= new WeakSet();
  watched.add(x.node);
}

/** Nobody watches: nothing is walked. */
const watchedBelow = (loss: Node): readonly Node[] =>
  watched === null ? [] : topological([loss]).filter((node) => watched?.has(node));

/**
 * What is known of gradients at run time: those of a plain loss, those of a scaler before `unscale`, those of one or several
 * after it, or nothing.
 */
export interface Origin {
  readonly kind: "plain" | "scaled" | "unscaled";
  readonly scalers: readonly object[];
  /** Of which losses they are; none of gradients that were computed by other means. */
  readonly losses: readonly LossFacts[];
  /** Between which updates scaled gradients were scaled; absent where it is not known, or does not matter any more. */
  readonly session?: object;
}

const origins = new WeakMap<object, Origin>();
export const originOf = (grads: object): Origin | undefined => origins.get(grads);

/** The losses of which these entries are gradients. */
export const lossesOf = (
  grads: ReadonlyMap<Variable, Tensor>,
  entries: Iterable<readonly [Variable, Tensor]>,
): readonly LossFacts[] => {
  const parameters = [...entries].map(([parameter]) => parameter);
  return (originOf(grads)?.losses ?? []).filter((loss) => parameters.some((one) => loss.parameters.has(one)));
};

/** Marks a map as gradients; for use by other parts of the library. */
export function markGrads<S extends "scaled" | "true">(
  entries: Iterable<readonly [Variable, Tensor]>,
  origin: Origin | undefined,
): Grads<S> {
  const grads = new Map(entries) as ReadonlyMap<Variable, Tensor> as Grads<S>;
  if (origin !== undefined) origins.set(grads, origin);
  return grads;
}

/**
 * The same gradients through `change`, parameter by parameter; scaled ones stay `scaled`.
 *
 * @throws BinadeError `shape.mismatch` if a gradient's shape changes.
 * @example
 * const noisy = mapGradients(grads, (gradient) => gradient.add(noise.draw(gradient.shape)));
 */
export function mapGradients<S extends "scaled" | "true">(
  grads: Grads<S>,
  change: (gradient: Tensor, parameter: Variable) => Tensor,
): Grads<S> {
  requireGrads("mapGradients", grads);
  requireFunction("mapGradients: change", change);
  const entries = [...grads].map(
    ([parameter, gradient]) => [parameter, requireShape(parameter, change(gradient, parameter))] as const,
  );
  return markGrads<S>(entries, originOf(grads));
}

/**
 * Gradients that were computed by other means, at their true size.
 *
 * @throws BinadeError `shape.mismatch` unless each has its parameter's shape; `scaler.order` for scaled gradients, which this
 * does not unscale.
 * @example
 * optimizer.apply(gradientsFrom([[weight, tensor([1, 2, 3])]]));
 */
export function gradientsFrom(
  entries: Iterable<readonly [Variable, Tensor]> & { readonly [scaling]?: "true" },
): Grads<"true"> {
  const given = requireEntries("gradientsFrom", entries);
  if (originOf(entries)?.kind === "scaled") {
    const names = listNames(given.map(([{ name }]) => name));
    throw new BinadeError(
      "scaler.order",
      `gradientsFrom: the gradients of ${names} are scaled; pass what GradScaler.unscale returns`,
    );
  }
  return markGrads<"true">(
    given.map(([parameter, gradient]) => [parameter, requireShape(parameter, gradient)] as const),
    undefined,
  );
}

/**
 * Sums of gradients by parameter, in float32 whatever the gradients' dtype: those of several losses, each of which may have a
 * scaler of its own. What only one of them has stays as it is. Scaled ones must be of one scaler, since only one of them can
 * unscale the sum.
 *
 * @throws BinadeError `scaler.order` for scaled gradients of several scalers, or from both sides of an update, or for plain
 * gradients among unscaled ones.
 * @example
 * const sum = addGradients(a.unscale(gradients(a.scale(first), model)), b.unscale(gradients(b.scale(second), model)));
 * a.step(optimizer, sum); // skipped if either was not finite
 */
export function addGradients(first: Grads<"scaled">, ...others: readonly Grads<"scaled">[]): Grads<"scaled">;
export function addGradients(first: Grads<"true">, ...others: readonly Grads<"true">[]): Grads<"true">;
export function addGradients<S extends "scaled" | "true">(first: Grads<S>, ...others: readonly Grads<S>[]): Grads<S> {
  const all = [first, ...others];
  for (const grads of all) requireGrads("addGradients", grads);
  const origins = all.flatMap((grads) => originOf(grads) ?? []);
  const scalers = [...new Set(origins.flatMap((origin) => origin.scalers))];
  const kinds = new Set(origins.map(({ kind }) => kind));
  if (kinds.size > 1 || (kinds.has("scaled") && scalers.length > 1)) {
    const found = kinds.size > 1 ? [...kinds].join(" and ") : "gradients that several scalers scaled";
    throw new BinadeError("scaler.order", `addGradients: ${found}; unscale each with its own scaler, then add`);
  }
  const sums = new Map<Variable, Tensor>();
  for (const [parameter, gradient] of all.flatMap((grads) => [...grads])) {
    const before = sums.get(parameter);
    // A sum stays in float32: in float16 one of 2048 would lose every 1 that is added to it.
    sums.set(parameter, before === undefined ? gradient : atLeastFloat32(before).add(atLeastFloat32(gradient)));
  }
  const [kind] = kinds;
  const [session, ...otherSessions] = new Set(origins.flatMap((origin) => origin.session ?? []));
  if (otherSessions.length > 0) {
    const fix = "unscale what belongs to one step before its update()";
    throw new BinadeError(
      "scaler.order",
      `addGradients: gradients from before and after an update of their scaler; ${fix}`,
    );
  }
  const losses = origins.flatMap((origin) => origin.losses);
  const origin =
    kind === undefined ? undefined : { kind, scalers, losses, ...(session === undefined ? {} : { session }) };
  return markGrads<S>(sums, origin);
}

const atLeastFloat32 = (x: Tensor): Tensor => (x.dtype === "float64" ? x : x.cast("float32"));

function requireShape(parameter: Variable, gradient: Tensor): Tensor {
  requireTensor(`gradient of ${parameter.name}`, gradient);
  if (gradient.shape.join() === parameter.shape.join()) return gradient;
  throw new BinadeError(
    "shape.mismatch",
    `gradient of ${parameter.name}: expected shape [${parameter.shape.join(", ")}], got [${gradient.shape.join(", ")}]; reduce or reshape it`,
  );
}

/** Anything with parameters: a module, or a list of variables. */
export type Parameters = { parameters(): readonly Variable[] } | readonly Variable[];

/** @throws BinadeError `option.invalid` for anything else. */
export function parametersOf(source: Parameters): readonly Variable[] {
  const found: unknown = hasParameters(source) ? source.parameters() : source;
  if (Array.isArray(found) && found.every((one) => one instanceof Variable)) return found;
  const [foreign] = Array.isArray(found) ? found.filter((one) => !(one instanceof Variable)) : [source];
  throw new BinadeError(
    "option.invalid",
    `parameters: expected a module or a list of variables, got ${showValue(foreign)}; pass a model, or its parameters()`,
  );
}

const hasParameters = (source: unknown): source is { parameters(): unknown } =>
  typeof source === "object" && source !== null && "parameters" in source && typeof source.parameters === "function";

/**
 * Gradients of `loss`, a floating scalar, with respect to every parameter: float32 for float32 parameters, whatever the region
 * in which the loss was computed.
 *
 * @throws BinadeError `autodiff.notDifferentiable` for another loss; `gradient.missing` naming the parameters on which the loss does not depend, unless `allowUnused`;
 * `option.unknown` or `option.invalid` for a bad option.
 * @example
 * const grads = gradients(loss, model); // Grads<"true">
 */
export function gradients(loss: ScaledLoss, parameters: Parameters, options?: GradientOptions): Grads<"scaled">;
export function gradients(loss: Tensor, parameters: Parameters, options?: GradientOptions): Grads<"true">;
export function gradients(
  loss: Tensor | ScaledLoss,
  parameters: Parameters,
  options: GradientOptions = {},
): Grads<"scaled" | "true"> {
  if (!(loss instanceof Tensor || loss instanceof ScaledLoss)) {
    const fix = "pass the loss itself, or what GradScaler.scale makes of it";
    throw new BinadeError("option.invalid", `gradients: expected a loss, got ${showValue(loss)}; ${fix}`);
  }
  requireKnownKeys("gradients", options, ["allowUnused"]);
  requireBoolean("gradients: allowUnused", options.allowUnused);
  const { allowUnused = false } = options;
  const variables = parametersOf(parameters);
  const scalar = loss instanceof ScaledLoss ? loss.tensor : loss;
  requireTensor("gradients: loss", scalar);
  const watchedNodes = watchedBelow(scalar.node);
  const found = outsideRegions(() => nodeGradients(scalar.node, [...variables.map((v) => v.node), ...watchedNodes]));
  const missing = variables.filter((v) => !found.has(v.node));
  if (missing.length > 0 && !allowUnused) {
    throw new BinadeError(
      "gradient.missing",
      `gradients: the loss does not depend on ${missing.map((v) => v.name).join(", ")}; leave them out, or pass { allowUnused: true }`,
    );
  }
  const reached = variables.filter((v) => found.has(v.node));
  currentTrace()?.differentiated.push({
    loss: scalar.node,
    parameters: reached.map((v) => v.name),
    gradients: reached.map((v) => found.get(v.node) as Node),
  });
  const entries = variables.flatMap((v) => {
    const node = found.get(v.node);
    return node === undefined ? [] : [[v, new Tensor(node)] as const];
  });
  const cotangents = watchedNodes.flatMap((node) => {
    const cotangent = found.get(node);
    return cotangent === undefined ? [] : [[node, new Tensor(cotangent)] as const];
  });
  const facts = factsOf(loss, reached, new Map(cotangents));
  computeWithNextRun([facts.finite, facts.nonZero, ...facts.cotangents.values()]);
  const losses = [facts];
  return markGrads(
    entries,
    loss instanceof ScaledLoss
      ? { kind: "scaled", scalers: [loss.scaler], session: loss.session, losses }
      : { kind: "plain", scalers: [], losses },
  );
}

/** What is to be known of a loss, of which these parameters have gradients. */
export function factsOf(
  loss: Tensor | ScaledLoss,
  reached: readonly Variable[],
  cotangents: ReadonlyMap<Node, Tensor>,
): LossFacts {
  const [value, scaler] = loss instanceof ScaledLoss ? [loss.loss, loss.scaler] : [loss, null];
  return outsideRegions(() => ({
    loss: value,
    finite: nonFiniteCount(value).equal(0),
    nonZero: value.notEqual(0).cast("float32").sum().greater(0),
    scaler,
    parameters: new Set(reached),
    cotangents,
  }));
}

export interface GradientOptions {
  /** Leave out parameters that the loss does not depend on, instead of throwing. Default false. */
  readonly allowUnused?: boolean;
}

/**
 * Gradient of a scalar with respect to plain tensors: one per tensor, with its shape and dtype. Can be differentiated again.
 *
 * @throws BinadeError `gradient.missing` if the loss does not depend on one; `autodiff.notDifferentiable` unless the loss is a
 * floating scalar and the tensors are floating.
 * @example
 * const x = tensor([3]);
 * const [slope] = gradientsOf(x.square().sum(), [x]); // [6]
 */
export function gradientsOf(loss: Tensor, tensors: readonly Tensor[]): readonly Tensor[] {
  requireTensor("gradientsOf: loss", loss);
  requireTensors("gradientsOf: tensor", tensors);
  const found = outsideRegions(() =>
    nodeGradients(
      loss.node,
      tensors.map((t) => t.node),
    ),
  );
  return tensors.map((t, i) => {
    const node = found.get(t.node);
    if (node === undefined)
      throw new BinadeError("gradient.missing", `gradientsOf: the loss does not depend on tensor ${i}; leave it out`);
    return new Tensor(node);
  });
}
