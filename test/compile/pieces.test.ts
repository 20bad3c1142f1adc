/** Operands of a concatenation written straight into it: where nobody else reads them, with the bits that a copy would have had. */
import { describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { extent, sameView } from "../../src/ops/shape.ts";
import { backendOf, both, expectSame, ISAS, type Leaves, random } from "../support/differential.ts";
import { run } from "../support/run.ts";

const leafOf = (...shape: number[]): Node => createInput(shape, "float32");

/** Operands of placements that lie in their place before the placement's kernel runs. */
function placed(output: Node, kept: readonly Node[] = []): number {
  const request = { outputs: [output, ...kept], assignments: new Map() };
  const { kernels } = compileProgram(request, new NullBackend().capabilities);
  return kernels
    .filter(({ kind }) => kind === "placement")
    .flatMap(({ cores: [core], reads, writes: [to] }) =>
      (core?.inputs ?? []).filter((input) => {
        const from = reads.get(input);
        if (from === undefined || to === undefined) return false;
        const [p, q] = [from.buffer.storage, to.operand.buffer.storage];
        const isSame = p.kind === "arena" && q.kind === "arena" && p.byteOffset === q.byteOffset;
        return isSame && !sameView(from.view, to.operand.view);
      }),
    ).length;
}

describe("operands of a concatenation", () => {
  const w = leafOf(8, 12);
  const [p, q] = [leafOf(6, 8), leafOf(6, 8)].map((x) => b.matmul(x, w)) as [Node, Node];
  const ends = (x: Node): Node => b.cos(x);

  it("are written into it along any axis, through views of the same elements", () => {
    expect(placed(ends(b.concatenate([p, q], 0)))).toBe(2);
    expect(placed(ends(b.concatenate([p, q], 1)))).toBe(2);
    expect(placed(ends(b.concatenate([b.reshape(p, [6, 3, 4]), b.reshape(q, [6, 3, 4])], 1)))).toBe(2);
  });

  it("are copied where someone else reads them, too", () => {
    expect(placed(ends(b.concatenate([p, q], 1)), [p])).toBe(1);
    expect(placed(ends(b.concatenate([p, q], 1)), [b.sum(p, [0])])).toBe(1);
    expect(placed(ends(b.concatenate([p, p], 1)))).toBe(0);
    expect(placed(ends(b.concatenate([b.reshape(p, [12, 6]), b.add(b.transpose(p), b.transpose(p))], 1)))).toBe(1);
    expect(placed(ends(b.concatenate([b.reshape(p, [12, 6]), b.transpose(q)], 1)))).toBe(1);
    expect(placed(ends(b.concatenate([leafOf(6, 12), q], 1)))).toBe(1);
  });

  it("are copied into an output, and between zeros", () => {
    expect(placed(b.concatenate([p, q], 1))).toBe(0);
    expect(placed(ends(b.pad(p, [1, 1], [8, 14])))).toBe(0);
  });
});

describe("a whole that its first piece allocates", () => {
  /** Two rows put together: the first is there while products of 128 rows need most memory, the second comes after them. */
  const distant = (length: number): Node => {
    const early = b.exp(b.sum(leafOf(64, length), [0]));
    const late = (node: Node): Node => b.sum(b.matmul(node, leafOf(128, length)), [0]);
    let node = b.add(leafOf(128, 128), b.reshape(b.sum(early, [0]), [1, 1]));
    for (let i = 0; i < 3; i++) node = b.matmul(b.exp(b.matmul(node, leafOf(128, 128))), node);
    return b.cos(b.concatenate([b.exp(early), late(node)], 0));
  };

  it("may enlarge a large arena by a few bytes, and by no more", () => {
    expect([16, 1024].map((length) => placed(distant(length)))).toEqual([2, 0]);
  });
});

/** One value of a shape that ends in 24, made by every kind of kernel that stores through views. */
function makers(leaves: Leaves, rows: number): readonly Node[] {
  const [x, w] = [random(leaves, [rows, 200], "float32", 1), random(leaves, [200, 24], "float32", 2)];
  const [y, cube] = [random(leaves, [rows, 24], "float32", 3), random(leaves, [rows, 5, 24], "float32", 4)];
  const heads = [5, 6, 7, 8].map((seed) => random(leaves, [1, rows, 3, 8], "float32", seed));
  const attributes = { scale: 0.25, causal: true };
  const [q, k, v] = heads as [Node, Node, Node, Node];
  const out = b.composite("attention", [q, k, v], attributes);
  const saved = [heads[3] as Node, q, k, v, out, b.composite("attentionLogSumExp", [q, k, v], attributes)];
  return [
    b.exp(y),
    b.matmul(x, w),
    b.add(b.matmul(x, w), y),
    b.sum(cube, [1]),
    b.composite("softmax", [y]),
    ...[
      b.composite("attention", [q, v, k], attributes),
      b.composite("attentionBackwardQ", saved, attributes),
      b.composite("attentionBackwardK", saved, attributes),
    ].map((n) => b.reshape(n, [rows, 24])),
  ];
}

describe.each(ISAS)("joined on %s", (isa) => {
  it.each([1, 7, 33, 130])("%d rows: the bits of results that are not joined", async (rows) => {
    for (const axis of [0, 1]) {
      const leaves: Leaves = new Map();
      const parts = makers(leaves, rows);
      const whole = b.concatenate(parts, axis);
      const [cpu, reference] = await both(isa, [b.neg(whole)], leaves);
      const request = { outputs: parts, assignments: new Map() };
      for (const [got, apart] of [
        [cpu, await run(request, leaves, backendOf(isa))],
        [reference, await run(request, leaves)],
      ] as const) {
        const width = extent(whole.shape, 1);
        const want = parts.flatMap((_, i) => [...(apart.outputs[i] ?? [])].map((value) => -value));
        const at = (i: number, e: number): number =>
          axis === 0 ? i * rows * 24 + e : Math.floor(e / 24) * width + i * 24 + (e % 24);
        const joined = want.map((_, n) => got.outputs[0]?.[at(Math.floor(n / (rows * 24)), n % (rows * 24))] ?? 0);
        expectSame(joined, want, `axis ${axis}`);
      }
    }
  });
});
