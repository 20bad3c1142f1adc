/** The reverse walk: asks every row for the cotangents of its operands, and adds them where uses meet. */
import { BinadeError } from "../errors.ts";
import { isFloat } from "../formats/table.ts";
import { build, describe, type Node } from "../ir/graph.ts";
import { postorder } from "../ir/walk.ts";
import { showShape } from "../ops/shape.ts";
import { cotangentDType, fanIn, requestedDType } from "./cotangent.ts";
import { Recomputation } from "./recompute.ts";

/**
 * Gradients of a scalar with respect to `targets`, as graph nodes: the shape and dtype of each target.
 * A target that the scalar does not depend on has no entry.
 */
export function gradients(scalar: Node, targets: readonly Node[]): ReadonlyMap<Node, Node> {
  if (scalar.shape.length !== 0 || !isFloat(scalar.dtype)) {
    throw new BinadeError(
      "autodiff.notDifferentiable",
      `gradients: expected a floating scalar, got ${scalar.dtype} ${showShape(scalar.shape)}; reduce it first, for instance loss.mean()`,
    );
  }
  const whole = targets.find((t) => !isFloat(t.dtype));
  if (whole !== undefined) {
    throw new BinadeError(
      "autodiff.notDifferentiable",
      `gradients: ${describe(whole)} holds integers, which have no gradient; pass floating tensors`,
    );
  }
  const recomputation = new Recomputation(targets);
  return pull(new Map([[scalar, build.constant(1, [], scalar.dtype)]]), targets, recomputation);
}

/**
 * Pulls the cotangents `seeds` back to `targets`. `within`: the targets are the operands of one composite, and the walk
 * ends there. One operand may depend on another (softmaxBackward reads g and out, and g may be made from out); walking
 * on would count that path here and again in the walk outside.
 */
function pull(
  seeds: ReadonlyMap<Node, Node>,
  targets: readonly Node[],
  recomputation: Recomputation,
  within = false,
): ReadonlyMap<Node, Node> {
  const isTarget = new Set(targets);
  const nodes = dependents(
    postorder([...seeds.keys()], (node) => within && isTarget.has(node)),
    isTarget,
  );
  const contributions = new Map<Node, Node[]>();
  for (const [node, g] of seeds) contributions.set(node, [g]);
  const result = new Map<Node, Node>();
  for (const node of [...nodes].reverse()) {
    const uses = contributions.get(node);
    if (uses === undefined) continue;
    const g = fanIn(uses, cotangentDType(node));
    if (isTarget.has(node)) result.set(node, build.cast(g, node.dtype));
    if (!within || !isTarget.has(node)) spread(node, g, nodes, contributions, recomputation);
  }
  return result;
}

/** The nodes, inputs before users, through which a target reaches the seeds. */
function dependents(nodes: readonly Node[], wanted: ReadonlySet<Node>): ReadonlySet<Node> {
  const active = new Set<Node>();
  for (const node of nodes) {
    if (wanted.has(node) || (node.op.vjp !== "none" && node.inputs.some((n) => active.has(n)))) active.add(node);
  }
  return active;
}

/** The node whose gradient rule is being asked. */
let differentiated: Node | null = null;

/** While gradients are made: the node of forward whose gradient rule is at work; null otherwise. */
export const differentiatedNode = (): Node | null => differentiated;

function spread(
  node: Node,
  g: Node,
  active: ReadonlySet<Node>,
  contributions: Map<Node, Node[]>,
  recomputation: Recomputation,
): void {
  if (!node.inputs.some((n) => active.has(n))) return;
  const before = differentiated;
  differentiated = before ?? node;
  try {
    contribute(node, g, active, contributions, recomputation);
  } finally {
    differentiated = before;
  }
}

function contribute(
  node: Node,
  g: Node,
  active: ReadonlySet<Node>,
  contributions: Map<Node, Node[]>,
  recomputation: Recomputation,
): void {
  const cotangents = operandCotangents(node, g, active, recomputation);
  // One entry per operand: an operand read twice by one node contributes twice.
  node.inputs.forEach((input, i) => {
    const cotangent = active.has(input) ? cotangents[i]?.() : undefined;
    if (cotangent === undefined) return;
    const list = contributions.get(input);
    if (list === undefined) contributions.set(input, [cotangent]);
    else list.push(cotangent);
  });
}

function operandCotangents(
  node: Node,
  g: Node,
  active: ReadonlySet<Node>,
  recomputation: Recomputation,
): readonly ((() => Node) | null | undefined)[] {
  const { op, inputs, attributes } = node;
  if (op.vjp === "none") return [];
  const seen = inputs.map((input) => recomputation.seenFrom(node, input, g));
  if (op.vjp !== "decompose")
    return op.vjp({
      b: build,
      g,
      out: recomputation.seenFrom(node, node, g),
      ins: seen,
      attributes,
      wanted: inputs.map(requestedDType),
    });
  if (op.kind !== "composite")
    throw new BinadeError("internal", `internal: ${op.name} has neither a gradient nor a decomposition`);
  const distinct = [...new Set(seen.filter((_, i) => active.has(inputs[i] as Node)))];
  const through = pull(new Map([[op.decompose(build, seen, attributes), g]]), distinct, recomputation, true);
  // The pulled cotangent of an operand already covers all its positions: it is handed over once.
  return seen.map((input, i) => {
    const cotangent = through.get(input);
    return cotangent === undefined || seen.indexOf(input) !== i ? null : () => cotangent;
  });
}
