/** The native convolutions against their decomposition: geometries, formats, fused casts and epilogues, any number of threads. */
import { describe, expect, it } from "vitest";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import type { DType } from "../../src/formats/index.ts";
import { build as b, type Node } from "../../src/ir/graph.ts";
import { geometryOf } from "../../src/ops/convolution.ts";
import type { Attributes } from "../../src/ops/define.ts";
import { sizeOf } from "../../src/ops/shape.ts";
import {
  backendOf,
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
import { type Outcome, run } from "../support/run.ts";

interface Geometry {
  readonly what: string;
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly stride?: readonly number[];
  readonly padding?: readonly number[];
  readonly dilation?: readonly number[];
  readonly groups?: number;
}

// biome-ignore format: a table is read by rows
const GEOMETRIES: readonly Geometry[] = [
  { what: "a second strip of rows, rows that end within a vector", x: [2, 3, 9, 11], w: [17, 3, 3, 3], padding: [1, 1, 1, 1] },
  { what: "full vectors, written where they belong", x: [2, 2, 4, 32], w: [16, 2, 3, 3], padding: [1, 1, 1, 1] },
  { what: "rows of half and quarter vectors", x: [5, 3, 8, 8], w: [7, 3, 3, 3], padding: [1, 1, 1, 1] },
  { what: "rows of four, many pictures", x: [37, 2, 4, 4], w: [3, 2, 3, 3], padding: [1, 1, 1, 1] },
  { what: "single pixels", x: [21, 3, 2, 2], w: [4, 3, 2, 2], padding: [0, 0, 0, 0] },
  { what: "tiles of 2×2 outputs", x: [3, 20, 8, 16], w: [17, 20, 3, 3], padding: [1, 1, 1, 1] },
  { what: "tiles that reach past an odd picture", x: [2, 14, 9, 11], w: [13, 14, 3, 3], padding: [1, 1, 1, 1] },
  { what: "tiles, groups, paddings that differ", x: [5, 26, 6, 5], w: [26, 13, 3, 3], groups: 2, padding: [0, 2, 3, 1] },
  { what: "tiles, padding that cuts off", x: [2, 12, 9, 7], w: [13, 12, 3, 3], padding: [-1, 1, 2, -1] },
  { what: "tiles, blocks of channels and panels of outputs", x: [2, 40, 3, 5], w: [92, 40, 3, 3], padding: [1, 1, 1, 1] },
  { what: "stride 2, even", x: [2, 3, 16, 16], w: [6, 3, 3, 3], stride: [2, 2], padding: [1, 1, 1, 1] },
  { what: "stride 2, odd", x: [2, 2, 9, 13], w: [5, 2, 3, 3], stride: [2, 2], padding: [1, 1, 1, 1] },
  { what: "1×1 with stride 2", x: [2, 6, 9, 8], w: [5, 6, 1, 1], stride: [2, 2] },
  { what: "strides past the kernel, paddings that differ", x: [2, 2, 11, 12], w: [3, 2, 2, 1], stride: [3, 4], padding: [0, 2, 1, 3] },
  { what: "dilation beside a stride", x: [1, 3, 15, 20], w: [4, 3, 3, 3], stride: [2, 3], dilation: [3, 2], padding: [2, 1, 3, 4] },
  { what: "padding that cuts off", x: [2, 2, 8, 9], w: [3, 2, 3, 2], stride: [1, 2], padding: [-1, 1, 2, -2] },
  { what: "groups", x: [3, 6, 7, 10], w: [9, 2, 3, 3], groups: 3, padding: [1, 1, 1, 1] },
  { what: "depth-wise, two filters each, stride 2", x: [2, 9, 7, 10], w: [18, 1, 3, 3], groups: 9, stride: [2, 2], padding: [1, 1, 1, 1] },
  { what: "several chunks of channels", x: [1, 81, 4, 5], w: [2, 81, 3, 3], padding: [1, 1, 1, 1] },
  { what: "several bands of rows", x: [1, 1, 60, 40], w: [2, 1, 3, 3], padding: [1, 1, 1, 1] },
  { what: "several bands of columns", x: [1, 1, 2, 1100], w: [1, 1, 2, 3], stride: [1, 1], padding: [0, 1, 1, 1] },
  { what: "a single column", x: [2, 3, 19, 1], w: [4, 3, 3, 1], padding: [1, 0, 1, 0] },
  { what: "one axis", x: [2, 3, 70], w: [5, 3, 7], dilation: [2], padding: [3, 4] },
  { what: "one axis, bands, stride 2", x: [1, 1, 2200], w: [2, 1, 5], stride: [2], padding: [2, 2] },
];

interface Forms {
  readonly outputs: readonly Node[];
  readonly leaves: Leaves;
  readonly counts: readonly number[];
}

/** All three forms over one geometry: sums as they are, rounded, after casts that the kernel makes, and through epilogues. */
function formsOf({ x, w, stride, padding, dilation, groups = 1 }: Geometry, dtype: DType): Forms {
  const rank = x.length - 2;
  const each = (list: readonly number[] | undefined, value: number): readonly number[] =>
    list ?? Array(rank).fill(value);
  const form: Attributes = {
    stride: each(stride, 1),
    padding: padding ?? Array(2 * rank).fill(0),
    dilation: each(dilation, 1),
    groups,
  };
  const { batch, outputs, output, channels } = geometryOf(x, w, form);
  const y = [batch, groups * outputs, ...output];
  const leaves: Leaves = new Map();
  const [px, pw, pg] = [random(leaves, x, dtype, 1), random(leaves, w, dtype, 2), random(leaves, y, dtype, 3)];
  const [masterX, masterW] = [random(leaves, x, "float32", 4), random(leaves, w, "float32", 5)];
  const bias = random(leaves, [groups * outputs, ...output.map(() => 1)], "float32", 6);
  const residual = random(leaves, [...y].reverse(), "float32", 7);
  const back = y.map((_, i) => y.length - 1 - i);
  const of = (
    name: "convolution" | "convolutionInputGradient" | "convolutionWeightGradient",
    a: Node,
    c: Node,
    to: DType,
  ) => b.composite(name, [a, c], { ...form, extents: x.slice(2), kernel: w.slice(2), dtype: to });
  const forward = of("convolution", px, pw, "float32");
  const biased = b.maximum(
    b.add(of("convolution", b.cast(masterX, dtype), b.cast(masterW, dtype), "float32"), bias),
    0,
  );
  const nodes = [
    forward,
    b.cast(biased, dtype),
    b.add(of("convolution", px, b.cast(masterW, dtype), dtype), b.permute(b.cast(residual, dtype), back)),
    of("convolutionInputGradient", pg, pw, "float32"),
    b.mul(of("convolutionInputGradient", pg, b.cast(masterW, dtype), dtype), px),
    of("convolutionWeightGradient", px, pg, "float32"),
    b.cast(b.mul(of("convolutionWeightGradient", b.cast(masterX, dtype), pg, "float32"), masterW), dtype),
  ];
  const [ofOutput, ofInput, ofWeight] = [
    channels * sizeOf(w.slice(2)),
    outputs * sizeOf(w.slice(2)),
    batch * sizeOf(output),
  ];
  return {
    outputs: nodes,
    leaves,
    counts: [ofOutput, ofOutput, ofOutput, ofInput, 4 * ofInput, ofWeight, 4 * ofWeight],
  };
}

describe.each(ISAS)("convolutions on %s", (isa) => {
  it.each(GEOMETRIES)("$what", async (geometry) => {
    for (const dtype of HALF) {
      const { outputs, leaves, counts } = formsOf(geometry, dtype);
      const [cpu, reference] = await both(isa, outputs, leaves);
      outputs.forEach((node, i) => {
        const count = counts[i] ?? 0;
        expectNear(
          cpu.outputs[i],
          reference.outputs[i],
          // Operands are below 2 in size. A rounded product is rounded again after the next operation. Tiles: count / 9 + 12 roundings of
          // terms 16 times as large (native/test/convolution_test.cc), less than those of two orders of count + 96 terms.
          (e) => sumBound(count + 96, count * 4 + 2, node.dtype, 4 * (reference.outputs[i]?.[e] ?? 0)),
          `${dtype} ${i}`,
        );
      });
    }
  });

  it("products and convolutions of pixels in bytes", async () => {
    const leaves: Leaves = new Map();
    const pixels = leaf(leaves, [1, 1, 3, 3], "uint8", [0, 255, 7, 1, 2, 3, 4, 5, 6]);
    const x = b.cast(pixels, "float32");
    const w = leaf(leaves, [1, 1, 3, 3], "float32", [1, 2, -1, 0, 3, 1, 1, -2, 1]);
    const form = { stride: [1, 1], padding: [1, 1, 1, 1], dilation: [1, 1], groups: 1, dtype: "float32" };
    const outputs = [b.matmul(b.reshape(x, [3, 3]), b.reshape(w, [3, 3])), b.composite("convolution", [x, w], form)];
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((_, i) => expectSame(cpu.outputs[i], reference.outputs[i], `${i}`));
  });

  it("one pair of operands under several strides, in several dtypes", async () => {
    const leaves: Leaves = new Map();
    const [x, w] = [random(leaves, [1, 2, 5, 6], "bfloat16", 1), random(leaves, [2, 2, 1, 1], "bfloat16", 2)];
    const form = { padding: [0, 0, 0, 0], dilation: [1, 1], groups: 1 };
    const outputs = [1, 2].flatMap((stride) =>
      ["float32", "bfloat16"].map((dtype) =>
        b.composite("convolution", [x, w], { ...form, stride: [stride, 1], dtype }),
      ),
    );
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((node, i) =>
      expectNear(
        cpu.outputs[i],
        reference.outputs[i],
        (e) => sumBound(2, 8, node.dtype, reference.outputs[i]?.[e] ?? 0),
        `${i}`,
      ),
    );
  });

  it("has the same bits on 1, 2, 3 and 8 threads", async () => {
    const { addon } = loadAddon();
    const before = addon?.threads() ?? 1;
    for (const geometry of GEOMETRIES.filter((_, i) => i % 3 === 0)) {
      const { outputs, leaves } = formsOf(geometry, "bfloat16");
      const runs: Outcome[] = [];
      for (const threads of [1, 2, 3, 8]) {
        const backend = backendOf(isa);
        addon?.setThreads(threads);
        runs.push(await run({ outputs, assignments: new Map() }, leaves, backend));
      }
      for (const other of runs.slice(1))
        outputs.forEach((_, i) => expectSame(other.outputs[i], runs[0]?.outputs[i], `${geometry.what}: ${i}`));
    }
    addon?.setThreads(before);
  });

  it("an infinity beside the picture's edge spoils no weight that does not see it", async () => {
    const leaves: Leaves = new Map();
    const [x, g] = [random(leaves, [1, 1, 3, 5], "float32", 1), random(leaves, [1, 1, 1, 3], "float32", 2)];
    leaves.get(x)?.set([Infinity], 4); // of the first row, the last column: seen by the taps of column 2 in row 0 only
    const form = {
      stride: [1, 1],
      padding: [0, 0, 0, 0],
      dilation: [1, 1],
      groups: 1,
      kernel: [3, 3],
      dtype: "float32",
    };
    const [cpu] = await both(isa, [b.composite("convolutionWeightGradient", [x, g], form)], leaves);
    expect([...(cpu.outputs[0] ?? [])].map(Number.isFinite)).toEqual([true, true, false, ...Array(6).fill(true)]);
  });
});
