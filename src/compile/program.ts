/** What a backend receives: kernels in order, over planned buffers. Typed data; nothing here knows which backend will run it. */
import type { DType } from "../formats/table.ts";
import type { Node } from "../ir/graph.ts";
import type { Shape, View } from "../ops/shape.ts";

/** What the compiler may rely on. A backend states it; the compiler never asks who it is. */
export interface Capabilities {
  /** dtypes that tensors may have. */
  readonly dtypes: ReadonlySet<DType>;
  /** Native cores (`family:core`) that run whole instead of being decomposed. */
  readonly cores: ReadonlySet<string>;
  /** Most axes of a tensor. Default: any number. */
  readonly maxRank?: number;
  /** Whether several nodes may share a kernel. */
  readonly fuse: boolean;
}

/** Where a buffer lives: in the program's arena, or in memory handed over at run time. */
export type Storage =
  | { readonly kind: "arena"; readonly byteOffset: number }
  | { readonly kind: "binding"; readonly index: number };

export interface Buffer {
  readonly dtype: DType;
  readonly elements: number;
  readonly storage: Storage;
}

/** A strided window on a buffer. */
export interface Operand {
  readonly buffer: Buffer;
  readonly view: View;
}

/** Where a kernel stores a node: all of a buffer row by row, or a part of one that other kernels fill up. */
export interface Write {
  readonly node: Node;
  readonly operand: Operand;
}

export type KernelKind =
  | "pointwise"
  | "reduce"
  | "magnitudes"
  | "row"
  | "contraction"
  | "placement"
  | "index"
  | "plane"
  | "channelStatistic"
  | "channelMap"
  | "attention"
  | "attentionBackward"
  | "convolution";

/**
 * Some nodes evaluated together. `nodes` (oldest first) holds everything computed inside; whatever else they read is in
 * `reads`, keyed by the node read. `cores` are the nodes that are not pointwise (siblings of one native core, or
 * reductions over the same axes). Evaluating `nodes` one by one and storing `writes` is the kernel's definition.
 */
export interface Kernel {
  readonly kind: KernelKind;
  readonly nodes: readonly Node[];
  readonly cores: readonly Node[];
  /** Nodes evaluated before the cores, over their operands. */
  readonly prologue: ReadonlySet<Node>;
  /** Nodes evaluated after the cores, over their results; all of them in a pointwise kernel. */
  readonly epilogue: ReadonlySet<Node>;
  /** What the epilogue runs over; every node of it has as many elements, and every operand can be walked in this order. */
  readonly domain: Shape;
  readonly reads: ReadonlyMap<Node, Operand>;
  readonly writes: readonly Write[];
}

export type BindingRole = "input" | "output";

export interface Binding {
  readonly role: BindingRole;
  /** The leaf that is read (input), or the node that is written (output). */
  readonly node: Node;
  readonly buffer: Buffer;
}

/** An intermediate's place in the arena, from the kernel that writes it to the last that touches it. */
export interface Allocation {
  readonly node: Node;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly from: number;
  readonly to: number;
}

export interface Program {
  readonly kernels: readonly Kernel[];
  /** Kernels from here on write variables; a backend runs them only if no kernel before raised a fault. */
  readonly commitFrom: number;
  readonly arenaByteLength: number;
  /** What the arena holds. */
  readonly allocations: readonly Allocation[];
  /** Buffers handed over at run time, in order. A variable that is assigned is an input that kernels also write. */
  readonly bindings: readonly Binding[];
  /** Binding index of every requested output, in the order requested. */
  readonly outputs: readonly number[];
  /** As in the request, after rewriting. */
  readonly losses: readonly Node[];
  readonly gradients: readonly Node[];
}

/** What the program computes: values to return, and variables (leaves) to overwrite with new values. */
export interface Request {
  readonly outputs: readonly Node[];
  readonly assignments: ReadonlyMap<Node, Node>;
  /** Of what is computed, what was differentiated and what came of it: a memory plan tells them apart. Default none. */
  readonly losses?: readonly Node[];
  readonly gradients?: readonly Node[];
}

/** The request with `change` applied to every value that it names, and `target` to the variables. */
export function mapRequest(
  { outputs, assignments, losses = [], gradients = [] }: Request,
  change: (values: readonly Node[]) => readonly Node[],
  target: (leaf: Node) => Node = (leaf) => leaf,
): Required<Request> {
  const values = [...change([...outputs, ...assignments.values(), ...losses, ...gradients])];
  const take = (count: number): Node[] => values.splice(0, count);
  return {
    outputs: take(outputs.length),
    assignments: new Map([...assignments.keys()].map((leaf) => [target(leaf), take(1)[0] as Node])),
    losses: take(losses.length),
    gradients: take(gradients.length),
  };
}
