/** The executed grammar: every rule has a graph that breaks it. */
import { describe, expect, it } from "vitest";
import type { DType } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { problems, verify } from "../../src/ir/verify.ts";
import type { OpOf, PointwiseRow } from "../../src/ops/define.ts";
import { OPS } from "../../src/ops/index.ts";

const leaf = (shape: readonly number[], dtype: DType = "float32"): Node => createInput(shape, dtype);
/** A node as no constructor would make it. */
const forged = (node: Node, change: Partial<Node>): Node => Object.freeze({ ...node, ...change });

/** A row that lets anything through, as a careless one would. */
const careless: OpOf<PointwiseRow> = {
  ...OPS.add,
  infer: ([x]) => ({ shape: x?.shape ?? [], dtype: x?.dtype ?? "float32" }),
};

const product = (): Node => b.matmul(leaf([2, 3], "bfloat16"), leaf([3, 2], "bfloat16"));
const broken: readonly (readonly [string, () => Node, RegExp])[] = [
  ["reads a younger node", () => forged(b.neg(leaf([2])), { id: -1 }), /^neg \[2\] float32 reads a younger node$/],
  [
    "shape not from its row",
    () => forged(b.neg(leaf([2])), { shape: [3] }),
    /^neg \[3\] float32 is not what its row infers: \[2\] float32$/,
  ],
  [
    "dtype not from its row",
    () => forged(b.neg(leaf([2])), { dtype: "float16" }),
    /is not what its row infers: \[2\] float32$/,
  ],
  [
    "attributes that say another shape",
    () => forged(b.sum(leaf([2, 3]), [0]), { attributes: { axes: [1], dtype: "float32" } }),
    /is not what its row infers: \[2\]/,
  ],
  [
    "mixes 16-bit dtypes",
    () =>
      forged(b.add(leaf([2], "float16"), leaf([2], "float16")), {
        op: careless,
        inputs: [leaf([2], "float16"), leaf([2], "bfloat16")],
        id: 1e9,
      }),
    /mixes float16 and bfloat16$/,
  ],
  [
    "mixes widths",
    () => forged(b.add(leaf([2]), leaf([2])), { op: careless, inputs: [leaf([2]), leaf([2], "bfloat16")], id: 1e9 }),
    /mixes float32 and bfloat16$/,
  ],
  [
    "narrows while it accumulates",
    () => b.matmul(leaf([2, 3]), leaf([3, 2]), "bfloat16"),
    /^matmul \[2, 2\] bfloat16 narrows float32 while accumulating$/,
  ],
  [
    "accumulates in the other 16-bit dtype",
    () => b.matmul(leaf([2, 3], "float16"), leaf([3, 2], "float16"), "bfloat16"),
    /narrows float16/,
  ],
];

describe("verify", () => {
  it.each(broken)("finds a node that %s", (_, make, sentence) => {
    const node = make();
    expect(problems([node]).join("\n")).toMatch(sentence);
    expect(() => verify([b.constant(0), node])).toThrow("internal: the graph is malformed");
  });

  it("finds it below other nodes, too", () => {
    const bad = forged(b.neg(leaf([2])), { shape: [3] });
    const above = Object.freeze({ ...b.exp(leaf([3])), inputs: [bad] });
    expect(problems([above])).toHaveLength(1);
  });

  it("accepts literals of another dtype, float32 sums of 16-bit products, and a product in its operands' dtype", () => {
    const x = leaf([2], "bfloat16");
    const wide = b.matmul(leaf([2, 3], "bfloat16"), leaf([3, 2], "bfloat16"), "float32");
    expect(problems([b.mul(x, 2), b.where(b.less(x, 0), x, 1), product(), wide])).toEqual([]);
  });
});
