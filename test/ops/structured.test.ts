/** Rows with structure: gradients and second gradients against central differences, over small odd shapes. */
import { describe, expect, it } from "vitest";
import { gradients } from "../../src/autodiff/backward.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { OPS } from "../../src/ops/index.ts";
import { valueOfGraph } from "../support/evaluate.ts";
import { type GradientCase, gradientErrors } from "../support/gradient-check.ts";
import { uniforms } from "../support/random.ts";
import { at, channelNormCases, convolutionCases, first, indices, poolingCases, squares } from "./structured-cases.ts";

/** Central differences with step 1e-6 on values near 1: relative 1e-6. */
const TOLERANCE = 1e-6;

const rows = indices([2, 2]);
const rowValues = new Map([[rows, new Float64Array([2, 0, 2, 1])]]);
const labels = indices([3]);
const labelValues = new Map([[labels, new Float64Array([4, -100, 0])]]);
const ATTENTION = { scale: 0.7, causal: true };

/** Every structured row by name; several cases where one shape does not show everything. */
const CASES: Readonly<Record<string, readonly GradientCase[]>> = {
  cast: [{ shapes: [[3]], make: first((x) => squares(b.cast(x, "float64"))) }],
  reshape: [{ shapes: [[2, 3, 5]], make: first((x) => squares(b.reshape(x, [5, 6]))) }],
  permute: [{ shapes: [[2, 3, 5]], make: first((x) => squares(b.permute(x, [2, 0, 1]))) }],
  broadcast: [
    { shapes: [[3, 1]], make: first((x) => squares(b.broadcastTo(x, [2, 3, 5]))) },
    { shapes: [[]], make: first((x) => squares(b.broadcastTo(x, [3]))) },
  ],
  slice: [{ shapes: [[4, 5]], make: first((x) => squares(b.slice(x, [1, 2], [3, 1]))) }],
  pad: [{ shapes: [[2, 3]], make: first((x) => squares(b.pad(x, [1, 0], [4, 5]))) }],
  concatenate: [
    {
      shapes: [
        [2, 1],
        [2, 3],
        [2, 2],
      ],
      make: (xs) => squares(b.concatenate(xs, 1)),
    },
    { shapes: [[2, 3]], make: first((x) => squares(b.concatenate([x, x], 0))) },
  ],
  barrier: [{ shapes: [[2, 3]], make: first((x) => squares(b.barrier(x, x))) }],
  windows: [
    { shapes: [[2, 7]], make: first((x) => squares(b.windows(x, { kernel: [3], stride: [2], dilation: [1] }))) },
    {
      shapes: [[5, 6]],
      make: first((x) => squares(b.windows(x, { kernel: [2, 3], stride: [1, 2], dilation: [2, 1] }))),
    },
    {
      shapes: [[2, 5, 8]],
      make: first((x) => squares(b.windows(x, { kernel: [2, 2], stride: [2, 3], dilation: [1, 1] }))),
    },
  ],
  overlapAdd: [
    {
      shapes: [[2, 3, 3]],
      make: first((x) =>
        squares(
          b.composite("overlapAdd", [x], { kernel: [3], stride: [2], dilation: [1], extents: [8], dtype: "float64" }),
        ),
      ),
    },
  ],
  ...convolutionCases(),
  ...channelNormCases(),
  ...poolingCases(),
  sum: [
    { shapes: [[3, 4, 5]], make: first((x) => squares(b.sum(x, [0, 2]))) },
    { shapes: [[3, 1]], make: first((x) => squares(b.sum(x, [1]))) },
  ],
  max: [{ shapes: [[3, 4, 5]], make: first((x) => squares(b.max(x, [1]))) }],
  min: [{ shapes: [[3, 4]], make: first((x) => squares(b.min(x, [0, 1]))) }],
  matmul: [
    {
      shapes: [
        [3, 5],
        [5, 2],
      ],
      make: ([x, y]) => squares(b.matmul(at([x as Node], 0), at([y as Node], 0))),
    },
    {
      shapes: [
        [2, 3, 1],
        [2, 1, 4],
      ],
      make: (xs) => squares(b.matmul(at(xs, 0), at(xs, 1))),
    },
    { shapes: [[3, 3]], make: first((x) => b.matmul(x, b.transpose(x))) },
  ],
  gather: [
    { shapes: [[3, 2]], extra: rowValues, make: first((x) => squares(b.gather(x, rows))) },
    { shapes: [[2, 3, 2]], extra: rowValues, make: first((x) => squares(b.gather(x, rows, 1))) },
  ],
  scatterAdd: [
    {
      shapes: [[2, 2, 3]],
      extra: rowValues,
      make: first((x) => squares(b.scatterAdd(x, rows, { axis: 0, rows: 3, dtype: "float64" }))),
    },
    {
      shapes: [[3, 2, 2]],
      extra: rowValues,
      make: first((x) => squares(b.scatterAdd(x, rows, { axis: 1, rows: 4, dtype: "float64" }))),
    },
  ],
  softmax: [{ shapes: [[2, 5]], make: first((x) => squares(b.composite("softmax", [x]))) }],
  softmaxBackward: [
    {
      shapes: [
        [2, 5],
        [2, 5],
      ],
      make: (xs) => squares(b.composite("softmaxBackward", xs)),
    },
  ],
  logSoftmax: [{ shapes: [[2, 5]], make: first((x) => squares(b.composite("logSoftmax", [x]))) }],
  logSoftmaxBackward: [
    {
      shapes: [
        [2, 5],
        [2, 5],
      ],
      make: (xs) => squares(b.composite("logSoftmaxBackward", xs)),
    },
  ],
  logSumExp: [{ shapes: [[2, 5]], make: first((x) => squares(b.composite("logSumExp", [x]))) }],
  normalize: [true, false].map((center) => ({
    shapes: [[2, 5]],
    make: first((x) => squares(b.composite("normalize", [x], { eps: 1e-3, center, saved: "float64" }))),
  })),
  inverseDeviation: [
    { shapes: [[2, 5]], make: first((x) => b.composite("inverseDeviation", [x], { eps: 1e-2, center: true })) },
  ],
  normalizeBackward: [
    { shapes: [[2, 5], [2, 5], [2]], make: (xs) => squares(b.composite("normalizeBackward", xs, { center: true })) },
  ],
  crossEntropyRows: [
    {
      shapes: [[3, 5]],
      extra: labelValues,
      make: first((x) => squares(b.composite("crossEntropyRows", [x, labels], { ignore: -100 }))),
    },
  ],
  binaryCrossEntropy: [
    {
      shapes: [
        [2, 3],
        [2, 3],
      ],
      // Probabilities from 0.2 to 0.8.
      make: (xs) =>
        squares(
          b.composite(
            "binaryCrossEntropy",
            xs.map((x) => b.add(b.mul(x, 0.15), 0.5)),
          ),
        ),
    },
  ],
  crossEntropyBackward: [
    {
      shapes: [[3], [3, 5]],
      extra: labelValues,
      make: (xs) => squares(b.composite("crossEntropyBackward", [...xs, labels], { ignore: -100 })),
    },
  ],
  attention: [
    {
      shapes: [
        [1, 3, 2, 3],
        [1, 4, 2, 3],
        [1, 4, 2, 3],
      ],
      make: (xs) => squares(b.composite("attention", xs, ATTENTION)),
    },
    {
      shapes: [
        [1, 3, 1, 2],
        [1, 2, 1, 2],
        [1, 2, 1, 2],
      ],
      make: (xs) => squares(b.composite("attention", xs, ATTENTION)),
    },
    { shapes: [[1, 2, 1, 2]], make: first((x) => b.composite("attention", [x, x, x], { scale: 1, causal: false })) },
  ],
  attentionLogSumExp: [
    {
      shapes: [
        [1, 3, 2, 2],
        [1, 3, 2, 2],
        [1, 3, 2, 2],
      ],
      make: (xs) => b.composite("attentionLogSumExp", xs, ATTENTION),
    },
  ],
  ...Object.fromEntries(
    (["attentionBackwardQ", "attentionBackwardK", "attentionBackwardV"] as const).map((name) => [
      name,
      [
        {
          shapes: [...Array.from({ length: 5 }, () => [1, 2, 1, 3]), [1, 1, 2]],
          make: (xs: readonly Node[]) => b.composite(name, xs, ATTENTION),
        },
      ],
    ]),
  ),
};

