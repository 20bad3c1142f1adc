/** Which nodes share a kernel: pointwise chains with each other, after a core (epilogue) and before one (prologue). */
import type { Node } from "../ir/graph.ts";
import { reshapeView, type Shape, sameShape, sizeOf } from "../ops/shape.ts";
import { type Cluster, domainOf, kindOf, operandDomain, siblingKey } from "./cluster.ts";
import { ClusterGraph } from "./cluster-graph.ts";
import {
  inlined,
  isCopy,
  isInput,
  isRandom,
  memoryOf,
  type Reader,
  readersOf,
  reordersOperand,
  sourceOf,
} from "./inline.ts";
import type { KernelKind, Request } from "./program.ts";

/** Nodes that one kernel computes. `domain` is what its pointwise part runs over: for a core with an epilogue, the core's result. */
export interface Group {
  readonly kind: KernelKind;
  readonly cores: readonly Node[];
  readonly prologue: ReadonlySet<Node>;
  readonly epilogue: ReadonlySet<Node>;
}

/** The partition of a graph into kernels. */
export interface Partition {
  readonly groups: readonly Group[];
  readonly inline: ReadonlySet<Node>;
}

/** Values that one kernel may load and compute, and reductions that may share a pass: an engine's registers are few. */
const MAX_VALUES = 128;
const MAX_REDUCTIONS = 16;

/** Kernels whose result passes through an expression before it is stored. */
const HAS_EPILOGUE: ReadonlySet<KernelKind> = new Set([
  "pointwise",
  "reduce",
  "row",
  "contraction",
  "convolution",
  "channelMap",
]);
/** Kernels whose operands pass through expressions after they are loaded. */
const HAS_PROLOGUE: ReadonlySet<KernelKind> = new Set(["reduce", "magnitudes", "row"]);

/** Partitions what `request` needs (`nodes`, oldest first) into kernels. */
export function partition(nodes: readonly Node[], request: Request, fuse: boolean): Partition {
  const required = requiredNodes(request);
  const inline = inlined(nodes, required, fuse);
  const computed = nodes.filter((n) => !inline.has(n) && (n.op.kind === "movement" ? isCopy(n) : !isInput(n)));
  const fusion = new Fusion(inline, computed);
  if (fuse) fusion.run(computed, readersOf(nodes), required);
  return { groups: fusion.groups(), inline };
}

function requiredNodes(request: Request): ReadonlySet<Node> {
  return new Set([...request.outputs, ...request.assignments.values()].map((n) => memoryOf(sourceOf(n).base)));
}

class Fusion {
  readonly #inline: ReadonlySet<Node>;
  readonly #graph: ClusterGraph;

  constructor(inline: ReadonlySet<Node>, computed: readonly Node[]) {
    this.#inline = inline;
    this.#graph = new ClusterGraph(computed, inline);
  }

