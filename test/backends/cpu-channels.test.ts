/** Norms of channels on the cpu: statistics against exact ones, maps against the reference, on every instruction set and number of threads. */
import { describe, expect, it } from "vitest";
import { gradients } from "../../src/autodiff/backward.ts";
import type { DType } from "../../src/formats/index.ts";
import { ulp } from "../../src/formats/index.ts";
import { build as b, type Node } from "../../src/ir/graph.ts";
import { type Shape, sizeOf } from "../../src/ops/shape.ts";
import {
  backendOf,
  both,
  expectNear,
  expectSameForThreads,
  HALF,
  ISAS,
  type Leaves,
  leaf,
  loaded,
  random,
} from "../support/differential.ts";
import { run } from "../support/run.ts";

/** Short planes and long ones, with tails; more than a block, a chunk, a segment of a plane and a task. */
const SHAPES: readonly Shape[] = [
  [2, 3],
  [1, 2, 1, 5],
  [70, 33],
  [5, 3, 7],
  [600, 2, 3],
  [3, 200, 5],
  [3, 2, 33],
  [2, 5, 8, 4],
  [3, 2, 601],
  [33, 2, 16, 33],
  [2, 1, 16400],
];
const DTYPES: readonly DType[] = [...HALF, "float8_e5m2"];

const EPS = 1e-3;

/** The elements of each channel, from (batch, channels, …). */
function byChannel(shape: Shape, values: Float64Array): number[][] {
  const [outer = 1, channels = 1] = shape;
  const inner = sizeOf(shape.slice(2));
  return Array.from({ length: channels }, (_, c) =>
    Array.from({ length: outer * inner }, (_, i) =>
      Number(values[(Math.floor(i / inner) * channels + c) * inner + (i % inner)]),
    ),
  );
}
const sum = (values: readonly number[]): number => values.reduce((a, v) => a + v, 0);
const meanOf = (values: readonly number[]): number => sum(values) / values.length;
function varianceOf(values: readonly number[]): number {
  const mean = meanOf(values);
  return meanOf(values.map((v) => (v - mean) ** 2));
}

const valuesOf = (leaves: Leaves, node: Node): Float64Array => leaves.get(node) ?? new Float64Array();
const momentsOf = (x: Node): readonly [Node, Node] => {
  const axes = x.shape.map((_, i) => i).filter((i) => i !== 1);
  return [b.composite("meanOver", [x], { axes }), b.composite("varianceOver", [x], { axes })];
};

/** Leaves of one number per channel. */
const numbers = (leaves: Leaves, channels: number, seed: number, low: number): Node =>
  random(leaves, [channels], "float32", seed, low, 2);

