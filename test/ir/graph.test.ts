/** Nodes: equal structure is one object, nothing about them changes, and their text is stable. */
import { describe, expect, it } from "vitest";
import { gradients } from "../../src/autodiff/backward.ts";
import type { DType } from "../../src/formats/index.ts";
import { attributesKey, build as b, createInput, createNode, type Node, opId } from "../../src/ir/graph.ts";
import { print } from "../../src/ir/print.ts";
import { rewrite, topological } from "../../src/ir/walk.ts";
import { OPS } from "../../src/ops/index.ts";

const leaf = (shape: readonly number[], dtype: DType = "float32"): Node => createInput(shape, dtype);

describe("hash-consing", () => {
  it("gives one object for equal structure", () => {
    const [x, y] = [leaf([2, 3]), leaf([2, 3])];
    expect(b.add(x, y)).toBe(b.add(x, y));
    expect(b.sum(b.mul(x, 2), [1])).toBe(b.sum(b.mul(x, 2), [1]));
    expect(b.constant(1, [2])).toBe(b.constant(1, [2]));
    expect(gradients(b.sum(b.exp(x), [0, 1]), [x]).get(x)).toBe(gradients(b.sum(b.exp(x), [0, 1]), [x]).get(x));
  });

  it("keeps apart what differs in operands, their order, attributes or op", () => {
    const [x, y] = [leaf([2, 2]), leaf([2, 2])];
    const nodes = [
      b.add(x, y),
      b.add(y, x),
      b.sub(x, y),
      b.sum(x, [0]),
      b.sum(x, [1]),
      b.sum(x, [0], "float64"),
      b.max(x, [0]),
      b.constant(0, []),
      b.constant(-0, []),
      b.constant(0, [], "float16"),
      b.constant(Number.NaN, []),
    ];
    expect(new Set(nodes).size).toBe(nodes.length);
    expect(leaf([2])).not.toBe(leaf([2]));
    expect(opId({ ...OPS.exp })).not.toBe(opId(OPS.exp));
  });

  it("is not fooled by the order in which attributes were written", () => {
    expect(attributesKey({ a: 1, b: [1, -0] })).toBe(attributesKey({ b: [1, -0], a: 1 }));
    expect(attributesKey({ a: 0 })).not.toBe(attributesKey({ a: -0 }));
  });

  it("copies what a caller may change later", () => {
    const [shape, starts] = [
      [2, 3],
      [0, 0],
    ];
    const x = leaf(shape);
    const wide = b.broadcastTo(leaf([3]), shape);
    const part = b.slice(x, starts, [1, 1]);
    shape[0] = 99;
    starts[1] = 2;
    expect([x.shape, wide.shape, wide.attributes.shape, part.attributes.starts]).toEqual([
      [2, 3],
      [2, 3],
      [2, 3],
      [0, 0],
    ]);
    for (const value of [x, x.shape, x.inputs, x.attributes, wide.attributes.shape])
      expect(Object.isFrozen(value)).toBe(true);
  });

  it("numbers operands before their users", () => {
    for (const node of topological([b.exp(b.neg(leaf([3])))]))
      expect(node.inputs.every((n) => n.id < node.id)).toBe(true);
  });
});

describe("walks", () => {
  it("visit every needed node once, operands first", () => {
    const x = leaf([3]);
    const [p, q] = [b.exp(x), b.neg(x)];
    const root = b.add(b.mul(p, q), p);
    const order = topological([root, q]);
    expect(order).toEqual([x, p, q, b.mul(p, q), root]);
    expect(topological([root], (n) => n === p)).not.toContain(root.inputs[0]?.inputs[0]?.inputs[1]);
  });

  it("leave alone what only a known replacement needs", () => {
    const x = leaf([2]);
    const [p, q] = [b.exp(x), leaf([2])];
    const visited: string[] = [];
    const [root] = rewrite(
      [b.add(b.neg(p), b.neg(x))],
      (n) => {
        visited.push(n.op.name);
        return n;
      },
      (n) => (n === p ? q : undefined),
    );
    expect(root).toBe(b.add(b.neg(q), b.neg(x)));
    expect(visited).not.toContain("exp");
  });

  it("walk ten thousand nodes deep without recursion", () => {
    const x = leaf([]);
    let node = x;
    for (let i = 0; i < 10_000; i++) node = b.add(node, x);
    expect(topological([node])).toHaveLength(10_001);
    const [root] = rewrite([node], (n) => (n === x ? b.constant(0, [], "float32") : n));
    expect(topological([root ?? node])).toHaveLength(10_001);
    expect(gradients(node, [x]).get(x)?.shape).toEqual([]);
  });

  it("rewrite bottom-up until replacements stand, sharing what was shared", () => {
    const x = leaf([3]);
    const shared = b.exp(b.neg(b.neg(x)));
    const unneg = (n: Node): Node =>
      n.op === OPS.neg && n.inputs[0]?.op === OPS.neg
        ? (n.inputs[0].inputs[0] ?? n)
        : n.op === OPS.exp
          ? b.square(n.inputs[0] ?? n)
          : n;
    const [sum, other] = rewrite([b.add(shared, shared), shared], unneg);
    expect(sum).toBe(b.add(b.square(x), b.square(x)));
    expect(other).toBe(b.square(x));
    expect(rewrite([shared], (n) => n)).toEqual([shared]);
  });
});

describe("text", () => {
  it("is equal for equal graphs, whatever was built before", () => {
    const text = (): string => {
      leaf([7]);
      const x = createInput([2, 3], "bfloat16", "x");
      const w = createInput([3, 2], "bfloat16", "w");
      return print([b.sum(b.matmul(x, w, "float32"), [0, 1]), b.cast(x, "float32")]);
    };
    expect(text()).toBe(text());
    expect(text()).toBe(
      [
        "%0 = input(){dtype=bfloat16} : bf16[2, 3]  // x",
        "%1 = input(){dtype=bfloat16} : bf16[3, 2]  // w",
        "%2 = matmul(%0, %1){dtype=float32} : f32[2, 2]",
        "%3 = sum(%2){axes=[0,1];dtype=float32} : f32[]",
        "%4 = cast(%0){dtype=float32} : f32[2, 3]",
        "return %3, %4\n",
      ]
        .join("\n")
        .replaceAll("){", ") {"),
    );
  });
});

describe("construction", () => {
  it("names the op in the row's own sentence once", () => {
    expect(() => createNode(OPS.exp, [leaf([2], "int32")])).toThrow(/^exp: expected a floating dtype, got int32/);
    expect(() => b.broadcastTo(leaf([2]), [3])).toThrow(/^broadcast: (?!broadcast)/);
  });
});
