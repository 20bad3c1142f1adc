/** Pooling, resampling and norms of channels on the cpu against the reference, on every instruction set and number of threads. */
import { describe, it } from "vitest";
import { gradients } from "../../src/autodiff/backward.ts";
import type { DType } from "../../src/formats/index.ts";
import { ulp } from "../../src/formats/index.ts";
import { build as b, type Node } from "../../src/ir/graph.ts";
import type { Attributes } from "../../src/ops/define.ts";
import type { Shape } from "../../src/ops/shape.ts";
import { attributesOf, type TapAxis, type TapKind } from "../../src/ops/taps.ts";
import {
  both,
  expectNear,
  expectSame,
  expectSameForThreads,
  HALF,
  ISAS,
  type Leaves,
  loaded,
  random,
} from "../support/differential.ts";

const axis = (kind: TapKind, input: number, output: number, rest: Partial<TapAxis> = {}): TapAxis => ({
  ...{ kind, input, output, size: 0, stride: 0, padding: 0, dilation: 0, scale: 0, aligned: 0 },
  ...rest,
});
const window = (input: number, size: number, stride: number, padding = 0, dilation = 1): TapAxis =>
  axis("window", input, Math.floor((input + 2 * padding - (size - 1) * dilation - 1) / stride) + 1, {
    ...{ size, stride, padding, dilation },
  });
const scaled = (kind: TapKind, input: number, output: number): TapAxis =>
  axis(kind, input, output, { scale: input / output });

/** Past one block of lanes and one task of planes; taps near one another, further apart than two vectors, and gaps that no window sees. */
const AXES: readonly (readonly TapAxis[])[] = [
  [window(33, 2, 2)],
  [window(600, 3, 1, 1)],
  [window(9, 3, 2, 1), window(70, 3, 2, 1)],
  [window(16, 2, 2), window(16, 2, 2)],
  [window(11, 3, 1, 1, 2), window(13, 2, 3)],
  [window(8, 2, 2), window(64, 3, 5, 1)],
  [window(70, 1, 20), window(50, 3, 2, 1, 7)],
  [window(9, 9, 1), window(20, 20, 1)],
  [axis("adaptive", 7, 3), axis("adaptive", 10, 4)],
  [axis("adaptive", 3, 5), axis("adaptive", 64, 8)],
];
const RESAMPLED: readonly (readonly TapAxis[])[] = [
  [scaled("nearest", 17, 40)],
  [scaled("nearest", 4, 8), scaled("nearest", 9, 3)],
  [scaled("nearest", 1, 3), scaled("nearest", 2, 33)],
  [scaled("linear", 5, 12), scaled("linear", 30, 47)],
  [axis("linear", 6, 11, { scale: 0.5, aligned: 1 }), axis("linear", 20, 9, { scale: 19 / 8, aligned: 1 })],
];
const show = (axes: readonly TapAxis[]): string =>
  axes.map(({ kind, input, output, size }) => `${kind}${size || ""} ${input}→${output}`).join(" × ");

/** The values of a row and the gradient of its operand, of a weighted sum. */
function differentiated(leaves: Leaves, x: Node, out: Node): readonly Node[] {
  const cotangent = random(leaves, out.shape, out.dtype, 77, 0.5, 2);
  const product = b.mul(b.widen(out), b.widen(cotangent));
  const loss = b.sum(
    product,
    out.shape.map((_, i) => i),
  );
  return [out, gradients(loss, [x]).get(x) ?? x];
}

/** One case is over enough planes for several tasks; the reference is slow. */
const planes = (axes: readonly TapAxis[]): Shape => [
  ...(axes[0]?.input === 16 ? [2, 60] : [1, 3]),
  ...axes.map(({ input }) => input),
];
/** A few sums of up to nine float32 numbers below 20, and one rounding. */
const allowed =
  (dtype: DType) =>
  (value: number): number =>
    40 * 2 ** -23 * Math.max(1, Math.abs(value)) + (dtype === "float32" ? 0 : ulp(value, dtype));

