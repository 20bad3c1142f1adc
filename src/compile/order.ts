/** In which order kernels run: producers before readers, otherwise such that little is alive at a time. */
import { BinadeError } from "../errors.ts";
import type { Node } from "../ir/graph.ts";
import { sizeOf } from "../ops/shape.ts";
import type { Group } from "./fuse.ts";
import { bytesOf } from "./inline.ts";
import { Queue } from "./queue.ts";

/** Group → the groups that run before it. */
export type Edges = ReadonlyMap<Group, ReadonlySet<Group>>;

export const membersOf = (group: Group): readonly Node[] => [...group.prologue, ...group.cores, ...group.epilogue];

export interface Ordering {
  readonly groups: readonly Group[];
  readonly before: Edges;
  /** The stored nodes and leaves that each group reads. */
  readonly reads: ReadonlyMap<Group, ReadonlySet<Node>>;
  /** Groups that overwrite variables: those that only do that run last. */
  readonly writers: ReadonlySet<Group>;
  /** Nodes whose memory is needed to the end. */
  readonly kept: ReadonlySet<Node>;
}

/**
 * Kahn's algorithm. Of the kernels that could run, one that gives back more memory than it takes goes first, then the most
 * urgent; pointwise writers of variables go last. A product or sum that updates a variable in its epilogue has its turn like any
 * other: what it reads would stay alive. `stuck`: a writer on a cycle.
 *
 * A kernel is as urgent as its core is old, and never less than what reads it: an epilogue that was written later (the
 * unscaling of a gradient) does not hold its product back while the activations that it reads stay alive, and what such an
 * epilogue needs is there in time. Sums that yield a few scalars run right after what they read, and so do counts of magnitudes: they
 * cost no memory, and what they read may still be in a cache.
 */
export function order(given: Ordering): { order: readonly Group[]; stuck: Group | null } {
  const { groups, before, writers } = given;
  const last = new Set([...writers].filter((g) => g.cores.length === 0));
  const waiting = new Map<Group, number>(groups.map((g) => [g, before.get(g)?.size ?? 0]));
  const after = new Map<Group, Group[]>(groups.map((g) => [g, []]));
  for (const [group, producers] of before) for (const producer of producers) after.get(producer)?.push(group);
  const rank = urgency(given, last);
  const memory = new Balance(given);
  const priority = (g: Group): number => Math.min(last.has(g) ? 0 : memory.growth(g), 0) || (rank.get(g) ?? 0);
  const ready = new Queue<Group>();
  for (const group of groups) if (waiting.get(group) === 0) ready.put(group, priority(group));
  const result: Group[] = [];
  for (let group = ready.take(); group !== undefined; group = ready.take()) {
    result.push(group);
    for (const other of memory.run(group)) if (ready.has(other)) ready.put(other, priority(other));
    for (const next of after.get(group) ?? []) {
      const left = (waiting.get(next) ?? 0) - 1;
      waiting.set(next, left);
      if (left === 0) ready.put(next, priority(next));
    }
  }
  if (result.length === groups.length) return { order: result, stuck: null };
  const done = new Set(result);
  const stuck = groups.find((g) => !done.has(g) && writers.has(g));
  if (stuck === undefined) throw new BinadeError("internal", "internal: kernels depend on each other in a circle");
  return { order: result, stuck };
}

/** What running a group next would do to the memory in use. */
class Balance {
  readonly #reads: Ordering["reads"];
  readonly #kept: ReadonlySet<Node>;
  /** Intermediates that others read, and the groups that have yet to do so. */
  readonly #readers = new Map<Node, Set<Group>>();
  readonly #taken: ReadonlyMap<Group, number>;

  constructor({ groups, reads, kept }: Ordering) {
    this.#reads = reads;
    this.#kept = kept;
    const computed = new Set(groups.flatMap(membersOf));
    for (const [group, nodes] of reads)
      for (const node of nodes)
        if (computed.has(node)) this.#readers.set(node, (this.#readers.get(node) ?? new Set()).add(group));
    const taken = (group: Group): number =>
      membersOf(group).reduce((sum, n) => sum + (this.#readers.has(n) ? bytesOf(n) : 0), 0);
    this.#taken = new Map(groups.map((group) => [group, taken(group)]));
  }

  /** Bytes taken less bytes given back. */
  growth(group: Group): number {
    const given = [...(this.#reads.get(group) ?? [])].reduce(
      (sum, n) => sum + (this.#readers.get(n)?.size === 1 && !this.#kept.has(n) ? bytesOf(n) : 0),
      0,
    );
    return (this.#taken.get(group) ?? 0) - given;
  }

  /** Runs `group`; those whose growth is another one now: the last readers of something. */
  run(group: Group): readonly Group[] {
    return [...(this.#reads.get(group) ?? [])].flatMap((node) => {
      const left = this.#readers.get(node);
      left?.delete(group);
      return left?.size === 1 ? [...left] : [];
    });
  }
}

/** Elements up to which the results of sums are a few scalars. */
const FEW = 16;

const yieldsFew = (group: Group): boolean =>
  group.kind === "magnitudes" ||
  (group.kind === "reduce" && membersOf(group).every((n) => group.prologue.has(n) || sizeOf(n.shape) <= FEW));

/** Ranks, lowest first. Groups on a cycle, which `order` reports, are left with whatever rank they have. */
function urgency({ groups, before, writers }: Ordering, last: ReadonlySet<Group>): ReadonlyMap<Group, number> {
  const newest = (nodes: readonly Node[]): number => Math.max(...nodes.map((n) => n.id));
  const own = (g: Group): number => newest(g.cores.length > 0 ? g.cores : membersOf(g)) + (last.has(g) ? 1e12 : 0);
  const rank = new Map<Group, number>();
  const byAge = [...groups].sort((a, b) => newest(membersOf(a)) - newest(membersOf(b)));
  for (const group of byAge) {
    const producers = [...(before.get(group) ?? [])].map((p) => rank.get(p) ?? own(p));
    rank.set(
      group,
      yieldsFew(group) && !writers.has(group) && producers.length > 0
        ? Math.min(own(group), Math.max(...producers))
        : own(group),
    );
  }
  // The most urgent first: what one of them needs is as urgent as it, and was no more so before, so each is reached once.
  const reached = new Set<Group>();
  for (const group of [...groups].sort((a, b) => (rank.get(a) ?? 0) - (rank.get(b) ?? 0))) {
    const urgent = rank.get(group) ?? 0;
    const stack = [group];
    for (let needed = stack.pop(); needed !== undefined; needed = stack.pop()) {
      if (reached.has(needed)) continue;
      reached.add(needed);
      rank.set(needed, urgent);
      stack.push(...(before.get(needed) ?? []));
    }
  }
  return rank;
}