/** Rows through which no gradient flows, and rows that pointwise.test.ts checks. */
// biome-ignore format: a list of names
const FLAT: readonly string[] = [
  "input", "constant", "full", "iota", "random", "argMax", "argMin", "maxPoolIndex", "magnitudeCounts",
  "roundStochastic", "splitUpper", "splitLower", "splitJoin", "quantizeDynamic", "dequantizeDynamic",
];

describe("gradients and second gradients of structured rows", () => {
  it("has a case for every row that is not pointwise", () => {
    const structured = Object.values(OPS)
      .filter((op) => op.kind !== "pointwise" || op.name === "cast")
      .map((op) => op.name);
    expect(Object.keys(CASES).concat(FLAT).sort()).toEqual(structured.sort());
  });

  for (const [name, cases] of Object.entries(CASES)) {
    cases.forEach((testCase, i) => {
      it(`${name} ${cases.length > 1 ? i : ""} over ${JSON.stringify(testCase.shapes)}`, () => {
        const { first: value, second } = gradientErrors(testCase);
        expect(value, "first").toBeLessThan(TOLERANCE);
        expect(second, "second").toBeLessThan(TOLERANCE);
      });
    });
  }
});

describe("edges of structured rows", () => {
  const values = (node: Node, at: readonly (readonly [Node, readonly number[]])[]): number[] => [
    ...valueOfGraph(node, new Map(at.map(([n, v]) => [n, Float64Array.from(v)]))),
  ];

  it("overlapAdd adds in float32: 300 overlapping ones are 300, where sums in bfloat16 stop at 256", () => {
    const g = createInput([300, 300], "bfloat16");
    const form = { kernel: [300], stride: [1], dilation: [1], extents: [599], dtype: "bfloat16" };
    const sums = values(b.composite("overlapAdd", [g], form), [[g, Array(300 * 300).fill(1)]]);
    expect([sums[0], sums[299], sums[598]]).toEqual([1, 300, 1]);
  });

  it.each(["max", "min"] as const)("%s shares its gradient among equal extremes", (name) => {
    const x = createInput([2, 3], "float64");
    const g = gradients(b.sum(b[name](x, [1]), [0]), [x]).get(x);
    const point = name === "max" ? [1, 3, 3, 2, 2, 2] : [1, -3, -3, 2, 2, 2];
    expect(values(at([g ?? x], 0), [[x, point]])).toEqual([0, 0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]);
  });

  it.each([
    [[-Infinity, -Infinity], -Infinity],
    [[Infinity, 0], Infinity],
    [[1e4, 1e4], 1e4 + Math.log(2)],
    [[-1e4, -Infinity], -1e4],
    [[Number.NaN, 0], Number.NaN],
  ])("logSumExp of %j is %j", (point, expected) => {
    const x = createInput([1, 2], "float64");
    expect(values(b.composite("logSumExp", [x]), [[x, point]])).toEqual([expected]);
  });

  it.each([
    [1, 3],
    [3, 3],
    [4, 2],
  ])("causal attention of %i queries to %i keys sees key j from query i if j ≤ i + keys − queries", (queries, keys) => {
    const [q, k, v] = [
      createInput([1, queries, 1, 2], "float64"),
      createInput([1, keys, 1, 2], "float64"),
      createInput([1, keys, 1, 2], "float64"),
    ];
    const [qs, ks, vs] = [uniforms(1, 2 * queries), uniforms(2, 2 * keys), uniforms(3, 2 * keys)];
    const row = (m: Float64Array, i: number): [number, number] => [m[2 * i] ?? 0, m[2 * i + 1] ?? 0];
    const expected = Array.from({ length: queries }, (_, i) => {
      const visible = Array.from({ length: keys }, (_k, j) => j).filter((j) => j <= i + keys - queries);
      const weights = visible.map((j) =>
        Math.exp(0.7 * (row(qs, i)[0] * row(ks, j)[0] + row(qs, i)[1] * row(ks, j)[1])),
      );
      const total = weights.reduce((s, w) => s + w, 0);
      return [0, 1].map((e) =>
        visible.reduce((s, j, n) => s + ((weights[n] ?? 0) / total) * (row(vs, j)[e as 0 | 1] ?? 0), 0),
      );
    }).flat();
    const got = valueOfGraph(
      b.composite("attention", [q, k, v], ATTENTION),
      new Map([
        [q, qs],
        [k, ks],
        [v, vs],
      ]),
    );
    got.forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i] ?? Number.NaN, 12);
    });
  });
});
