/** Which clusters lead to which, after any merges, against a search of the whole graph. */
import fc from "fast-check";
import { expect, it } from "vitest";
import type { Cluster } from "../../src/compile/cluster.ts";
import { ClusterGraph } from "../../src/compile/cluster-graph.ts";
import { isCopy, isInput } from "../../src/compile/inline.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { topological } from "../../src/ir/walk.ts";
import { OPS } from "../../src/ops/index.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";

/** What a cluster reads of others. */
function producersOf(graph: ClusterGraph, cluster: Cluster): readonly Cluster[] {
  const read = [...cluster.members()].flatMap((node) => graph.operands(node));
  const found = new Set(read.map(({ base }) => graph.clusterOf(base)));
  return [...found].filter((other): other is Cluster => other !== undefined && other !== cluster);
}

/** Every cluster that `cluster` needs, other than through `without`. */
function neededBy(graph: ClusterGraph, cluster: Cluster, without?: Cluster): ReadonlySet<Cluster> {
  const found = new Set(producersOf(graph, cluster).filter((other) => other !== without));
  for (const other of found) for (const producer of producersOf(graph, other)) found.add(producer);
  return found;
}

function compareWithSearch(graph: ClusterGraph): void {
  for (const to of graph.clusters) {
    const needed = neededBy(graph, to);
    expect(needed.has(to)).toBe(false);
    for (const from of graph.clusters) {
      if (from === to) continue;
      expect(graph.reaches(from, to)).toBe(needed.has(from));
      if (needed.has(from)) expect(from.position).toBeLessThan(to.position);
      const isViewed = [...to.members()].some((node) =>
        graph.operands(node).some(({ base, linear }) => !linear && graph.clusterOf(base) === from),
      );
      expect(graph.cycles(from, to)).toBe(isViewed || neededBy(graph, to, from).has(from));
    }
  }
}

it.each([
  ["the end", 8, 0],
  ["the beginning", 0, 8],
])("a path is found where %s has many more edges, and the last of them is on it", (_, operands, readers) => {
  const leaf = (): Node => createInput([2], "float32");
  const start = b.node(OPS.tanh, [leaf()]);
  const others = Array.from({ length: operands }, () => b.node(OPS.exp, [leaf()]));
  const besides = Array.from({ length: readers }, () => b.add(leaf(), start));
  const path = b.node(OPS.sin, [start]);
  const end = b.concatenate([...others, path, start], 0);
  const nodes = topological([end, ...besides]).filter((n) => !isInput(n));
  const graph = new ClusterGraph(nodes, new Set());
  const at = (node: Node): Cluster => graph.clusterOf(node) as Cluster;
  expect(graph.cycles(at(start), at(end))).toBe(true);
  expect(graph.cycles(at(path), at(end))).toBe(false);
  compareWithSearch(graph);
});

it("paths are those of the graph, and positions a topological order, after every merge", () => {
  fc.assert(
    fc.property(recipes, fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 12 }), (recipe, pairs) => {
      const { outputs, assignments } = buildRequest(recipe).request;
      const nodes = topological([...outputs, ...assignments.values()]);
      const computed = nodes.filter((n) => (n.op.kind === "movement" ? isCopy(n) : !isInput(n)));
      const graph = new ClusterGraph(computed, new Set());
      for (const [first, second] of pairs) {
        const clusters = [...graph.clusters];
        const [a, b] = [clusters[first % clusters.length], clusters[second % clusters.length]];
        if (a === undefined || b === undefined || a === b) continue;
        if (neededBy(graph, a, b).has(b) || neededBy(graph, b, a).has(a)) continue;
        graph.merge(a, b);
        for (const node of b.members()) a.epilogue.add(node);
        compareWithSearch(graph);
      }
    }),
    { numRuns: 60 },
  );
});
