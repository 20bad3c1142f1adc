/** Kernels in the making and what they read of each other: which may become one without waiting for itself. */
import type { Node } from "../ir/graph.ts";
import { Cluster, kindOf } from "./cluster.ts";
import { awaitedBy, isInput, memoryOf, type Source, sourceOf, storedBehind } from "./inline.ts";
import { Sequence } from "./sequence.ts";

/**
 * The clusters of a graph, at first one for each node, in a topological order that is kept while they are merged. What leads from
 * one to another lies between them in this order, and is looked for from both ends: that costs little where they are near, or
 * one of them has few neighbours, however large the graph is. Ages of nodes are no such order: a cluster older than another
 * may read one of which another node is younger, and reads the other.
 *
 * Source: Pearce, Kelly 2007, "A Dynamic Topological Sort Algorithm for Directed Acyclic Graphs", ACM JEA 11: there an edge is
 * added, here two clusters become one.
 */
export class ClusterGraph {
  /** In the order in which they were made, whatever was merged since. */
  readonly clusters: ReadonlySet<Cluster>;
  readonly #clusters = new Set<Cluster>();
  readonly #sequence: Sequence<Cluster>;
  readonly #inline: ReadonlySet<Node>;
  readonly #clusterOf = new Map<Node, Cluster>();
  readonly #operandsOf = new Map<Node, readonly Source[]>();
  /** The clustered nodes that read a stored value. */
  readonly #readersOf = new Map<Node, Set<Node>>();

  /** @param computed nodes that are not inlined, oldest first */
  constructor(computed: readonly Node[], inline: ReadonlySet<Node>) {
    this.#inline = inline;
    this.clusters = this.#clusters;
    for (const node of computed) {
      const cluster = new Cluster(kindOf(node), node);
      this.#clusters.add(cluster);
      this.#hold(node, cluster);
      for (const { base } of this.operands(node)) {
        const readers = this.#readersOf.get(base) ?? new Set();
        this.#readersOf.set(base, readers.add(node));
      }
    }
    this.#sequence = new Sequence([...this.#clusters]);
  }

  clusterOf(node: Node): Cluster | undefined {
    return this.#clusterOf.get(node);
  }

  /** Stored or clustered values that `node` reads, seen through inlined expressions. */
  operands(node: Node): readonly Source[] {
    const known = this.#operandsOf.get(node);
    if (known !== undefined) return known;
    const found = node.inputs.flatMap((input) => {
      const source = sourceOf(input);
      if (this.#inline.has(source.base)) return this.operands(source.base);
      const memory = memoryOf(source.base);
      // A key is read from memory, whatever the element: never from a kernel's registers.
      const isKey = node.op.kind === "source";
      if (memory === source.base) return isInput(memory) ? [] : [isKey ? { ...source, linear: false } : source];
      // Through a barrier, an operand is read from memory, never from a kernel's registers, and after what the barrier awaits.
      return [memory, ...storedBehind(awaitedBy(source.base), this.#inline)].flatMap((base) =>
        isInput(base) ? [] : [{ ...source, base, linear: false }],
      );
    });
    this.#operandsOf.set(node, found);
    return found;
  }

  /** Whether merging `from` and `to`, which reads it, would make a circle: a path leads there through memory or another cluster. */
  cycles(from: Cluster, to: Cluster): boolean {
    return this.#readsThroughView(to, from) || this.#leads(from, to);
  }

  /** Whether `to` needs the results of `from`, another cluster. */
  reaches(from: Cluster, to: Cluster): boolean {
    for (const producer of this.#producersOf(to)) if (producer === from) return true;
    return this.#leads(from, to);
  }

  /** `kept` holds what `gone` held, which is no more. No path leads through another cluster from one to the other. */
  merge(kept: Cluster, gone: Cluster): void {
    this.#moveTogether(kept, gone);
    this.#sequence.remove(gone);
    for (const node of gone.members()) this.#hold(node, kept);
    this.#clusters.delete(gone);
  }

  #hold(node: Node, cluster: Cluster): void {
    this.#clusterOf.set(node, cluster);
    for (const { base } of this.operands(node)) cluster.reads.add(base);
  }

  /** Whether `to` reads a result of `from` through a view, also if it reads another (or the same) element for element: it must be stored first. */
  #readsThroughView(to: Cluster, from: Cluster): boolean {
    for (const node of to.members()) {
      for (const { base, linear } of this.operands(node))
        if (!linear && this.#clusterOf.get(base) === from) return true;
    }
    return false;
  }

  /** Whether a path leads from `from` to `to` through another cluster. */
  #leads(from: Cluster, to: Cluster): boolean {
    if (from.position > to.position) return false;
    const { ahead, back } = this.#between(from, to);
    for (;;) {
      if (!ahead.step()) return false;
      if (ahead.hasArrived || back.found.has(ahead.latest)) return true;
      if (!back.step()) return false;
      if (back.hasArrived || ahead.found.has(back.latest)) return true;
    }
  }

  /**
   * Brings `kept` to a place that suits `gone` as well, that of the earlier or of the later: what needs the earlier one moves behind
   * the later, or what the later one needs before the earlier, whichever is found first.
   */
  #moveTogether(kept: Cluster, gone: Cluster): void {
    const [early, late] = kept.position < gone.position ? [kept, gone] : [gone, kept];
    const { ahead, back } = this.#between(early, late);
    for (;;) {
      if (!ahead.step()) {
        if (kept === early) this.#sequence.moveBehind(kept, late);
        let last = kept;
        for (const cluster of [...ahead.found].sort(byPosition)) {
          this.#sequence.moveBehind(cluster, last);
          last = cluster;
        }
        return;
      }
      if (!back.step()) {
        if (kept === late) this.#sequence.moveBefore(kept, early);
        for (const cluster of [...back.found].sort(byPosition)) this.#sequence.moveBefore(cluster, kept);
        return;
      }
    }
  }