describe.each(ISAS)("planes on %s", (isa) => {
  async function expectAgreement(
    axes: readonly TapAxis[],
    name: "maxPool" | "resample",
    extra: Attributes,
  ): Promise<void> {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const x = random(leaves, planes(axes), dtype, 3);
      const out = b.composite(name, [x], { ...attributesOf(axes), ...extra });
      const [cpu, reference] = await both(isa, differentiated(leaves, x, out), leaves);
      if (name === "maxPool") expectSame(cpu.outputs[0], reference.outputs[0], `${dtype} maxima`);
      [0, 1].forEach((i) => {
        const want = reference.outputs[i];
        expectNear(cpu.outputs[i], want, (e) => allowed(dtype)(want?.[e] ?? 0), `${dtype} ${i}`);
      });
    }
  }

  it.each(AXES.map((axes) => [show(axes), axes] as const))("maxima of %s", (_, axes) =>
    expectAgreement(axes, "maxPool", {}));
  it.each(AXES.map((axes) => [show(axes), axes] as const))("means of %s", async (_, axes) => {
    const isWindow = axes[0]?.kind === "window";
    await expectAgreement(axes, "resample", { divide: "taps" });
    if (isWindow) await expectAgreement(axes, "resample", { divide: "size" });
  });
  it.each(RESAMPLED.map((axes) => [show(axes), axes] as const))("%s", (_, axes) =>
    expectAgreement(axes, "resample", { divide: "none" }));

  it("of ties, NaN and infinities are the reference's", async () => {
    const axes = [window(20, 3, 2, 1), window(21, 3, 1, 1)];
    const leaves: Leaves = new Map();
    const x = random(leaves, planes(axes), "float32", 9);
    const values = leaves.get(x) ?? new Float64Array();
    const special = [Number.NaN, Infinity, -Infinity, 0, -0, 1, 1, -Infinity];
    leaves.set(
      x,
      values.map((v, i) => (i % 3 === 0 ? v : (special[(i * 7 + (i >> 3)) % 8] ?? v))),
    );
    const index = b.composite("maxPoolIndex", [x], attributesOf(axes));
    const [cpu, reference] = await both(isa, [b.composite("maxPool", [x], attributesOf(axes)), index], leaves);
    expectSame(cpu.outputs[0], reference.outputs[0], "maxima");
    expectSame(cpu.outputs[1], reference.outputs[1], "taps");
  });

  it.each([
    "float32",
    "bfloat16",
  ] as const)("norms of channels over two chunks, and their gradients, in %s", async (dtype) => {
    const leaves: Leaves = new Map();
    const x = random(leaves, [2, 2, 64, 130], dtype, 1, -1, 3);
    const [w, bias] = [random(leaves, [2], "float32", 2, 0.5, 2), random(leaves, [2], "float32", 3)];
    const saved = { eps: 1e-5, saved: dtype };
    const outputs = [
      b.composite("batchNorm", [x, w, bias], saved),
      b.composite("groupNorm", [x, w, bias], { ...saved, groups: 1 }),
    ].flatMap((out) => {
      const cotangent = b.widen(random(leaves, out.shape, dtype, 4));
      const loss = b.sum(b.mul(b.widen(out), cotangent), [0, 1, 2, 3]);
      const found = gradients(loss, [x, w, bias]);
      return [out, ...[x, w, bias].map((node) => found.get(node) ?? node)];
    });
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((node, i) => {
      const want = reference.outputs[i] ?? new Float64Array();
      // The reference adds 16640 numbers one after another: a parameter's gradient is off by up to 2⁻²⁴ · 16640 of the sum of their sizes.
      const bound = node.shape.length === 1 ? 2 : 2e-4;
      expectNear(cpu.outputs[i], want, (e) => bound + 2 * ulp(want[e] ?? 0, dtype), `${dtype} ${i}`);
    });
  });
});

describe.skipIf(loaded.addon === null)("planes and norms", () => {
  it("have the same bits for 1, 2, 3 and 8 threads", async () => {
    const leaves: Leaves = new Map();
    const axes = [window(34, 3, 2, 1), window(35, 3, 2, 1)];
    const x = random(leaves, [5, 8, 34, 35], "bfloat16", 1);
    const [w, bias] = [random(leaves, [8], "float32", 2), random(leaves, [8], "float32", 3)];
    const normalized = b.composite("batchNorm", [x, w, bias], { eps: 1e-5 });
    const pooled = b.composite("maxPool", [normalized], attributesOf(axes));
    const grown = b.composite("resample", [pooled], {
      ...attributesOf([scaled("linear", 17, 40), scaled("linear", 18, 31)]),
      divide: "none",
    });
    const loss = b.sum(b.mul(b.widen(grown), b.widen(grown)), [0, 1, 2, 3]);
    const found = gradients(loss, [x, w, bias]);
    const outputs = [grown, ...[x, w, bias].map((node) => found.get(node) ?? node)];
    await expectSameForThreads(outputs, leaves);
  });
});
