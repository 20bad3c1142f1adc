/** What backward keeps of forward, and what it computes anew: regions of a checkpoint, and rows that say so of themselves. */
import { build, createNode, type Node, requestedNodes } from "../ir/graph.ts";

/** The nodes of one checkpoint. */
type Region = ReadonlySet<Node>;

const regionOf = new WeakMap<Node, Region>();

/**
 * Runs `forward`, and has backward compute anew what it makes: only what it reads and what it returns is kept. Inside another
 * region the outer one decides. A node that two regions ask for belongs to the first.
 *
 * Source: Chen, Xu, Zhang, Guestrin 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
 */
export function recomputing<T>(forward: () => T): T {
  const { result, nodes } = requestedNodes(forward);
  const region = new Set([...nodes].filter((node) => !regionOf.has(node) && !isLeaf(node)));
  for (const node of region) regionOf.set(node, region);
  return result;
}

const isLeaf = ({ op }: Node): boolean => op.kind === "source" && op.source === "input";

/** What a view or a cast is made of. */
const formOf = ({ op, inputs: [x] }: Node): Node | undefined =>
  op.kind === "movement" || (op.kind === "pointwise" && op.converts === true) ? x : undefined;

/** The node computes itself anew for backward, or is a view or cast of one that does. */
function recomputes(node: Node): boolean {
  if (node.op.kind === "pointwise" && node.op.recompute === true) return true;
  const x = formOf(node);
  return x !== undefined && !regionOf.has(x) && recomputes(x);
}

/** The view that gradients have of forward's values. */
export class Recomputation {
  readonly #targets: ReadonlySet<Node>;
  readonly #anew = new Map<Node, Node>();
  readonly #barriers = new Map<Region | null, Map<Node, Node>>();

  /** @param targets what gradients are asked for: they are alive anyway, and are read as they are */
  constructor(targets: Iterable<Node>) {
    this.#targets = new Set(targets);
  }

  /**
   * What the gradient of `reader` reads in place of `node`, its operand or itself; `g` is the reader's cotangent. Nothing is
   * computed anew before the first cotangent that asks for it is known.
   */
  seenFrom(reader: Node, node: Node, g: Node): Node {
    if (this.#isFree(node)) return node;
    const region = regionOf.get(reader);
    if (region !== undefined) return region.has(node) ? this.#inside(region, node, g) : this.#outside(node, g, region);
    if (reader === node) return recomputes(node) ? this.#row(node, g) : node;
    if (recomputes(reader)) return this.#outside(node, g, null);
    // A region's result is kept for those outside of it.
    return !regionOf.has(node) && recomputes(node) ? this.#row(node, g) : node;
  }

  /** What a recomputation reads: kept, and behind a barrier, unless it computes itself anew. */
  #outside(node: Node, g: Node, region: Region | null): Node {
    if (!regionOf.has(node) && recomputes(node)) return this.#row(node, g);
    if (this.#isFree(node)) return node;
    const barriers = this.#barriers.get(region) ?? new Map<Node, Node>();
    this.#barriers.set(region, barriers);
    const barrier = barriers.get(node) ?? build.barrier(node, g);
    barriers.set(node, barrier);
    return barrier;
  }

  /**
   * Literals, what gradients are asked for, and views and casts of these, which kernels make of it while they read it. (A
   * weight's cast is one node for all that ask for it, in whatever region and recording.)
   */
  #isFree(node: Node): boolean {
    const { op } = node;
    if ((op.kind === "source" && op.source === "constant") || this.#targets.has(node)) return true;
    const x = formOf(node);
    return x !== undefined && this.#isFree(x);
  }

  #row(node: Node, g: Node): Node {
    const known = this.#anew.get(node);
    if (known !== undefined) return known;
    const inputs = node.inputs.map((input) => this.#outside(input, g, null));
    const made = createNode(node.op, inputs, node.attributes);
    this.#anew.set(node, made);
    return made;
  }

  /** A member of a region, made anew over what the region reads. */
  #inside(region: Region, node: Node, g: Node): Node {
    for (const member of membersUpTo(region, node, this.#anew)) {
      const inputs = member.inputs.map((input) => this.#anew.get(input) ?? this.#outside(input, g, region));
      this.#anew.set(member, createNode(member.op, inputs, member.attributes));
    }
    return this.#anew.get(node) ?? node;
  }
}

/** The members of `region` that `node` needs and that are not made yet, itself included, inputs before users. */
function membersUpTo(region: Region, node: Node, made: ReadonlyMap<Node, Node>): readonly Node[] {
  const found = new Set<Node>();
  const stack = [node];
  for (let n = stack.pop(); n !== undefined; n = stack.pop()) {
    if (found.has(n) || made.has(n) || !region.has(n)) continue;
    found.add(n);
    stack.push(...n.inputs);
  }
  return [...found].sort((a, b) => a.id - b.id);
}
