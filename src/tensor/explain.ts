/** Why a value has its dtype: the casts on the way to it, each with its rule. */

import { byteSize, FORMATS } from "../formats/index.ts";
import type { Node } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { sizeOf } from "../ops/shape.ts";
import { type CastReason, reasonOf } from "../precision/autocast.ts";
import { requireFields } from "../precision/options.ts";
import { requireTensors } from "./require.ts";
import { variableName } from "./runtime.ts";
import { requireTensor, type Tensor } from "./tensor.ts";

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

const CLASSES: Readonly<Record<CastReason["autocast"], string>> = {
  narrow: "computes in the region's dtype",
  wide: "computes in float32",
  widest: "computes in the widest of its operands",
  "as-is": "takes its operands as they are",
  policy: "casts what goes in and what comes out",
};

/**
 * Every cast that the values of tensors pass through, each once, in the order in which they were recorded.
 *
 * @throws BinadeError `option.invalid` for an argument that is no tensor.
 * @example
 * for (const cast of explain(loss)) console.log(describeCast(cast));
 * // head.weight float32 → bfloat16: linear (matmul) in head is narrow, it computes in the region's dtype
 */
export function explain(...tensors: readonly Tensor[]): readonly ExplainedCast[] {
  requireTensors("explain: argument", tensors);
  return topological(tensors.map(({ node }) => node)).flatMap((node) => {
    const [x] = node.inputs;
    if (!isConversion(node) || x === undefined) return [];
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

/**
 * The explanation of one cast as a sentence.
 *
 * @throws BinadeError `option.invalid` for something else than a cast.
 */
export function describeCast(cast: ExplainedCast): string {
  requireFields("describeCast", cast, ["value", "from", "to", "reason"], "explain");
  const { value, from, to, reason } = cast;
  return `${value} ${from} → ${to}: ${reason === null ? "stated by the program" : sentenceOf(reason)}`;
}

function sentenceOf({ op, function: called, module, autocast, rule }: CastReason): string {
  const place = module === null ? "" : ` in ${module === "" ? "the outermost module" : module}`;
  if (autocast === "policy") return `the policy of ${module || "the outermost module"} ${CLASSES.policy}`;
  const subject = `${called === null || called === op ? op : `${called} (${op})`}${place}`;
  const why = rule === null ? "" : `, by the rule ${rule}`;
  return `${subject} is ${autocast}, it ${CLASSES[autocast]}${why}`;
}

/**
 * Why a value has its dtype: the class, rule or policy that chose it, or the value from which it has it.
 *
 * @throws BinadeError `option.invalid` for something else than a tensor.
 * @example
 * console.log(explainDType(autocast("bfloat16", () => x.matmul(y))));
 * // matmul bf16[2, 2] is bfloat16: matmul is narrow, it computes in the region's dtype
 */
export function explainDType(tensor: Tensor): string {
  requireTensor("explainDType", tensor);
  const { node } = tensor;
  return `${nameOf(node)} is ${node.dtype}: ${whyOf(node)}`;
}

function whyOf(node: Node): string {
  const reason = reasonOf(node);
  if (reason !== undefined) return sentenceOf(reason);
  if (node.op.kind === "source") return "it was made so";
  if (isConversion(node)) return "stated by the program";
  for (const input of node.inputs) {
    const asked = reasonBelow(input);
    if (asked !== undefined && asked.op === node.op.name && asked.to === node.dtype) return sentenceOf(asked);
  }
  const like = node.inputs.find((input) => input.dtype === node.dtype);
  if (like === undefined) return `${node.op.name} gives ${node.dtype}`;
  return `${node.op.name} follows its operand ${nameOf(like)}; ${whyOf(like)}`;
}

const isConversion = ({ op }: Node): boolean => op.kind === "pointwise" && op.converts === true;

/** The reason of the cast that an operand is a view of. */
function reasonBelow(node: Node): CastReason | undefined {
  const [x] = node.inputs;
  return reasonOf(node) ?? (node.op.kind === "movement" && x !== undefined ? reasonBelow(x) : undefined);
}

function nameOf(node: Node): string {
  const name = variableName(node) ?? node.attributes.name;
  if (typeof name === "string" && name !== "") return name;
  const [x] = node.inputs;
  return node.op.kind === "movement" && x !== undefined
    ? nameOf(x)
    : `${node.op.name} ${FORMATS[node.dtype].short}[${node.shape.join(", ")}]`;
}
