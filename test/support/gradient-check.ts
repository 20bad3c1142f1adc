/** Gradients from the rows against central differences of their values, in float64. */
import { gradients } from "../../src/autodiff/backward.ts";
import { build, createInput, type Node } from "../../src/ir/graph.ts";
import { type Shape, sizeOf } from "../../src/ops/shape.ts";
import { evaluateGraph, type Values, valueOfGraph } from "./evaluate.ts";
import { uniforms } from "./random.ts";

/** One thing to differentiate: a graph over float64 leaves. */
export interface GradientCase {
  readonly shapes: readonly Shape[];
  /** Where inputs are sampled; default −1…1. */
  readonly low?: number;
  readonly high?: number;
  readonly make: (inputs: readonly Node[]) => Node;
  readonly extra?: Values;
}

const STEP = 1e-6;

/** A float64 leaf. */
export const leaf64 = (shape: Shape): Node => createInput(shape, "float64");

/** Σ weight · node: a scalar whose gradient shows every element's own. */
export function weighted(node: Node, seed: number): { loss: Node; weights: [Node, Float64Array] } {
  const weight = leaf64(node.shape);
  const all = node.shape.map((_, i) => i);
  const loss = build.sum(build.mul(build.cast(node, "float64"), weight), all);
  return { loss, weights: [weight, uniforms(seed, sizeOf(node.shape), 0.5, 1.5)] };
}

/** Central differences of a scalar with respect to one leaf. */
export function centralDifferences(scalar: Node, leaf: Node, at: Values): Float64Array {
  const x = at.get(leaf) ?? new Float64Array(0);
  return x.map((value, i) => {
    const difference = [value + STEP, value - STEP].map(
      (v) => valueOfGraph(scalar, new Map(at).set(leaf, x.with(i, v)))[0] ?? 0,
    );
    return ((difference[0] ?? 0) - (difference[1] ?? 0)) / (2 * STEP);
  });
}

/** Largest |analytic − numeric| relative to max(1, |numeric|), for the first gradients and for the gradients of those. */
export function gradientErrors(testCase: GradientCase): { first: number; second: number } {
  const { shapes, low = -1, high = 1, make, extra = new Map() } = testCase;
  const inputs = shapes.map(leaf64);
  const { loss, weights } = weighted(make(inputs), 7);
  const at = new Map([
    ...extra,
    weights,
    ...inputs.map((n, i) => [n, uniforms(11 + i, sizeOf(n.shape), low, high)] as const),
  ]);
  const first = compareAll(loss, inputs, at);
  const grads = gradients(loss, inputs);
  const parts = [...grads.values()].map((g, i) => weighted(g, 23 + i));
  for (const part of parts) at.set(...part.weights);
  const [head, ...rest] = parts.map((part) => part.loss);
  if (head === undefined) throw new Error("the case has no gradient");
  return {
    first,
    second: compareAll(
      rest.reduce((a, b) => build.add(a, b), head),
      inputs,
      at,
    ),
  };
}

function compareAll(scalar: Node, inputs: readonly Node[], at: Values): number {
  const grads = gradients(scalar, inputs);
  let worst = 0;
  for (const input of inputs) {
    const numeric = centralDifferences(scalar, input, at);
    const node = grads.get(input);
    const analytic = node === undefined ? numeric.map(() => 0) : (evaluateGraph([node], at)[0] ?? numeric);
    numeric.forEach((n, i) => {
      const error = Math.abs((analytic[i] ?? Number.NaN) - n) / Math.max(1, Math.abs(n));
      worst = Number.isNaN(error) ? Infinity : Math.max(worst, error);
    });
  }
  return worst;
}
