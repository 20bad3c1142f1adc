/** Why a value has its dtype: the casts on the way to it, each with its rule. */

import { byteSize, FORMATS } from "../formats/index.ts";
import type { Node } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { sizeOf } from "../ops/shape.ts";
import { type CastReason, reasonOf } from "../precision/autocast.ts";
import type { Tensor } from "./tensor.ts";

/** One cast in a graph. */
export interface ExplainedCast {
  /** Name of the value that is cast, if it has one (a parameter), else the op that made it. */
  readonly value: string;
  readonly shape: readonly number[];
  readonly from: string;
  readonly to: string;
  /** Bytes that the cast's result occupies if it is stored; a cast that is fused into its reader is not. */
  readonly byteLength: number;
  /** The op that asked for it and its autocast class; null for a cast that the program states itself. */
  readonly reason: CastReason | null;
}

const RULES: Readonly<Record<CastReason["autocast"], string>> = {
  narrow: "computes in the region's dtype",
  wide: "computes in float32",
  widest: "computes in the widest of its operands",
  "as-is": "takes its operands as they are",
};

/**
 * Every cast that a tensor's value passes through, in the order in which they were recorded.
 *
 * @example
 * for (const cast of explain(loss)) console.log(describeCast(cast));
 * // tokenEmbedding.weight float32 → bfloat16: matmul is narrow, it computes in the region's dtype
 */
export function explain(tensor: Tensor): readonly ExplainedCast[] {
  return topological([tensor.node]).flatMap((node) => {
    const [x] = node.inputs;
    if (node.op.kind !== "pointwise" || node.op.converts !== true || x === undefined) return [];
    const byteLength = sizeOf(node.shape) * byteSize(node.dtype);
    return [
      {
        value: nameOf(x),
        shape: node.shape,
        from: x.dtype,
        to: node.dtype,
        byteLength,
        reason: reasonOf(node) ?? null,
      },
    ];
  });
}

/** The explanation of one cast as a sentence. */
export function describeCast({ value, from, to, reason }: ExplainedCast): string {
  const why =
    reason === null ? "stated by the program" : `${reason.op} is ${reason.autocast}, it ${RULES[reason.autocast]}`;
  return `${value} ${from} → ${to}: ${why}`;
}

function nameOf(node: Node): string {
  const { name } = node.attributes;
  if (typeof name === "string" && name !== "") return name;
  const [x] = node.inputs;
  return node.op.kind === "movement" && x !== undefined
    ? nameOf(x)
    : `${node.op.name} ${FORMATS[node.dtype].short}[${node.shape.join(", ")}]`;
}
