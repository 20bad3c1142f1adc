/** Which intermediates are stored as pieces of a larger one from the start, so that putting them together moves nothing. */
import type { Node } from "../ir/graph.ts";
import { extent, reshapeView, rowMajor, sizeOf, type View } from "../ops/shape.ts";
import type { Group, Partition } from "./fuse.ts";
import { isInput, memoryOf, sourceOf } from "./inline.ts";
import { membersOf } from "./order.ts";
import type { KernelKind } from "./program.ts";

/** A node's elements inside the memory of `whole`: as the node's kernel writes them, and as the placement sees its operand. */
export interface Piece {
  readonly whole: Node;
  readonly written: View;
  readonly placed: View;
}

/** Kernels that store their results through any view. */
const STORES_VIEWS: ReadonlySet<KernelKind> = new Set([
  "pointwise",
  "contraction",
  "reduce",
  "row",
  "attention",
  "attentionBackward",
]);

/**
 * Operands of placements without gaps that nobody else reads, and they only once, each with its place. Nodes of `kept` stay whole and
 * apart: outputs, and what is assigned.
 */
export function piecesOf(
  order: readonly Group[],
  { inline }: Partition,
  kept: ReadonlySet<Node>,
): ReadonlyMap<Node, Piece> {
  const owner = new Map(order.flatMap((group) => membersOf(group).map((node) => [node, group] as const)));
  const reads = countReads(order, inline);
  const isFree = (base: Node): boolean =>
    !isInput(base) &&
    memoryOf(base) === base &&
    !inline.has(base) &&
    !kept.has(base) &&
    reads.get(base) === 1 &&
    STORES_VIEWS.has(owner.get(base)?.kind ?? "placement");
  const pieces = new Map<Node, Piece>();
  for (const { cores } of order) {
    const [core] = cores;
    if (core?.op.kind !== "placement" || kept.has(core)) continue;
    if (core.inputs.reduce((sum, n) => sum + sizeOf(n.shape), 0) !== sizeOf(core.shape)) continue;
    const strides = rowMajor(core.shape);
    core.op.starts(core.inputs, core.attributes).forEach((starts, i) => {
      const input = core.inputs[i];
      if (input === undefined) return;
      const { base, linear } = sourceOf(input);
      if (!linear || base.dtype !== core.dtype || !isFree(base)) return;
      const offset = starts.reduce((sum, start, axis) => sum + start * extent(strides, axis), 0);
      const placed = { offset, shape: input.shape, strides };
      const written = reshapeView(placed, base.shape);
      if (written !== null && endsInUnits(written)) pieces.set(base, { whole: core, written, placed });
    });
  }
  return pieces;
}

/** How often the memory of each node is read, by members of kernels and by expressions that are inlined there. */
function countReads(order: readonly Group[], inline: ReadonlySet<Node>): ReadonlyMap<Node, number> {
  const counts = new Map<Node, number>();
  const visit = (node: Node): void => {
    for (const input of node.inputs) {
      const { base } = sourceOf(input);
      const memory = memoryOf(base);
      if (inline.has(base)) visit(base);
      else counts.set(memory, (counts.get(memory) ?? 0) + 1);
    }
  };
  for (const group of order) for (const node of membersOf(group)) visit(node);
  return counts;
}

/** Neighbours along the last axis are neighbours in memory, as cores that write rows of their own expect. */
const endsInUnits = ({ shape, strides }: View): boolean => {
  const last = shape.length - 1;
  return last < 0 || extent(shape, last) === 1 || strides[last] === 1;
};
