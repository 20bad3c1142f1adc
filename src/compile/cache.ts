/** Structural keys: two requests of equal structure over different leaves share one program. */
import { attributesKey, type Node, opId } from "../ir/graph.ts";
import { postorder } from "../ir/walk.ts";
import { isInput } from "./inline.ts";
import type { Request } from "./program.ts";

export interface Structure {
  /** Equal keys mean isomorphic requests, leaves matched by position. */
  readonly key: string;
  /** The leaves in order of first appearance. */
  readonly leaves: readonly Node[];
}

export function structureOf({ outputs, assignments, losses = [], gradients = [] }: Request): Structure {
  const roots = [...outputs, ...assignments.keys(), ...assignments.values()];
  const numbers = new Map<Node, number>();
  const leaves: Node[] = [];
  const lines = postorder(roots).map((node, i) => {
    numbers.set(node, i);
    if (!isInput(node))
      return `${opId(node.op)}(${node.inputs.map((n) => numbers.get(n)).join()})${attributesKey(node.attributes)}`;
    leaves.push(node);
    return `${node.dtype}[${node.shape.join()}]`;
  });
  const show = (nodes: Iterable<Node>): string => [...nodes].map((n) => numbers.get(n)).join();
  return {
    key: `${lines.join(";")}→${show(outputs)}|${show(assignments.keys())}=${show(assignments.values())}|${show(losses)}|${show(gradients)}`,
    leaves,
  };
}
