/** Cases of the gradient check with geometry: convolutions, norms of channels, pooling. */
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { sizeOf } from "../../src/ops/shape.ts";
import { attributesOf, type TapAxis } from "../../src/ops/taps.ts";
import type { GradientCase } from "../support/gradient-check.ts";
import { uniforms } from "../support/random.ts";

export const at = (nodes: readonly Node[], i: number): Node => {
  const node = nodes[i];
  if (node === undefined) throw new Error(`no input ${i}`);
  return node;
};
export const first =
  (f: (x: Node) => Node): GradientCase["make"] =>
  ([x]) =>
    f(at(x === undefined ? [] : [x], 0));
export const indices = (shape: readonly number[]): Node => createInput(shape, "int32");

export const squares = (x: Node): Node => b.mul(x, x);

/** The three forms of convolution over one and two axes: x (or its cotangent), then the weight (or the result's cotangent). */
export function convolutionCases(): Record<string, GradientCase[]> {
  const forms = [
    { x: [2, 2, 5], w: [2, 1, 2], g: [2, 2, 2], form: { stride: [2], padding: [0, 0], dilation: [2], groups: 2 } },
    {
      x: [1, 2, 4, 3],
      w: [2, 2, 3, 2],
      g: [1, 2, 2, 2],
      form: { stride: [2, 1], padding: [1, -1, 0, 1], dilation: [1, 1], groups: 1 },
    },
  ];
  const of = (name: "convolution" | "convolutionInputGradient" | "convolutionWeightGradient"): GradientCase[] =>
    forms.map(({ x, w, g, form }) => {
      const shapes = { convolution: [x, w], convolutionInputGradient: [g, w], convolutionWeightGradient: [x, g] }[name];
      const attributes = { ...form, extents: x.slice(2), kernel: w.slice(2), dtype: "float64" };
      return { shapes, make: (xs) => squares(b.composite(name, xs, attributes)) };
    });
  return {
    convolution: of("convolution"),
    convolutionInputGradient: of("convolutionInputGradient"),
    convolutionWeightGradient: of("convolutionWeightGradient"),
  };
}

/** Norms of channels: x, then weight and bias; their statistics over one axis, inner axes, and the outer ones. */
export function channelNormCases(): Record<string, GradientCase[]> {
  const saved = { eps: 1e-2, saved: "float64", dtype: "float64" };
  const over = (name: "meanOver" | "varianceOver" | "standardize"): GradientCase[] =>
    [[0], [2], [0, 2]].map((axes) => ({
      shapes: [[4, 2, 3]],
      make: first((x) => squares(b.composite(name, [x], { ...saved, axes }))),
    }));
  const norm = (name: "batchNorm" | "groupNorm", ...shapes: readonly (readonly number[])[]): GradientCase[] =>
    shapes.map((x) => ({
      shapes: [x, [4], [4]],
      make: (xs) => squares(b.composite(name, xs, { ...saved, groups: 2 })),
    }));
  /** Of backward: g and x, then `parameters` operands of one number per channel; the variance is positive. */
  const backward = (
    name: "batchNormTotal" | "batchNormAlong" | "batchNormBackward",
    parameters: number,
  ): GradientCase[] =>
    [
      [3, 2],
      [2, 2, 2],
    ].map((x) => ({
      shapes: [x, x, ...Array.from({ length: parameters }, () => [2])],
      low: 0.5,
      make: (xs) => squares(b.composite(name, xs, { eps: 1e-2 })),
    }));
  return {
    batchNormTotal: backward("batchNormTotal", 2),
    batchNormAlong: backward("batchNormAlong", 2),
    batchNormBackward: backward("batchNormBackward", 5),
    meanOver: over("meanOver"),
    varianceOver: over("varianceOver"),
    standardize: over("standardize"),
    batchNorm: norm("batchNorm", [3, 4], [3, 4, 2], [1, 4, 2, 2]),
    groupNorm: norm("groupNorm", [2, 4], [2, 4, 2]),
    batchNormWith: [
      {
        shapes: [[3, 2, 2], [2], [2], [2], [2]],
        low: 0.5,
        make: (xs) => squares(b.composite("batchNormWith", xs, { eps: 1e-2 })),
      },
    ],
  };
}

/** Rows over the taps of the last axes: one axis and two, windows that overlap and that do not, weights, uneven parts. */
export function poolingCases(): Record<string, GradientCase[]> {
  const zero = { size: 0, stride: 0, padding: 0, dilation: 0, scale: 0, aligned: 0 };
  const overlapping: TapAxis = {
    ...zero,
    kind: "window",
    input: 5,
    output: 3,
    size: 3,
    stride: 2,
    padding: 1,
    dilation: 1,
  };
  const apart: TapAxis = { ...zero, kind: "window", input: 4, output: 2, size: 2, stride: 2, dilation: 1 };
  const linear: TapAxis = { ...zero, kind: "linear", input: 3, output: 5, scale: 0.6 };
  const axes: readonly (readonly [readonly TapAxis[], string])[] = [
    [[overlapping], "taps"],
    [[overlapping, apart], "size"],
    [[{ ...zero, kind: "adaptive", input: 5, output: 3 }], "taps"],
    [[{ ...zero, kind: "nearest", input: 3, output: 4, scale: 0.75 }, linear], "none"],
  ];
  const from = (key: "input" | "output", list: readonly TapAxis[]): number[] => [2, ...list.map((axis) => axis[key])];
  const linearCases = (name: "resample" | "upsample" | "resampleBackward"): GradientCase[] =>
    axes.map(([list, divide]) => ({
      shapes: [from(name === "resampleBackward" ? "output" : "input", list)],
      make: first((x) => squares(b.composite(name, [x], { ...attributesOf(list), divide }))),
    }));
  const pools = [[overlapping], [overlapping, apart], [apart, overlapping]];
  return {
    resample: linearCases("resample"),
    upsample: linearCases("upsample"),
    resampleBackward: linearCases("resampleBackward"),
    maxPool: pools.map((list) => ({
      shapes: [from("input", list)],
      make: first((x) => squares(b.composite("maxPool", [x], attributesOf(list)))),
    })),
    maxPoolBackward: pools.map((list) => {
      const taps = indices(from("output", list));
      const values = uniforms(3, sizeOf(taps.shape), 0, sizeOf(list.map(({ size }) => size))).map(Math.floor);
      return {
        shapes: [from("output", list)],
        extra: new Map([[taps, values]]),
        make: first((g) => squares(b.composite("maxPoolBackward", [g, taps], attributesOf(list)))),
      };
    }),
  };
}