  /** Of the clusters between two in the order, those that need `from`, and those that `to` needs. */
  #between(from: Cluster, to: Cluster): { readonly ahead: Walk; readonly back: Walk } {
    const isBetween = ({ position }: Cluster): boolean => position > from.position && position < to.position;
    return {
      ahead: new Walk(from, to, (cluster) => this.#consumersOf(cluster), isBetween),
      back: new Walk(to, from, (cluster) => this.#producersOf(cluster), isBetween),
    };
  }

  *#producersOf(cluster: Cluster): IterableIterator<Cluster> {
    for (const base of cluster.reads) {
      const producer = this.#clusterOf.get(base);
      if (producer !== undefined && producer !== cluster) yield producer;
    }
  }

  *#consumersOf(cluster: Cluster): IterableIterator<Cluster> {
    for (const node of cluster.members()) {
      for (const reader of this.#readersOf.get(node) ?? []) {
        const consumer = this.#clusterOf.get(reader);
        if (consumer !== undefined && consumer !== cluster) yield consumer;
      }
    }
  }
}

const byPosition = (a: Cluster, b: Cluster): number => a.position - b.position;

/**
 * A walk from a cluster to all that `neighboursOf` leads to and `isWanted`, nearest first, in steps of one edge each. A walk that is
 * over may not have met the one from the other end, which has followed as few edges: it knows itself whether it got there.
 */
class Walk {
  /** What was found so far. */
  readonly found = new Set<Cluster>();
  /** The end of the last edge that was wanted; the beginning of the walk before. */
  latest: Cluster;
  /** Whether an edge of what was found leads to the end; one of the beginning does not count. */
  hasArrived = false;
  readonly #start: Cluster;
  readonly #end: Cluster;
  #at: Cluster;
  readonly #neighboursOf: (cluster: Cluster) => Iterator<Cluster>;
  readonly #isWanted: (cluster: Cluster) => boolean;
  readonly #pending = this.found.values();
  #edges: Iterator<Cluster>;

  constructor(
    start: Cluster,
    end: Cluster,
    neighboursOf: (cluster: Cluster) => Iterator<Cluster>,
    isWanted: (cluster: Cluster) => boolean,
  ) {
    this.latest = start;
    this.#at = start;
    this.#start = start;
    this.#end = end;
    this.#neighboursOf = neighboursOf;
    this.#isWanted = isWanted;
    this.#edges = neighboursOf(start);
  }

  /** Follows one more edge; false if there is none. */
  step(): boolean {
    let edge = this.#edges.next();
    while (edge.done === true) {
      const { value, done } = this.#pending.next();
      if (done === true) return false;
      this.#at = value;
      this.#edges = this.#neighboursOf(value);
      edge = this.#edges.next();
    }
    if (edge.value === this.#end && this.#at !== this.#start) this.hasArrived = true;
    if (this.#isWanted(edge.value)) {
      this.found.add(edge.value);
      this.latest = edge.value;
    }
    return true;
  }
}