describe.each(ISAS)("norms of channels on %s", (isa) => {
  it.each(SHAPES.map((shape) => [shape] as const))("statistics of %j", async (shape) => {
    for (const dtype of DTYPES) {
      const leaves: Leaves = new Map();
      const [x, g] = [random(leaves, shape, dtype, 1, -1, 3), random(leaves, shape, dtype, 2)];
      const channels = shape[1] ?? 1;
      const statistics = [numbers(leaves, channels, 3, -2), numbers(leaves, channels, 4, 0.5)];
      const sums = ["batchNormTotal", "batchNormAlong"] as const;
      const outputs = [...momentsOf(x), ...sums.map((name) => b.composite(name, [g, x, ...statistics], { eps: EPS }))];
      const { outputs: got } = await run({ outputs, assignments: new Map() }, leaves, backendOf(isa));
      const [means, variances] = statistics.map((node) => valuesOf(leaves, node));
      const [xs, gs] = [x, g].map((node) => byChannel(shape, valuesOf(leaves, node))) as [number[][], number[][]];
      // Partial sums of at most 16384 elements over four lanes or more, in float32.
      const bound = (terms: readonly number[]): number => 2 ** -24 * 64 * meanOf(terms.map(Math.abs));
      xs.forEach((elements, c) => {
        const normalized = elements.map((v) => (v - (means?.[c] ?? 0)) / Math.sqrt((variances?.[c] ?? 0) + EPS));
        const products = (gs[c] ?? []).map((v, i) => v * (normalized[i] ?? 0));
        const count = elements.length;
        const exact = [meanOf(elements), varianceOf(elements), sum(gs[c] ?? []), sum(products)];
        const allowed = [
          bound(elements) + ulp(3, "float32"),
          2 * bound(elements.map((v) => v * v)) + ulp(4, "float32"),
          count * bound(gs[c] ?? []),
          count * (bound(products) + 4 * ulp(meanOf(products.map(Math.abs)), "float32")),
        ];
        exact.forEach((want, i) => {
          expectNear([got[i]?.[c] ?? Number.NaN], [want], () => allowed[i] ?? 0, `${dtype} ${i} of channel ${c}`);
        });
      });
    }
  });

  it.each(SHAPES.map((shape) => [shape] as const))("maps of %j, by themselves and with what follows", async (shape) => {
    for (const dtype of DTYPES) {
      const leaves: Leaves = new Map();
      const [x, g, residual] = [1, 2, 3].map((seed) => random(leaves, shape, dtype, seed)) as [Node, Node, Node];
      const channels = shape[1] ?? 1;
      const [weight, bias, mean, variance, total, along] = [4, 5, 6, 7, 8, 9].map((seed) =>
        numbers(leaves, channels, seed, seed === 7 ? 0.5 : -2),
      ) as [Node, Node, Node, Node, Node, Node];
      const eps = { eps: EPS };
      const normalized = b.composite("batchNormWith", [x, weight, bias, mean, variance], eps);
      const gradient = b.composite("batchNormBackward", [g, x, weight, mean, variance, total, along], eps);
      for (const outputs of [
        [normalized, gradient],
        [b.maximum(b.add(normalized, residual), b.constant(0, [], dtype)), b.cast(gradient, "float32")],
      ]) {
        const [cpu, reference] = await both(isa, outputs, leaves);
        outputs.forEach((node, i) => {
          const want = reference.outputs[i] ?? new Float64Array();
          const allowed = (e: number): number =>
            32 * ulp(8, "float32") + 2 * ulp(Math.max(2, Math.abs(want[e] ?? 0)), dtype);
          expectNear(cpu.outputs[i], want, allowed, `${dtype} ${node.op.name}`);
        });
      }
    }
  });

  it("keep what is small against a large mean", async () => {
    const leaves: Leaves = new Map();
    const shape = [20, 2, 40, 40];
    const x = random(leaves, shape, "float32", 1, 4095, 4097);
    const { outputs } = await run({ outputs: momentsOf(x), assignments: new Map() }, leaves, backendOf(isa));
    byChannel(shape, valuesOf(leaves, x)).forEach((elements, c) => {
      expect(Math.abs((outputs[0]?.[c] ?? 0) - meanOf(elements))).toBeLessThan(ulp(4096, "float32"));
      expect(Math.abs((outputs[1]?.[c] ?? 0) / varianceOf(elements) - 1)).toBeLessThan(1e-5);
    });
  });

  it.each([
    [[4, 3, 5]],
    [[4, 3, 50]],
  ] as const)("of %j with a NaN and an infinity leave the other channels alone", async (shape) => {
    const leaves: Leaves = new Map();
    const [w, bias] = [numbers(leaves, 3, 2, 0.5), numbers(leaves, 3, 3, 0.5)];
    const values = valuesOf(leaves, random(leaves, shape, "float32", 1)).slice();
    const inner = shape[2];
    values[0] = Number.NaN;
    values[3 * inner + inner + 2] = Number.POSITIVE_INFINITY;
    const x = leaf(leaves, shape, "float32", values);
    const out = b.composite("batchNorm", [x, w, bias], { eps: EPS });
    const { outputs } = await run({ outputs: [out], assignments: new Map() }, leaves, backendOf(isa));
    const finite = byChannel(shape, outputs[0] ?? new Float64Array()).map((elements) => elements.map(Number.isFinite));
    expect(finite.map((channel) => [channel.includes(true), channel.includes(false)])).toEqual([
      [false, true],
      [expect.any(Boolean), true],
      [true, false],
    ]);
  });

  it("read operands that lie in another order, and planes without elements", async () => {
    const leaves: Leaves = new Map();
    const x = b.permute(random(leaves, [4, 9, 3, 5], "bfloat16", 1), [0, 2, 3, 1]);
    const [w, bias] = [numbers(leaves, 3, 2, 0.5), numbers(leaves, 3, 3, 0.5)];
    const outputs = [b.composite("batchNorm", [x, w, bias], { eps: EPS })];
    const [cpu, reference] = await both(isa, outputs, leaves);
    const want = reference.outputs[0];
    expectNear(cpu.outputs[0], want, (e) => 2 * ulp(want?.[e] ?? 0, "bfloat16") + 1e-5, "permuted");
    const empty = momentsOf(leaf(leaves, [2, 3, 0], "float32", []));
    const nothing = await run({ outputs: empty, assignments: new Map() }, leaves, backendOf(isa));
    expect(nothing.outputs.map((values) => [...values])).toEqual([
      [Number.NaN, Number.NaN, Number.NaN],
      [Number.NaN, Number.NaN, Number.NaN],
    ]);
  });
});

describe.skipIf(loaded.addon === null)("norms of channels", () => {
  it.each([
    [[80, 6, 20, 24]],
    [[900, 70, 3]],
  ] as const)("of %j have the same bits for 1, 2, 3 and 8 threads", async (shape) => {
    const leaves: Leaves = new Map();
    const x = random(leaves, shape, "bfloat16", 1);
    const [w, bias] = [numbers(leaves, shape[1], 2, 0.5), numbers(leaves, shape[1], 3, -1)];
    const out = b.composite("batchNorm", [x, w, bias], { eps: EPS });
    const loss = b.sum(
      b.mul(b.widen(out), b.widen(random(leaves, shape, "bfloat16", 4))),
      shape.map((_, i) => i),
    );
    const found = gradients(loss, [x, w, bias]);
    const outputs = [out, ...[x, w, bias].map((node) => found.get(node) ?? node)];
    await expectSameForThreads(outputs, leaves);
  });
});
