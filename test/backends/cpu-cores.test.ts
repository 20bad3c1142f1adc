/** The native cores (reductions, products, rows, attention, tables) against the reference, on every instruction set of this machine. */
import { describe, expect, it } from "vitest";
import { FORMATS, isFloat, ulp } from "../../src/formats/index.ts";
import { build as b, type Node } from "../../src/ir/graph.ts";
import { REDUCE } from "../../src/ops/reduce.ts";
import type { Shape } from "../../src/ops/shape.ts";
import {
  both,
  expectNear,
  expectSame,
  HALF,
  ISAS,
  type Leaves,
  leaf,
  random,
  sumBound,
} from "../support/differential.ts";
import type { Outcome } from "../support/run.ts";

const { argMax: ARG_MAX, argMin: ARG_MIN } = REDUCE;

describe.each(ISAS)("reductions on %s", (isa) => {
  const cases: readonly (readonly [Shape, readonly number[]])[] = [
    [[1], [0]],
    [[1000], [0]],
    [[37, 129], [0]],
    [[37, 129], [1]],
    [[4, 5, 67], [1]],
    [
      [4, 5, 67],
      [0, 2],
    ],
    [[2048, 40], [0]],
    [[3, 4000], [1]],
    [[6, 0], [1]],
  ];
  it.each(cases)("%j over %j", async (shape, axes) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const x = random(leaves, shape, dtype, 5);
      const count = axes.reduce((n, axis) => n * (shape[axis] ?? 1), 1);
      const sums = [b.sum(x, axes, "float32"), b.sum(x, axes, dtype), b.sum(b.mul(x, x), axes, "float32")];
      const exact =
        count === 0
          ? []
          : [b.max(x, axes), b.min(x, axes), b.node(ARG_MAX, [x], { axes }), b.node(ARG_MIN, [x], { axes })];
      const [cpu, reference] = await both(isa, [...sums, ...exact], leaves);
      sums.forEach((node, i) =>
        expectNear(
          cpu.outputs[i],
          reference.outputs[i],
          (e) => sumBound(count, count * 4, node.dtype, reference.outputs[i]?.[e] ?? 0),
          `${dtype} sum ${i}`,
        ),
      );
      exact.forEach((node, i) =>
        expectSame(cpu.outputs[sums.length + i], reference.outputs[sums.length + i], `${dtype} ${node.op.name}`),
      );
    }
  });
});

describe.each(ISAS)("products on %s", (isa) => {
  const sizes: readonly (readonly [number, number, number])[] = [
    [1, 1, 1],
    [1, 130, 5],
    [14, 32, 16],
    [15, 33, 17],
    [63, 65, 64],
    [7, 3, 129],
    [130, 1, 66],
  ];
  it.each(sizes)("%i × %i over %i: all layouts, formats and epilogues", async (m, n, k) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const [a, at] = [random(leaves, [m, k], dtype, 1), random(leaves, [k, m], dtype, 2)];
      const [w, wt] = [random(leaves, [k, n], dtype, 3), random(leaves, [n, k], dtype, 4)];
      const [master, bias] = [random(leaves, [k, n], "float32", 5), random(leaves, [n], "float32", 6)];
      const outputs = [
        b.matmul(a, w, "float32"),
        b.matmul(b.transpose(at), w, "float32"),
        b.matmul(a, b.transpose(wt)),
        b.matmul(b.transpose(at), b.transpose(wt)),
        b.matmul(a, b.cast(master, dtype), "float32"),
        b.cast(b.add(b.matmul(a, w, "float32"), bias), dtype),
      ];
      const [cpu, reference] = await both(isa, outputs, leaves);
      outputs.forEach((node, i) =>
        expectNear(
          cpu.outputs[i],
          reference.outputs[i],
          (e) => sumBound(k, k * 4 + 2, node.dtype, reference.outputs[i]?.[e] ?? 0),
          `${dtype} ${i}`,
        ),
      );
    }
  });

  it("batches, and batches that share an operand", async () => {
    const leaves: Leaves = new Map();
    const a = random(leaves, [2, 3, 17, 9], "bfloat16", 1);
    const w = random(leaves, [3, 9, 21], "bfloat16", 2);
    const outputs = [
      b.matmul(a, b.broadcastTo(w, [2, 3, 9, 21]), "float32"),
      b.matmul(b.permute(b.permute(a, [0, 2, 1, 3]), [0, 2, 1, 3]), b.broadcastTo(w, [2, 3, 9, 21])),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((node, i) =>
      expectNear(
        cpu.outputs[i],
        reference.outputs[i],
        (e) => sumBound(9, 36, node.dtype, reference.outputs[i]?.[e] ?? 0),
        `${i}`,
      ),
    );
  });
});

/** Errors at the scale of the largest element of the result, in ulps of float32, plus one rounding of a narrower result. */
function expectWithinRow(cpu: Outcome, reference: Outcome, outputs: readonly Node[]): void {
  outputs.forEach((node, i) => {
    const { op } = node;
    const want = reference.outputs[i] ?? new Float64Array();
    const scale = Math.max(...Array.from(want, Math.abs).filter(Number.isFinite), 2 ** -20);
    const ulps = op.kind === "composite" ? op.ulps : 4;
    const narrow = isFloat(node.dtype) && FORMATS[node.dtype].bits < 32;
    expectNear(
      cpu.outputs[i],
      want,
      (e) =>
        ulps * ulp(scale, "float32") +
        (narrow ? 2 * ulp(Math.abs(want[e] ?? 0), node.dtype) + ulp(scale, node.dtype) : 0),
      `${op.name} ${node.dtype}`,
    );
  });
}

