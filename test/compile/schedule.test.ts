/** Order of kernels and the place of variables: producers before readers, old values before their writer, commits last. */
import { describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import type { Program } from "../../src/compile/program.ts";
import type { DType } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { evaluateGraph } from "../support/evaluate.ts";
import { uniforms } from "../support/random.ts";
import { run } from "../support/run.ts";

const leaf = (shape: readonly number[], dtype: DType = "float32"): Node => createInput(shape, dtype);
const MODES = [{ fuse: false }, { fuse: true }, { fuse: true, cores: new NullBackend().capabilities.cores }];

const writesTo = ({ bindings }: Program, storage: { kind: string; index?: number }): Node | undefined =>
  storage.kind === "binding" ? bindings[storage.index ?? -1]?.node : undefined;

/** Runs and compares with the graph as written; returns the fused program. */
async function check(
  outputs: readonly Node[],
  assignments: ReadonlyMap<Node, Node>,
  leaves: readonly Node[],
): Promise<Program> {
  const at = new Map(
    leaves.map(
      (n, i) =>
        [
          n,
          uniforms(
            40 + i,
            n.shape.reduce((p, q) => p * q, 1),
          ).map(Math.fround),
        ] as const,
    ),
  );
  const expected = evaluateGraph([...outputs, ...assignments.values()], at);
  let program: Program | undefined;
  for (const mode of MODES) {
    const outcome = await run({ outputs, assignments }, at, mode);
    expect([...outcome.outputs, ...outcome.variables.values()]).toEqual(expected);
    if (mode.fuse) program = outcome.program;
  }
  if (program === undefined) throw new Error("no program");
  return program;
}

describe("assignments", () => {
  const [u, v] = [leaf([3, 3]), leaf([3, 3])];

  it("are made in place where the old value is read element for element", async () => {
    const program = await check([], new Map([[u, b.sub(u, b.mul(v, 0.1))]]), [u, v]);
    expect(program.kernels).toHaveLength(1);
    expect([program.commitFrom, program.arenaByteLength]).toEqual([0, 0]);
    expect(program.kernels[0]?.writes.map((w) => writesTo(program, w.operand.buffer.storage))).toEqual([u]);
  });

  it.each([
    ["a product", (x: Node, g: Node) => b.matmul(b.transpose(x), g)],
    ["a sum", (x: Node, g: Node) => b.sum(b.mul(b.reshape(x, [3, 1, 3]), b.reshape(g, [1, 3, 3])), [2])],
  ])("are made in place by %s in whose epilogue the old value is read element for element", async (_, gradient) => {
    const [x, g] = [leaf([3, 3]), leaf([3, 3])];
    const value = b.sub(u, b.mul(gradient(x, g), 0.1));
    const program = await check([b.mul(x, u)], new Map([[u, value]]), [u, x, g]);
    expect(program.arenaByteLength).toBe(0);
    expect(program.kernels.at(-1)?.writes.map((w) => writesTo(program, w.operand.buffer.storage))).toEqual([u]);
  });

  it.each([
    ["a sum", (value: Node) => b.sum(b.square(b.sub(value, u)), [0])],
    ["counts", (value: Node) => b.magnitudeCounts(value)],
  ])("are made in place by the prologue of %s that reads both element for element", async (_, meter) => {
    const value = b.sub(u, b.mul(v, 0.1));
    const program = await check([meter(value)], new Map([[u, value]]), [u, v]);
    expect(program.kernels).toHaveLength(1);
    expect(program.arenaByteLength).toBe(0);
  });

  it.each([
    ["a sum", (value: Node) => b.sum(b.cast(b.notEqual(value, u), "float32"), [0])],
    ["counts", (value: Node) => b.magnitudeCounts(value)],
  ])("are made in place by the prologue of %s that was asked for before the outcome decided", async (_, meter) => {
    const [applied, value] = [leaf([]), b.sub(u, b.mul(v, 0.1))];
    const counted = meter(value);
    const decided = b.where(b.greater(applied, 0.5), value, u);
    const program = await check([counted], new Map([[u, decided]]), [u, v, applied]);
    expect(program.kernels.filter((k) => k.domain.length > 0 && k.nodes.includes(decided))).toHaveLength(1);
    expect(program.kernels.flatMap((k) => k.writes.filter((w) => w.node === value))).toEqual([]);
    expect(program.arenaByteLength).toBe(64); // the outcome alone, aligned
  });

  it("by a product do not keep what it reads alive until the end", async () => {
    const [x, g] = [leaf([64, 64]), leaf([64, 64])];
    const weights = Array.from({ length: 6 }, () => leaf([64, 64]));
    let cotangent = g;
    const updates = weights.map((w) => {
      const gradient = b.matmul(b.transpose(x), cotangent);
      cotangent = b.exp(b.matmul(cotangent, w));
      return [w, b.sub(w, b.mul(gradient, 0.1))] as const;
    });
    const program = compileProgram({ outputs: [], assignments: new Map(updates) }, new NullBackend().capabilities);
    expect(program.arenaByteLength).toBeLessThanOrEqual(3 * 4 * 64 * 64);
  });

  it.each([
    ["transposed", () => b.neg(b.transpose(u))],
    ["through a shared expression of its transpose", () => b.add(b.neg(b.transpose(u)), u)],
    [
      "reversed by a slice and concatenation",
      () => b.concatenate([b.slice(u, [1, 0], [2, 3]), b.slice(u, [0, 0], [1, 3])], 0),
    ],
    ["by a product", () => b.matmul(u, u)],
    ["by a product and in its epilogue", () => b.sub(u, b.matmul(b.exp(v), u))],
    ["transposed, in the epilogue of a product", () => b.sub(b.transpose(u), b.matmul(v, v))],
    [
      "by a sum and in its epilogue",
      () => b.sub(u, b.sum(b.mul(b.reshape(u, [3, 1, 3]), b.reshape(v, [1, 3, 3])), [2])),
    ],
    ["summed", () => b.add(u, b.broadcastTo(b.sum(u, [0, 1]), [3, 3]))],
  ])("are copied at the end where the old value is read otherwise: %s", async (_, value) => {
    const program = await check([], new Map([[u, value()]]), [u, v]);
    for (const kernel of program.kernels) {
      const written = kernel.writes.map((w) => writesTo(program, w.operand.buffer.storage));
      if (!written.includes(u)) continue;
      expect(kernel.kind).toBe("pointwise");
      for (const [node, { view }] of kernel.reads)
        if (writesTo(program, kernel.reads.get(node)?.buffer.storage ?? { kind: "" }) === u)
          expect(view.strides).toEqual([3, 1]);
    }
  });

  it("swap two variables", async () => {
    const program = await check(
      [u],
      new Map([
        [u, v],
        [v, u],
      ]),
      [u, v],
    );
    expect(program.kernels.length).toBe(5);
  });

  it("rotate three, one of them transposed, and return old and new values", async () => {
    const w = leaf([3, 3]);
    await check(
      [u, v, b.add(u, w), b.transpose(w)],
      new Map([
        [u, v],
        [v, b.transpose(w)],
        [w, b.exp(u)],
      ]),
      [u, v, w],
    );
  });

  it("give two variables one value", async () => {
    const value = b.exp(u);
    await check(
      [value],
      new Map([
        [u, value],
        [v, value],
      ]),
      [u, v],
    );
  });

  it("let every reader of the old value run first, also across kernels that form a circle", async () => {
    const [nu, nv] = [b.add(u, b.sum(v, [0])), b.add(v, b.sum(u, [1]))];
    await check(
      [b.sum(b.mul(u, v), [0, 1])],
      new Map([
        [u, nu],
        [v, nv],
      ]),
      [u, v],
    );
    await check(
      [],
      new Map([
        [u, b.matmul(v, u)],
        [v, b.matmul(u, v)],
      ]),
      [u, v],
    );
  });

  it("assign a constant, and a variable to itself", async () => {
    await check(
      [],
      new Map([
        [u, b.constant(2, [3, 3])],
        [v, v],
      ]),
      [u, v],
    );
  });
});

describe("faults", () => {
  const [table, indices, count] = [leaf([3, 2]), leaf([2], "int32"), leaf([])];
  const at = (rows: readonly number[]): Map<Node, Float64Array> =>
    new Map([
      [table, Float64Array.of(1, 2, 3, 4, 5, 6)],
      [indices, Float64Array.from(rows)],
      [count, Float64Array.of(7)],
    ]);
  const values = (): Map<Node, Node> => {
    const picked = b.gather(table, indices);
    return new Map([
      [count, b.add(count, 1)],
      [table, b.add(table, b.broadcastTo(b.sum(picked, [0, 1]), [3, 2]))],
    ]);
  };

  it.each([
    [[0, 3], 1, 3],
    [[-1, 9], 0, -1],
  ])("of indices %j are reported and leave every variable as it was", async (rows, position, value) => {
    for (const mode of MODES) {
      const { fault, variables, program } = await run({ outputs: [], assignments: values() }, at(rows), mode);
      expect(fault).toMatchObject({ position, value });
      expect(program.kernels[fault?.kernel ?? -1]?.cores[0]?.op.name).toBe("gather");
      expect([...variables.values()].map((x) => [...x])).toEqual([[7], [1, 2, 3, 4, 5, 6]]);
    }
  });

  it("of labels, too, unless the row is ignored", async () => {
    const [logits, labels, seen] = [leaf([2, 3]), leaf([2], "int32"), leaf([])];
    const loss = b.sum(b.composite("crossEntropyRows", [logits, labels], { ignore: -100 }), [0]);
    for (const mode of MODES) {
      const outcome = (second: number) =>
        run(
          { outputs: [loss], assignments: new Map([[seen, b.add(seen, 1)]]) },
          new Map([
            [logits, uniforms(1, 6).map(Math.fround)],
            [labels, Float64Array.of(1, second)],
            [seen, Float64Array.of(0)],
          ]),
          mode,
        );
      const bad = await outcome(3);
      expect([bad.fault?.position, bad.fault?.value, ...(bad.variables.get(seen) ?? [])]).toEqual([1, 3, 0]);
      const good = await outcome(-100);
      expect([good.fault, ...(good.variables.get(seen) ?? [])]).toEqual([null, 1]);
    }
  });
});

describe("kernels", () => {
  it("write an output straight into its binding, and copy a second use of it", async () => {
    const x = leaf([4]);
    const program = await check([b.exp(x), b.exp(x), x, b.reshape(b.exp(x), [2, 2])], new Map(), [x]);
    expect(program.kernels).toHaveLength(4);
    expect(program.arenaByteLength).toBe(0);
  });

  it("do not carry a value through registers into another order of elements", async () => {
    const x = leaf([3, 3]);
    const y = b.exp(x);
    const program = await check([b.cos(b.transpose(y))], new Map(), [x]);
    expect(program.kernels).toHaveLength(2);
  });

  it("read a value in registers or in memory, never both: a sum of all and of one row of it", async () => {
    const x = leaf([3, 3]);
    const y = b.neg(x);
    for (const view of [b.slice(y, [1, 0], [1, 3]), b.transpose(y), b.slice(y, [0, 0], [1, 1])]) {
      const program = await check([b.exp(b.add(y, b.broadcastTo(view, [3, 3])))], new Map(), [x]);
      expect(
        program.kernels.map((k) => k.nodes.filter((n) => n.op.kind === "pointwise").map((n) => n.op.name)),
      ).toEqual([["neg"], ["add", "exp"]]);
    }
  });

  it("reduce in one pass only what has one shape", async () => {
    const x = leaf([2, 6]);
    const nodes = [b.sum(x, [0]), b.sum(b.reshape(x, [6, 2]), [0]), b.max(x, [0])];
    const { kernels } = await check(nodes, new Map(), [x]);
    for (const { cores } of kernels)
      expect(new Set(cores.map((c) => c.inputs[0]?.shape.join())).size).toBeLessThanOrEqual(1);
  });

  it("of an empty request are none", () => {
    expect(compileProgram({ outputs: [], assignments: new Map() }, new NullBackend().capabilities)).toMatchObject({
      kernels: [],
      arenaByteLength: 0,
      bindings: [],
      outputs: [],
    });
  });

  it("compile a chain of three thousand nodes", async () => {
    const x = leaf([2]);
    let node = x;
    for (let i = 0; i < 3000; i++) node = b.cos(node);
    const { kernels } = await check([node], new Map(), [x]);
    // A kernel holds up to 128 values.
    expect(kernels.length).toBeLessThan(30);
  });
});

describe("the order of kernels", () => {
  const sizes = [256, 256] as const;

  it("does not hold a product back for what was written into its epilogue later", () => {
    // Products of a long chain, each read by a sum that is scaled at the very end, as gradients are unscaled.
    const [x, scale] = [leaf(sizes), leaf([])];
    const sums: Node[] = [];
    let node = x;
    for (let i = 0; i < 6; i++) {
      node = b.exp(b.matmul(node, x));
      sums.push(b.matmul(b.reshape(b.sum(node, [0]), [1, 256]), node));
    }
    const inverse = b.div(b.constant(1, []), scale);
    const outputs = sums.map((sum) => b.mul(sum, b.broadcastTo(inverse, [1, 256])));
    const { arenaByteLength } = compileProgram({ outputs, assignments: new Map() }, new NullBackend().capabilities);
    expect(arenaByteLength).toBeLessThan(2.5 * 4 * 256 * 256);
  });
});
