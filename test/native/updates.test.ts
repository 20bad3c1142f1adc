/** New values of variables in the memory of the old ones: the bits of the same values as outputs, whatever kernel writes them. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { backendOf, expectSame, ISAS, type Leaves, leaf, random } from "../support/differential.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";
import { run } from "../support/run.ts";

const ISA = ISAS[0] ?? "portable";

/** Runs on the addon with assignments, and with their values as outputs instead; returns the kinds of kernels that wrote variables. */
async function check(
  outputs: readonly Node[],
  assignments: ReadonlyMap<Node, Node>,
  leaves: ReadonlyMap<Node, Float64Array>,
): Promise<readonly string[]> {
  const { program, ...got } = await run({ outputs, assignments }, leaves, backendOf(ISA));
  const values = [...outputs, ...assignments.values()];
  const want = await run({ outputs: values, assignments: new Map() }, leaves, backendOf(ISA));
  [...got.outputs, ...got.variables.values()].forEach((value, i) => {
    expectSame(value, want.outputs[i], `value ${i}`);
  });
  return program.kernels.flatMap(({ kind, writes }) =>
    writes.flatMap(({ operand: { buffer } }) =>
      buffer.storage.kind === "binding" && program.bindings[buffer.storage.index]?.role === "input" ? [kind] : [],
    ),
  );
}

describe.skipIf(ISAS.length === 0)("variables", () => {
  it("keep their old value for the epilogue of a sum whose prologue computes the new one", async () => {
    const leaves: Leaves = new Map();
    const [u, x] = [leaf(leaves, [3, 1], "float32", [1, 2, 3]), leaf(leaves, [3, 1], "float32", [10, 20, 30])];
    const value = b.mul(x, 2);
    await check([b.add(b.reshape(u, [3]), b.sum(value, [1]))], new Map([[u, value]]), leaves);
  });

  it.each([
    [[7], [0]],
    [[40_000], [0]],
    [[300, 130], [1]],
    [[300, 130], [0]],
    [
      [5, 700, 9],
      [0, 2],
    ],
  ])("of %j are overwritten by the prologue of a sum over %j that reads them", async (shape, axes) => {
    const leaves: Leaves = new Map();
    const [u, v, g] = [1, 2, 3].map((seed) => random(leaves, shape, "float32", seed)) as [Node, Node, Node];
    const first = b.add(b.mul(u, 0.9), g);
    const second = b.sub(v, b.mul(first, 0.1));
    const changed = b.sum(b.cast(b.notEqual(narrow(second), narrow(v)), "float32"), axes);
    const assignments = new Map([
      [u, first],
      [v, second],
    ]);
    expect(await check([changed, b.sum(v, axes)], assignments, leaves)).toEqual(["reduce", "reduce"]);
  });

  it("updated from products, sums and each other in any order", { timeout: 120_000 }, async () => {
    const kinds = new Set<string>();
    const steps = fc.array(fc.tuple(fc.nat(7), fc.nat(99), fc.nat(99)), { minLength: 4, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(3, 20, 67),
        steps,
        fc.tuple(fc.nat(99), fc.nat(99), fc.nat(99)),
        async (...drawn) => {
          const [size, instructions, chosen] = drawn;
          const leaves: Leaves = new Map();
          const nodes = [1, 2, 3, 4, 5].map((seed) => random(leaves, [size, size], "float32", seed));
          const variables = nodes.slice(0, 3);
          for (const [rule, i, j] of instructions)
            nodes.push(RULES[rule]?.(at(nodes, i), at(nodes, j), at(variables, i + j), size) ?? at(nodes, i));
          const made = nodes.slice(5);
          const assignments = new Map(variables.map((v, i) => [v, at(made, chosen[i] ?? 0)]));
          const written = await check([at(made, -1), at(nodes, chosen[0]), at(variables, 0)], assignments, leaves);
          for (const kind of written) kinds.add(kind);
        },
      ),
      { numRuns: 120, seed: 23 },
    );
    expect([...kinds].sort()).toEqual(["contraction", "pointwise", "reduce"]);
  });
});

describe.skipIf(ISAS.length === 0)("random programs", () => {
  it("give the same bits whether they update variables or return the values", async () => {
    await fc.assert(
      fc.asyncProperty(recipes, async (recipe) => {
        const { request, leaves } = buildRequest(recipe);
        await check(request.outputs, request.assignments, leaves);
      }),
      { numRuns: 300, seed: 24 },
    );
  });
});

describe.skipIf(ISAS.length === 0)("lookups", () => {
  it("that a barrier awaits and nobody reads run, and find indices out of range", async () => {
    const leaves: Leaves = new Map();
    const [x, table] = [random(leaves, [2, 3], "float32", 1), random(leaves, [4, 3], "float32", 2)];
    for (const [row, position] of [
      [3, undefined],
      [4, 1],
    ] as const) {
      const awaited = b.gather(table, leaf(leaves, [2], "int32", [0, row]));
      const request = { outputs: [b.exp(b.barrier(x, awaited))], assignments: new Map() };
      const { outputs, fault } = await run(request, leaves, backendOf(ISA));
      expect(fault?.position).toBe(position);
      expect(outputs[0]).toHaveLength(6);
    }
  });
});

const at = (nodes: readonly Node[], i: number): Node =>
  nodes.at(i < 0 ? i : i % nodes.length) ?? createInput([], "float32");

const narrow = (x: Node): Node => b.cast(x, "bfloat16");

/** From two nodes and an old value, all (size, size). */
const RULES: readonly ((x: Node, y: Node, old: Node, size: number) => Node)[] = [
  (x, y) => b.matmul(x, y),
  (x, y, old) => b.sub(old, b.mul(b.matmul(b.transpose(x), y), 0.1)),
  (x, y, old) => b.sub(b.matmul(x, b.transpose(y)), b.mul(old, 0.5)),
  (x, y) => b.add(b.mul(x, 0.5), y),
  (x, y, old, size) => b.sub(old, b.sum(b.reshape(b.mul(x, y), [size, size, 1]), [2])),
  (x) => b.transpose(x),
  (x, y) => b.cast(b.matmul(narrow(x), narrow(y)), "float32"),
  (x, y, old) => b.sub(b.mul(b.sub(old, b.matmul(x, y)), 0.1), x),
];
