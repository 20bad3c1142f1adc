/** How cotangents meet: their dtype, their sum at a fan-in, and the boxes that tile instead of being added. Decided here only. */
import type { DType } from "../formats/table.ts";
import { FORMATS, isFloat } from "../formats/table.ts";
import { build, type Node } from "../ir/graph.ts";
import { accumulatorOf } from "../ops/builder.ts";
import { extent, type Shape } from "../ops/shape.ts";

/**
 * The dtype in which `node`'s cotangent is summed and handed on: its own, except where the node is a narrower copy of a
 * float32 value (through views, too). There each use passes through the cast's gradient before it is added (invariant 4:
 * a bfloat16 weight used 300 times with unit cotangents gets 300, not 256), and products leave their float32 sums
 * unrounded (invariant 5).
 */
export function cotangentDType(node: Node): DType {
  const [x] = node.inputs;
  if (x === undefined) return node.dtype;
  if (node.op.kind === "movement") return cotangentDType(x);
  const converts = node.op.kind === "pointwise" && node.op.converts === true;
  return converts && isFloat(x.dtype) && isFloat(node.dtype) && FORMATS[x.dtype].bits > FORMATS[node.dtype].bits
    ? x.dtype
    : node.dtype;
}

/**
 * The dtype in which an op is asked for an operand's cotangent: the operand's own, except float32 for a narrower copy of a
 * leaf. Products and sums that yield a variable's gradient thus leave their float32 accumulators unrounded (invariant 5);
 * those that yield an activation's cotangent round, as the activation did.
 */
export function requestedDType(operand: Node): DType {
  return leafOf(operand)?.op.kind === "source" ? cotangentDType(operand) : operand.dtype;
}

/** What an operand is a copy of, through views and casts. */
function leafOf(node: Node): Node | undefined {
  const passes = node.op.kind === "movement" || (node.op.kind === "pointwise" && node.op.converts === true);
  const [x] = node.inputs;
  return passes && x !== undefined ? leafOf(x) : node;
}

/** The cotangent of a node from those of its uses, in order: added in at least float32, rounded once. */
export function fanIn(contributions: readonly Node[], dtype: DType): Node {
  const tiled = tile(contributions);
  const [first, ...rest] = tiled === null ? contributions : [tiled];
  if (first === undefined) throw new Error("internal: a cotangent without contributions");
  if (rest.length === 0) return build.cast(first, dtype);
  const acc = accumulatorOf(dtype);
  const sum = rest.reduce((total, g) => build.add(total, build.cast(g, acc)), build.cast(first, acc));
  return build.cast(sum, dtype);
}

/** Placements whose boxes fill the whole side by side are one concatenation, not a sum of mostly zeros. */
function tile(contributions: readonly Node[]): Node | null {
  if (contributions.length < 2) return null;
  const boxes = contributions.flatMap((node) => {
    const [part] = node.inputs;
    if (node.op.kind !== "placement" || part === undefined || node.inputs.length !== 1) return [];
    return [{ part, start: node.op.starts(node.inputs, node.attributes)[0] ?? [], whole: node.shape }];
  });
  const [first] = boxes;
  if (first === undefined || boxes.length !== contributions.length) return null;
  const axis = first.part.shape.findIndex((n, i) => n !== first.whole[i]);
  if (
    axis < 0 ||
    boxes.some((box) => box.part.dtype !== first.part.dtype || !spansAllBut(axis, box.part.shape, first.whole))
  )
    return null;
  boxes.sort((a, b) => extent(a.start, axis) - extent(b.start, axis));
  let end = 0;
  for (const box of boxes) {
    if (box.start[axis] !== end) return null;
    end += extent(box.part.shape, axis);
  }
  return end === first.whole[axis]
    ? build.concatenate(
        boxes.map((box) => box.part),
        axis,
      )
    : null;
}

const spansAllBut = (axis: number, part: Shape, whole: Shape): boolean =>
  part.every((n, i) => i === axis || n === whole[i]);
