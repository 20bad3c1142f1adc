/** Which intermediates are written over an operand that dies: kernels that read it element for element where they write. */
import { byteSize } from "../formats/table.ts";
import type { Node } from "../ir/graph.ts";
import { sizeOf } from "../ops/shape.ts";
import type { Group } from "./fuse.ts";
import { memoryOf, sourceOf } from "./inline.ts";

/**
 * Operands of `group` that it reads only where it writes the same element: as they are, by expressions of its epilogue. A
 * kernel loads all operands of a block (or tile) before it stores a result of it, so such an operand may be written over. What a
 * core or a prologue reads may not: products, sums and rows read elements again after they have written others. A map over
 * channels does not, and has read the numbers of its channels before it begins.
 */
export function overwritableOperands(group: Group, inline: ReadonlySet<Node>): ReadonlySet<Node> {
  const isMap = group.kind === "channelMap";
  if (group.kind !== "pointwise" && group.kind !== "contraction" && !isMap) return new Set();
  const readElementwise = new Set<Node>();
  const readOtherwise = new Set<Node>();
  const own = new Set<Node>([...group.cores, ...group.prologue, ...group.epilogue]);
  const visit = (node: Node, isElementwise: boolean): void => {
    for (const input of node.inputs) {
      const { base, linear } = sourceOf(input);
      if (own.has(base)) continue;
      if (inline.has(base)) visit(base, isElementwise && linear);
      else (isElementwise && linear ? readElementwise : readOtherwise).add(memoryOf(base));
    }
  };
  for (const node of group.epilogue) visit(node, true);
  for (const node of [...group.cores, ...group.prologue]) visit(node, isMap);
  for (const node of readOtherwise) readElementwise.delete(node);
  return readElementwise;
}

/** The nodes have elements of one width, and as many. */
export const sameLayout = (a: Node, b: Node): boolean =>
  byteSize(a.dtype) === byteSize(b.dtype) && sizeOf(a.shape) === sizeOf(b.shape);