  groups(): readonly Group[] {
    return [...this.#graph.clusters];
  }

  /**
   * Siblings, chains into cores, results through expressions; at last reductions that only now read one memory. Those that do
   * from the start are joined first: later, one of them may compute, or wait for, what the other one reads.
   */
  run(computed: readonly Node[], readers: ReadonlyMap<Node, readonly Reader[]>, required: ReadonlySet<Node>): void {
    this.joinSiblings(() => true);
    for (const node of computed) if (HAS_PROLOGUE.has(kindOf(node))) this.#pull(node, readers, required);
    for (const node of computed) this.absorb(node, (producer, consumer) => this.#appended(producer, consumer));
    for (const node of computed) this.absorb(node, (producer, consumer) => this.#prepended(producer, consumer));
    this.joinSiblings((cluster) => cluster.kind === "reduce");
    this.#joinReadersOfBarriers();
  }

  /**
   * What backward computes anew from a value joins the kernel that reads that value for its gradient: the operand is loaded
   * once, and expressions that both contain (the error function of GELU) are evaluated once.
   */
  #joinReadersOfBarriers(): void {
    const clusters = [...this.#graph.clusters];
    const age = new Map(clusters.map((cluster, i) => [cluster, i]));
    const readers = new Map<Node, Set<Cluster>>();
    const note = (cluster: Cluster): void => {
      for (const barrier of barriersOf(cluster.epilogue))
        readers.set(barrier, (readers.get(barrier) ?? new Set()).add(cluster));
    };
    for (const cluster of clusters) note(cluster);
    for (const cluster of clusters) {
      if (cluster.kind !== "pointwise") continue;
      const others = [...barriersOf(cluster.epilogue)].flatMap((barrier) => [...(readers.get(barrier) ?? [])]);
      const other = [...new Set(others)]
        .sort((a, b) => (age.get(a) ?? 0) - (age.get(b) ?? 0))
        .find((candidate) => this.#takesReader(candidate, cluster));
      if (other === undefined) continue;
      this.#append(other, cluster);
      note(other);
    }
  }

  /** `cluster` may join the epilogue of `other`. */
  #takesReader(other: Cluster, cluster: Cluster): boolean {
    if (other === cluster || !this.#graph.clusters.has(other)) return false;
    if (!HAS_EPILOGUE.has(other.kind) || !this.#isSmall(other, cluster)) return false;
    const [core] = other.cores;
    if (other.kind === "row" && core !== undefined && sizeOf(core.shape) !== sizeOf(operandDomain(core))) return false;
    if (!this.#fits(domainOf(other), cluster.epilogue)) return false;
    return !this.#graph.reaches(other, cluster) && !this.#graph.reaches(cluster, other);
  }

  /** Draws into a core's prologue the expressions that nobody else reads: they cost no memory there. */
  #pull(node: Node, readers: ReadonlyMap<Node, readonly Reader[]>, required: ReadonlySet<Node>): void {
    for (const { base, linear } of [...this.#graph.operands(node)]) {
      const [producer, consumer] = [this.#graph.clusterOf(base), this.#graph.clusterOf(node)];
      if (!linear || producer === undefined || consumer === undefined || producer === consumer || required.has(base))
        continue;
      if (
        !this.#readOnlyBy(base, consumer, readers) ||
        !this.#canPrepend(producer, consumer) ||
        this.#graph.cycles(producer, consumer)
      )
        continue;
      this.#prepend(producer, consumer);
      this.#pull(base, readers, required);
    }
  }

  /** Every kernel that reads `base`, inlined expressions looked through, is `cluster`. */
  #readOnlyBy(base: Node, cluster: Cluster, readers: ReadonlyMap<Node, readonly Reader[]>): boolean {
    return (readers.get(base) ?? []).every(({ node }) =>
      this.#inline.has(node) ? this.#readOnlyBy(node, cluster, readers) : this.#graph.clusterOf(node) === cluster,
    );
  }

  /** Merges `node`'s cluster with those of its operands, latest first, wherever that is legal. */
  absorb(node: Node, merge: (producer: Cluster, consumer: Cluster) => void): void {
    const operands = [...this.#graph.operands(node)].filter((s) => s.linear).sort((a, b) => b.base.id - a.base.id);
    for (const { base } of operands) {
      const [producer, consumer] = [this.#graph.clusterOf(base), this.#graph.clusterOf(node)];
      if (producer !== undefined && consumer !== undefined && producer !== consumer) merge(producer, consumer);
    }
  }

  #appended(producer: Cluster, consumer: Cluster): void {
    if (this.#canAppend(producer, consumer) && !this.#graph.cycles(producer, consumer))
      this.#append(producer, consumer);
  }

  #prepended(producer: Cluster, consumer: Cluster): void {
    if (this.#canPrepend(producer, consumer) && !this.#graph.cycles(producer, consumer))
      this.#prepend(producer, consumer);
  }

  /** The consumer is pointwise, over the producer's result. */
  #canAppend(producer: Cluster, consumer: Cluster): boolean {
    if (consumer.kind !== "pointwise" || !HAS_EPILOGUE.has(producer.kind) || !this.#isSmall(producer, consumer))
      return false;
    const [core] = producer.cores;
    // A row kernel's epilogue runs over whole rows; a core that yields one value per row has none.
    if (producer.kind === "row" && core !== undefined && sizeOf(core.shape) !== sizeOf(operandDomain(core)))
      return false;
    return this.#fits(domainOf(producer), consumer.epilogue);
  }

  /** The producer is pointwise, over the consumer core's operand, and only the core reads it there. */
  #canPrepend(producer: Cluster, consumer: Cluster): boolean {
    if (producer.kind !== "pointwise" || !HAS_PROLOGUE.has(consumer.kind) || !this.#isSmall(producer, consumer))
      return false;
    for (const node of consumer.epilogue)
      for (const { base } of this.#graph.operands(node)) if (producer.epilogue.has(base)) return false;
    const [core] = consumer.cores;
    if (core === undefined || (reordersOperand(core) && [...producer.epilogue].some((node) => this.#drawsRandom(node))))
      return false;
    return this.#fits(operandDomain(core), producer.epilogue);
  }

  /** One kernel can hold what both load, compute anew and compute. */
  #isSmall(one: Cluster, other: Cluster): boolean {
    const values = new Set<Node>();
    const visit = (node: Node): void => {
      for (const input of node.inputs) {
        const { base } = sourceOf(input);
        const value = this.#inline.has(base) ? base : input;
        if (values.has(value)) continue;
        values.add(value);
        if (value === base && this.#inline.has(base)) visit(base);
      }
    };
    for (const cluster of [one, other]) {
      for (const node of cluster.members()) {
        values.add(node);
        visit(node);
        if (values.size > MAX_VALUES) return false;
      }
    }
    return true;
  }

  /** The node is random numbers or computes them anew: its elements depend on their positions in the kernel. */
  #drawsRandom(node: Node): boolean {
    return isRandom(node) || node.inputs.some((input) => this.#inline.has(input) && this.#drawsRandom(input));
  }

  /** Every operand of `nodes` can be walked in `domain`'s order. */
  #fits(domain: Shape, nodes: Iterable<Node>): boolean {
    for (const node of nodes) {
      if (sizeOf(node.shape) !== sizeOf(domain)) return false;
      if (sameShape(node.shape, domain)) continue;
      if (!this.#walkable(node, domain)) return false;
    }
    return true;
  }

  #walkable(node: Node, domain: Shape): boolean {
    return node.inputs.every((input) => {
      const { base, view } = sourceOf(input);
      if (this.#inline.has(base))
        return base.op.kind === "source" ? base.op.source !== "iota" : this.#walkable(base, domain);
      return reshapeView(view, domain) !== null;
    });
  }

  #append(producer: Cluster, consumer: Cluster): void {
    this.#graph.merge(producer, consumer);
    for (const node of consumer.epilogue) producer.epilogue.add(node);
  }

  #prepend(producer: Cluster, consumer: Cluster): void {
    this.#graph.merge(consumer, producer);
    for (const node of producer.epilogue) consumer.prologue.add(node);
  }

  /** Cores that one kernel yields together: results of one native core, and reductions of one operand over the same axes. */
  joinSiblings(accepts: (cluster: Cluster) => boolean): void {
    const byKey = new Map<string, Cluster[]>();
    for (const cluster of [...this.#graph.clusters]) {
      const key = accepts(cluster) ? siblingKey(cluster) : null;
      if (key === null) continue;
      const others = byKey.get(key) ?? [];
      byKey.set(key, others);
      const sibling = others.findLast((other) => this.#areSiblings(other, cluster));
      if (sibling === undefined) others.push(cluster);
      else this.#join(sibling, cluster);
    }
  }

  /** Of one key, few enough for one kernel, and neither needs the other's results. */
  #areSiblings(one: Cluster, other: Cluster): boolean {
    const isFull =
      other.kind === "reduce" && (one.cores.length + other.cores.length > MAX_REDUCTIONS || !this.#isSmall(one, other));
    return !isFull && !this.#graph.reaches(one, other) && !this.#graph.reaches(other, one);
  }

  #join(first: Cluster, second: Cluster): void {
    this.#graph.merge(first, second);
    first.cores.push(...second.cores);
    for (const node of second.prologue) first.prologue.add(node);
    for (const node of second.epilogue) first.epilogue.add(node);
  }
}

/** Barriers that nodes read element for element. */
function barriersOf(nodes: Iterable<Node>): ReadonlySet<Node> {
  const found = new Set<Node>();
  for (const node of nodes) {
    for (const input of node.inputs) {
      const { base, linear } = sourceOf(input);
      if (linear && base !== memoryOf(base)) found.add(base);
    }
  }
  return found;
}
