/** The order of kernels, and where variables are overwritten: in place by the kernel that computes the new value, or by a copy at the end. */
import type { Node } from "../ir/graph.ts";
import { sameShape } from "../ops/shape.ts";
import type { Group, Partition } from "./fuse.ts";
import { awaitedBy, isInput, memoryOf, sourceOf, storedBehind } from "./inline.ts";
import { type Edges, membersOf, order } from "./order.ts";
import type { KernelKind, Request } from "./program.ts";

export interface Schedule {
  /** Kernels in order; those from `commitFrom` on overwrite variables. */
  readonly order: readonly Group[];
  readonly commitFrom: number;
  /** Variable → the node that its kernel stores directly into it. */
  readonly inPlace: ReadonlyMap<Node, Node>;
  /** Variable → value to copy into it after the last kernel. */
  readonly copies: ReadonlyMap<Node, Node>;
}

/** What each group reads: stored nodes and leaves, seen through inlined expressions. */
export function readsOf(group: Group, inline: ReadonlySet<Node>): ReadonlySet<Node> {
  const own = new Set<Node>([...group.prologue, ...group.cores, ...group.epilogue]);
  const reads = new Set<Node>();
  const visit = (node: Node): void => {
    for (const input of node.inputs) {
      const { base } = sourceOf(input);
      if (inline.has(base)) visit(base);
      else if (!own.has(base)) reads.add(memoryOf(base));
    }
  };
  for (const node of own) visit(node);
  return reads;
}

/** What each group waits for without reading it: what barriers await. */
function awaitedByGroup(group: Group, inline: ReadonlySet<Node>): ReadonlySet<Node> {
  const seen = new Set<Node>();
  const awaited = new Set<Node>();
  const visit = (node: Node): void => {
    for (const input of node.inputs) {
      const { base } = sourceOf(input);
      if (seen.has(base)) continue;
      seen.add(base);
      if (inline.has(base)) visit(base);
      for (const stored of storedBehind(awaitedBy(base), inline)) awaited.add(stored);
    }
  };
  for (const node of membersOf(group)) visit(node);
  return awaited;
}

export function schedule({ groups, inline }: Partition, request: Request): Schedule {
  const owner = new Map<Node, Group>();
  for (const group of groups) for (const node of membersOf(group)) owner.set(node, group);
  const reads = new Map(groups.map((group) => [group, readsOf(group, inline)]));
  const waits = new Map(groups.map((group) => [group, awaitedByGroup(group, inline)]));
  const inPlace = new Map<Node, Node>();
  const copies = new Map<Node, Node>();
  const taken = new Set<Node>();
  const kept = new Set([...request.outputs, ...request.assignments.values()].map((n) => memoryOf(sourceOf(n).base)));
  for (const [variable, value] of request.assignments) {
    const source = sourceOf(value);
    const direct =
      source.base === value && !taken.has(value) && overwritable(owner.get(value), variable, value, inline);
    if (direct) taken.add(value);
    (direct ? inPlace : copies).set(variable, value);
  }
  for (;;) {
    const edges = dependencies(groups, reads, waits, owner, inPlace);
    const writers = new Set(
      [...inPlace.values()].map((value) => owner.get(value)).filter((g): g is Group => g !== undefined),
    );
    const ordered = order({ groups, before: edges, reads, writers, kept });
    const demoted = ordered.stuck === null ? beforeFaults(ordered.order, writers) : [ordered.stuck];
    if (demoted.length === 0)
      return { order: ordered.order, commitFrom: firstOf(ordered.order, writers), inPlace, copies };
    for (const group of demoted) demote(group, inPlace, copies, owner);
  }
}

/**
 * Kernels whose epilogue loads all that it reads of a block before it stores a result of it, when cores and prologue are done there;
 * so does their prologue, which passes over each element once.
 */
const STORES_IN_PLACE: ReadonlySet<KernelKind> = new Set(["pointwise", "contraction", "reduce", "magnitudes"]);

/**
 * The kernel may store the new value where the old one stands: the part that stores it reads the old value, if at all, element for
 * element, and no other part reads it. Products read elements again after an epilogue has stored others; what a prologue stores is
 * all stored before the epilogue begins.
 */
function overwritable(group: Group | undefined, variable: Node, value: Node, inline: ReadonlySet<Node>): boolean {
  if (group === undefined || !STORES_IN_PLACE.has(group.kind)) return false;
  if (value.dtype !== variable.dtype || !sameShape(value.shape, variable.shape)) return false;
  const spares = (node: Node, isElementwise: boolean): boolean =>
    node.inputs.every((input) => {
      const { base, linear } = sourceOf(input);
      if (inline.has(base)) return spares(base, isElementwise && linear);
      return memoryOf(base) !== variable || (isElementwise && linear);
    });
  const feedsCore = [...group.cores, ...group.prologue];
  const isLate = !group.prologue.has(value);
  return [...group.epilogue].every((n) => spares(n, isLate)) && feedsCore.every((n) => spares(n, !isLate));
}

/** Producers before readers; readers of a variable's old value before its writer. */
function dependencies(
  groups: readonly Group[],
  reads: ReadonlyMap<Group, ReadonlySet<Node>>,
  waits: ReadonlyMap<Group, ReadonlySet<Node>>,
  owner: ReadonlyMap<Node, Group>,
  inPlace: ReadonlyMap<Node, Node>,
): Edges {
  const before = new Map<Group, Set<Group>>(groups.map((g) => [g, new Set<Group>()]));
  for (const [group, nodes] of reads) {
    for (const node of nodes) {
      const producer = owner.get(node);
      if (producer !== undefined && producer !== group) before.get(group)?.add(producer);
      const value = isInput(node) ? inPlace.get(node) : undefined;
      const writer = value === undefined ? undefined : owner.get(value);
      if (writer !== undefined && writer !== group) before.get(writer)?.add(group);
    }
    for (const node of waits.get(group) ?? []) {
      const producer = owner.get(node);
      if (producer !== undefined && producer !== group) before.get(group)?.add(producer);
    }
  }
  return before;
}

const raisesFaults = (group: Group): boolean =>
  group.kind === "index" || group.cores.some((n) => n.op.kind === "composite" && n.op.native?.raisesFaults === true);

/** Writers that would run before a kernel which may still raise a fault. */
function beforeFaults(order_: readonly Group[], writers: ReadonlySet<Group>): readonly Group[] {
  return order_.slice(0, Math.max(order_.findLastIndex(raisesFaults), 0)).filter((g) => writers.has(g));
}

function demote(
  group: Group,
  inPlace: Map<Node, Node>,
  copies: Map<Node, Node>,
  owner: ReadonlyMap<Node, Group>,
): void {
  for (const [variable, value] of [...inPlace]) {
    if (owner.get(value) !== group) continue;
    inPlace.delete(variable);
    copies.set(variable, value);
  }
}

function firstOf(order_: readonly Group[], writers: ReadonlySet<Group>): number {
  const first = order_.findIndex((g) => writers.has(g));
  return first < 0 ? order_.length : first;
}
