/** The executed grammar of a graph: what must hold of every node at a stage. Run in tests, and before a program is compiled. */
import { invariant } from "../errors.ts";
import { FORMATS, isFloat } from "../formats/table.ts";
import { sameShape } from "../ops/shape.ts";
import { describe, type Node } from "./graph.ts";
import { topological } from "./walk.ts";

/** A sentence on each violated invariant; empty if the graph is well formed. */
export function problems(roots: readonly Node[]): readonly string[] {
  return topological(roots).flatMap((node) => RULES.flatMap((rule) => rule(node) ?? []));
}

/** Throws an internal error on the first violated invariant. */
export function verify(roots: readonly Node[]): void {
  const found = problems(roots);
  invariant(found.length === 0, () => `the graph is malformed: ${found[0]}`);
}

type Rule = (node: Node) => string | undefined;

const inputsAreOlder: Rule = (node) =>
  node.inputs.every((input) => input.id < node.id) ? undefined : `${describe(node)} reads a younger node`;

/** Invariant 1: shape and dtype come from the row, nowhere else. */
const typeFromRow: Rule = (node) => {
  const { shape, dtype } = node.op.infer(node.inputs, node.attributes);
  return sameShape(shape, node.shape) && dtype === node.dtype
    ? undefined
    : `${describe(node)} is not what its row infers: [${shape.join(", ")}] ${dtype}`;
};

/** Invariant 2: floating operands of a pointwise op or a product have one dtype; literals adapt. */
const oneFloat: Rule = (node) => {
  if (node.op.kind !== "pointwise" && node.op.kind !== "contraction") return undefined;
  const strong = node.inputs.filter((n) => isFloat(n.dtype) && !(n.op.kind === "source" && n.op.weak === true));
  const dtypes = new Set(strong.map((n) => n.dtype));
  return dtypes.size <= 1 ? undefined : `${describe(node)} mixes ${[...dtypes].join(" and ")}`;
};

/** Invariant 4: a product of 16-bit operands yields their dtype or its float32 accumulators, nothing else. */
const wideAccumulator: Rule = (node) => {
  if (node.op.kind !== "contraction") return undefined;
  const operand = node.inputs[0]?.dtype ?? node.dtype;
  const wide = FORMATS[node.dtype].bits >= 32;
  return node.dtype === operand || wide ? undefined : `${describe(node)} narrows ${operand} while accumulating`;
};

const RULES: readonly Rule[] = [inputsAreOlder, typeFromRow, oneFloat, wideAccumulator];
