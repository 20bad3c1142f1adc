/** The reverse walk: dtypes, fan-in, tiling, targets. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { gradients } from "../../src/autodiff/backward.ts";
import { type DType, isFloat } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { problems } from "../../src/ir/verify.ts";
import { topological } from "../../src/ir/walk.ts";
import { evaluateGraph, valueOfGraph } from "../support/evaluate.ts";
import { centralDifferences, leaf64 } from "../support/gradient-check.ts";
import { uniforms } from "../support/random.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";

const leaf = (shape: readonly number[], dtype: DType = "float32"): Node => createInput(shape, dtype);
const total = (x: Node): Node =>
  b.sum(
    x,
    x.shape.map((_, i) => i),
    "float32",
  );
const need = (node: Node | undefined): Node => {
  if (node === undefined) throw new Error("no gradient");
  return node;
};
const gradientOf = (loss: Node, x: Node): Node => need(gradients(loss, [x]).get(x));

describe("fan-in", () => {
  /** 301 uses of a 16-bit copy, each with cotangent 1: in bfloat16, 256 + 1 is 256 again, and 301 is no number. */
  const USES: readonly (readonly [string, (copy: Node) => Node])[] = [
    [
      "uses that differ",
      (copy) =>
        Array.from({ length: 301 }, (_, i) => b.add(copy, i)).reduce(
          (s, use) => b.add(s, b.cast(use, "float32")),
          b.constant(0, [1]),
        ),
    ],
    ["one broadcast", (copy) => b.broadcastTo(copy, [301, 1])],
    ["a broadcast behind a reshape", (copy) => b.broadcastTo(b.reshape(copy, [1, 1]), [301, 1])],
    ["a gather of one row", (copy) => b.gather(copy, b.broadcastTo(b.iota(1), [301]))],
    ["a product", (copy) => b.matmul(b.cast(b.constant(1, [301, 1]), copy.dtype), b.reshape(copy, [1, 1]))],
  ];
  for (const dtype of ["bfloat16", "float16"] as const) {
    it.each(USES)(`adds 301 unit cotangents of a ${dtype} weight to 301: %s`, (_, use) => {
      const w = leaf([1]);
      const g = gradientOf(total(use(b.cast(w, dtype))), w);
      const at = new Map(
        topological([g])
          .filter((n) => n.op.name === "input")
          .map((n) => [n, Float64Array.of(1)]),
      );
      expect(g.dtype).toBe("float32");
      expect([...valueOfGraph(g, at)]).toEqual([301]);
    });
  }

  it("adds the cotangents of a 16-bit value in float32 and rounds once", () => {
    const x = leaf([1], "bfloat16");
    const uses = Array.from({ length: 301 }, (_, i) => total(b.add(x, i)));
    const g = gradientOf(
      uses.reduce((p, q) => b.add(p, q)),
      x,
    );
    expect([g.dtype, ...valueOfGraph(g, new Map([[x, Float64Array.of(1)]]))]).toEqual(["bfloat16", 300]); // 301 lies between 300 and 302
  });

  it("gives a 16-bit copy its own dtype where the copy itself is the target", () => {
    const copy = b.cast(leaf([2]), "bfloat16");
    const views = [copy, b.reshape(copy, [2, 1])];
    for (const target of views) expect(gradientOf(total(b.mul(views[1] ?? copy, 3)), target).dtype).toBe("bfloat16");
  });

  it("counts an operand that one node reads twice twice", () => {
    const x = leaf64([2]);
    const g = gradientOf(b.sum(b.mul(x, x), [0]), x);
    expect([...valueOfGraph(g, new Map([[x, Float64Array.of(3, -4)]]))]).toEqual([6, -8]);
  });

  it("counts the path between two operands of a composite once", () => {
    const x = leaf64([1, 3]);
    const p = b.composite("softmax", [x]);
    const loss = b.sum(b.composite("softmaxBackward", [b.square(p), p]), [1]);
    const scalar = b.sum(b.mul(loss, loss), [0]);
    const at = new Map([[x, uniforms(3, 3)]]);
    const [analytic, numeric] = [valueOfGraph(gradientOf(scalar, x), at), centralDifferences(scalar, x, at)];
    analytic.forEach((v, i) => {
      expect(v).toBeCloseTo(numeric[i] ?? Number.NaN, 8);
    });
  });
});

describe("products", () => {
  const x = leaf([5, 4], "bfloat16");
  it("that yield a variable's gradient have float32 output, through casts and views", () => {
    const w = leaf([4, 3]);
    for (const copy of [
      b.cast(w, "bfloat16"),
      b.reshape(b.cast(b.reshape(w, [12]), "bfloat16"), [4, 3]),
      b.transpose(b.cast(b.transpose(w), "bfloat16")),
    ]) {
      const products = topological([gradientOf(total(b.matmul(x, copy)), w)]).filter(
        (n) => n.op.kind === "contraction",
      );
      expect(products.map((n) => n.dtype)).toEqual(["float32"]);
    }
  });

  it("that yield the gradient of a 16-bit tensor round to it", () => {
    const w = leaf([4, 3], "bfloat16");
    expect(gradientOf(total(b.matmul(x, w)), w).dtype).toBe("bfloat16");
  });
});

