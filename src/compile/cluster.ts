/** A kernel in the making: its cores, what is evaluated before and after them, and what tells kernels apart that could be one. */
import type { Node } from "../ir/graph.ts";
import { type Shape, sizeOf } from "../ops/shape.ts";
import { sourceOf } from "./inline.ts";
import type { KernelKind } from "./program.ts";

export class Cluster {
  kind: KernelKind;
  cores: Node[];
  prologue = new Set<Node>();
  epilogue = new Set<Node>();
  /** The stored values that members read, results of other members included. */
  readonly reads = new Set<Node>();
  /** In a topological order of all clusters: none needs the results of one whose position is greater. */
  position = 0;

  constructor(kind: KernelKind, node: Node) {
    this.kind = kind;
    this.cores = kind === "pointwise" ? [] : [node];
    if (kind === "pointwise") this.epilogue.add(node);
  }

  *members(): IterableIterator<Node> {
    yield* this.prologue;
    yield* this.cores;
    yield* this.epilogue;
  }
}

export const kindOf = (node: Node): KernelKind => {
  const { op } = node;
  switch (op.kind) {
    case "source":
    case "pointwise":
      return "pointwise";
    case "movement":
    case "placement":
      return "placement";
    case "reduce":
      return "reduce";
    case "magnitudes":
      return "magnitudes";
    case "contraction":
      return "contraction";
    case "index":
      return "index";
    case "composite":
      return op.native?.family ?? "row";
  }
};

export function domainOf(cluster: Cluster): Shape {
  const [node] = cluster.cores.length > 0 ? cluster.cores : cluster.epilogue;
  return node?.shape ?? [];
}

/** The shape over which a core's operands are evaluated. */
export function operandDomain(core: Node): Shape {
  const shapes = core.inputs.map((n) => n.shape);
  return shapes.reduce((a, b) => (sizeOf(b) > sizeOf(a) ? b : a), []);
}

/** Equal for clusters that one kernel could serve; null for those that stand alone. */
export function siblingKey({ kind, cores }: Cluster): string | null {
  const [core] = cores;
  if (core === undefined) return null;
  const { op, inputs, attributes } = core;
  const operands = inputs.map((n) => n.id).join(",");
  if (op.kind === "composite" && op.native !== undefined) {
    const parameters = op.native.parameters?.(attributes).join(",") ?? "";
    return `${op.native.family}:${op.native.core}(${operands})${parameters}`;
  }
  if (kind !== "reduce" || !Array.isArray(attributes.axes)) return null;
  const [x] = inputs;
  // The axes count in the operand's own shape: axis 0 of [2, 6] and of its reshape to [6, 2] are different passes.
  return x === undefined ? null : `reduce[${attributes.axes.join(",")}]of[${x.shape.join(",")}](${sharedOperand(x)})`;
}

/** The largest stored value that a reduction's operand is computed from: reductions over one memory stream share a pass. */
function sharedOperand(x: Node): string {
  let node = sourceOf(x).base;
  while (node.op.kind === "pointwise") {
    const [next] = node.inputs
      .map((n) => sourceOf(n))
      .filter((s) => s.linear && sizeOf(s.base.shape) === sizeOf(node.shape));
    if (next === undefined) break;
    node = next.base;
  }
  return `${node.id}:${node.shape.join("x")}`;
}
