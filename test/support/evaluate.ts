/** A tiny evaluator: the graph as written, node by node, without simplification, fusion or a memory plan. */
import { evaluate } from "../../src/backends/reference/evaluate.ts";
import type { Node } from "../../src/ir/graph.ts";
import { topological } from "../../src/ir/walk.ts";
import { sizeOf } from "../../src/ops/shape.ts";

/** Elements of leaves, row-major. */
export type Values = ReadonlyMap<Node, Float64Array>;

/** Elements of every root; every node is computed once, composites as their decomposition. */
export function evaluateGraph(roots: readonly Node[], leaves: Values): readonly Float64Array[] {
  const known = new Map<Node, Float64Array>(leaves);
  const elementsOf = (node: Node): Float64Array => {
    const value = known.get(node);
    if (value?.length !== sizeOf(node.shape)) throw new Error(`${node.op.name} has ${value?.length} elements`);
    return value;
  };
  const refuse = ({ value }: { value: number }): never => {
    throw new RangeError(`index ${value} is outside its table`);
  };
  for (const node of topological(roots, (n) => known.has(n))) {
    if (!known.has(node)) known.set(node, evaluate(node, node.inputs.map(elementsOf), refuse));
  }
  return roots.map(elementsOf);
}

/** The elements of one root. */
export function valueOfGraph(root: Node, leaves: Values): Float64Array {
  const [value] = evaluateGraph([root], leaves);
  if (value === undefined) throw new Error("no value");
  return value;
}