describe.each(ISAS)("row kernels on %s", (isa) => {
  const shapes: readonly Shape[] = [[1, 1], [3, 17], [65, 129], [2, 3, 600], [9]];
  it.each(shapes.map((shape) => [shape] as const))("%j", async (shape) => {
    for (const dtype of ["float32", "bfloat16"] as const) {
      const leaves: Leaves = new Map();
      const [x, g] = [random(leaves, shape, dtype, 1, -6, 6), random(leaves, shape, dtype, 2)];
      const norm = { eps: 1e-5, center: true, saved: dtype };
      const normalized = b.composite("normalize", [x], norm);
      const outputs = [
        b.composite("softmax", [x]),
        b.composite("softmaxBackward", [g, b.composite("softmax", [x])]),
        b.composite("logSoftmax", [x]),
        b.composite("logSoftmaxBackward", [g, b.composite("logSoftmax", [x])]),
        b.composite("logSumExp", [x]),
        normalized,
        b.composite("normalize", [x], { ...norm, center: false }),
      ];
      const [cpu, reference] = await both(isa, outputs, leaves);
      expectWithinRow(cpu, reference, outputs);
    }
  });

  it("cross-entropy with ignored rows, and its gradient", async () => {
    const leaves: Leaves = new Map();
    const logits = random(leaves, [19, 33], "float32", 1, -9, 9);
    const labels = leaf(leaves, [19], "int32", [0, 32, 5, -100, 7]);
    const g = random(leaves, [19], "float32", 2);
    const outputs = [
      b.composite("crossEntropyRows", [logits, labels], { ignore: -100 }),
      b.composite("crossEntropyBackward", [g, logits, labels], { ignore: -100 }),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    expectWithinRow(cpu, reference, outputs);
  });
});

describe.each(ISAS)("attention on %s", (isa) => {
  const sizes: readonly (readonly [number, number, number, number, number, boolean])[] = [
    [1, 1, 1, 1, 1, true],
    [2, 5, 5, 3, 8, true],
    [1, 70, 70, 2, 16, true],
    [2, 9, 14, 1, 80, false],
    [1, 12, 7, 2, 4, true],
    [1, 130, 130, 1, 64, true],
    [1, 210, 300, 4, 4, true],
  ];
  it.each(
    sizes,
  )("batch %i, queries %i, keys %i, heads %i, width %i, causal %s", async (batch, queries, keys, heads, width, causal) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const q = random(leaves, [batch, queries, heads, width], dtype, 1);
      const [k, v] = [
        random(leaves, [batch, keys, heads, width], dtype, 2),
        random(leaves, [batch, keys, heads, width], dtype, 3),
      ];
      const g = random(leaves, [batch, queries, heads, width], dtype, 4);
      const attributes = { scale: 1 / Math.sqrt(width), causal };
      const out = b.composite("attention", [q, k, v], attributes);
      const lse = b.composite("attentionLogSumExp", [q, k, v], attributes);
      const saved = [g, q, k, v, out, lse];
      const outputs = [
        out,
        lse,
        b.composite("attentionBackwardQ", saved, attributes),
        b.composite("attentionBackwardK", saved, attributes),
        b.composite("attentionBackwardV", saved, attributes),
      ];
      const [cpu, reference] = await both(isa, outputs, leaves);
      // Probabilities are rounded to 16 bits before or after their normalisation: a few ulps of the format at the scale of the result.
      outputs.forEach((node, i) => {
        const want = reference.outputs[i] ?? new Float64Array();
        const scale = Math.max(...Array.from(want, Math.abs).filter(Number.isFinite), 2 ** -10);
        const unit = dtype === "float32" || i === 1 ? 256 * ulp(scale, "float32") : 4 * ulp(scale, dtype);
        expectNear(cpu.outputs[i], want, () => unit, `${node.op.name} ${dtype}`);
      });
    }
  });
});

describe.each(ISAS)("tables on %s", (isa) => {
  it.each(["int32", "uint8"] as const)("gather and scatter-add by %s", async (indexDType) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const table = random(leaves, [11, 37], dtype, 1);
      const indices = leaf(leaves, [4, 9], indexDType, [0, 10, 3, 3, 7]);
      const values = random(leaves, [4, 9, 37], dtype, 2);
      const gathered = b.gather(table, indices);
      const added = b.scatterAdd(values, indices, { axis: 0, rows: 11, dtype: "float32" });
      const columns = b.gather(table, leaf(leaves, [3], indexDType, [2, 9, 2]), 1);
      const [cpu, reference] = await both(isa, [gathered, columns, added], leaves);
      expectSame(cpu.outputs[0], reference.outputs[0], "gather");
      expectSame(cpu.outputs[1], reference.outputs[1], "gather of columns");
      expectNear(cpu.outputs[2], reference.outputs[2], () => sumBound(36, 72, "float32", 0), "scatterAdd");
    }
  });

  it("an index outside its table raises the reference's fault and changes nothing", async () => {
    const leaves: Leaves = new Map();
    const variable = random(leaves, [5], "float32", 1);
    const table = random(leaves, [11, 3], "float32", 2);
    const looked = b.gather(table, leaf(leaves, [6], "int32", [0, 10, 11, -1, 5, 99]));
    const request = new Map([[variable, b.add(variable, b.slice(b.reshape(b.sum(looked, [1]), [6]), [0], [5]))]]);
    const [cpu, reference] = await both(isa, [], leaves, request);
    expect(cpu.fault).toMatchObject({ position: 2, value: 11 });
    expect(reference.fault).toMatchObject({ position: 2, value: 11 });
    expectSame(cpu.variables.get(variable), leaves.get(variable), "the variable");
  });
});