describe("gradients", () => {
  it("have their target's shape and dtype, in well-formed graphs, for random requests", () => {
    fc.assert(
      fc.property(recipes, (recipe) => {
        const { request, leaves } = buildRequest(recipe);
        const [root] = request.outputs.filter((n) => isFloat(n.dtype));
        const targets = [...leaves.keys()].filter((n) => isFloat(n.dtype));
        if (root === undefined) return;
        const found = gradients(total(b.cast(root, "float32")), targets);
        for (const [target, g] of found) expect([g.shape, g.dtype]).toEqual([target.shape, target.dtype]);
        expect(problems([...found.values()])).toEqual([]);
        expect(targets.filter((t) => !topological([root]).includes(t)).some((t) => found.has(t))).toBe(false);
      }),
      { numRuns: 300, seed: 5 },
    );
  });

  it("join slices that tile into one concatenation, in any order of use", () => {
    const x = leaf64([2, 6]);
    const parts = [4, 0, 1].map((at, i) => b.mul(b.slice(x, [0, at], [2, [2, 1, 3][i] ?? 0]), i + 2));
    const g = gradientOf(
      parts.map((p) => b.sum(p, [0, 1])).reduce((p, q) => b.add(p, q)),
      x,
    );
    const names = topological([g]).map((n) => n.op.name);
    expect(names.filter((n) => n === "concatenate" || n === "pad")).toEqual(["concatenate"]);
    expect([...valueOfGraph(g, new Map([[x, uniforms(1, 12)]]))]).toEqual([3, 4, 4, 4, 2, 2, 3, 4, 4, 4, 2, 2]);
  });

  it.each([
    [
      "overlap",
      [
        [0, 3],
        [2, 4],
      ],
      [1, 1, 2, 1, 1, 1],
    ],
    [
      "overlap and leave a gap of the same size",
      [
        [0, 4],
        [2, 2],
      ],
      [1, 1, 2, 2, 0, 0],
    ],
    [
      "leave a gap",
      [
        [0, 2],
        [3, 3],
      ],
      [1, 1, 0, 1, 1, 1],
    ],
    [
      "repeat",
      [
        [0, 6],
        [0, 6],
      ],
      [2, 2, 2, 2, 2, 2],
    ],
    [
      "do not reach the end",
      [
        [0, 2],
        [2, 2],
      ],
      [1, 1, 1, 1, 0, 0],
    ],
  ] as const)("add slices that %s", (_, boxes, expected) => {
    const x = leaf64([6]);
    const parts = boxes.map(([at, n], i) => b.sum(b.add(b.slice(b.mul(x, 1.5), [at], [n]), i), [0]));
    const values = valueOfGraph(
      gradientOf(
        parts.reduce((p, q) => b.add(p, q)),
        x,
      ),
      new Map([[x, uniforms(1, 6)]]),
    );
    expect([...values]).toEqual(expected.map((v) => v * 1.5));
  });

  it("count every path to nested targets in full", () => {
    const x = leaf64([1]);
    const y = b.mul(x, 3);
    const found = gradients(b.sum(b.mul(y, x), [0]), [x, y]);
    const values = evaluateGraph([need(found.get(x)), need(found.get(y))], new Map([[x, Float64Array.of(2)]]));
    expect(values.map((v) => v[0])).toEqual([12, 2]);
  });

  it("of the scalar itself are 1", () => {
    const x = leaf64([]);
    expect([...valueOfGraph(gradientOf(x, x), new Map([[x, Float64Array.of(9)]]))]).toEqual([1]);
  });

  it("leave out what the scalar does not depend on, or only through steps and integers", () => {
    const [x, y] = [leaf64([3]), leaf64([3])];
    expect([...gradients(b.sum(x, [0]), [x, y]).keys()]).toEqual([x]);
    expect(gradients(b.sum(b.cast(b.cast(x, "int32"), "float64"), [0]), [x]).size).toBe(0);
    expect(gradients(b.sum(b.where(b.less(x, y), b.constant(1, [3], "float64"), 0), [0]), [x, y]).size).toBe(0);
  });

  it("are refused for what is no floating scalar, and for integers", () => {
    const x = leaf([3]);
    expect(() => gradients(x, [x])).toThrow(
      /^gradients: expected a floating scalar, got float32 \[3\]; reduce it first/,
    );
    expect(() => gradients(b.sum(leaf([3], "int32"), [0]), [x])).toThrow("got int32 []");
    expect(() => gradients(total(x), [leaf([3], "int32")])).toThrow("input [3] int32 holds integers");
  });

  it("do not depend on which equal nodes an earlier graph left behind", () => {
    const x = leaf64([1]);
    const ops = [b.exp, b.cos, b.square, b.sqrt];
    const early = ops.map((op) => op(x)).reverse();
    const build = (): Node =>
      gradientOf(
        b.sum(
          ops.map((op) => op(x)).reduce((p, q) => b.add(p, q)),
          [0],
        ),
        x,
      );
    const y = leaf64([1]);
    const fresh = gradientOf(
      b.sum(
        ops.map((op) => op(y)).reduce((p, q) => b.add(p, q)),
        [0],
      ),
      y,
    );
    const order = (g: Node): string[] =>
      topological([g])
        .filter((n) => n.op.name.includes(".d"))
        .map((n) => n.op.name);
    expect(order(build())).toEqual(order(fresh));
    expect(early).toHaveLength(4);
  });
});
