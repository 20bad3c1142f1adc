/**
 * Convolution over 1 or 2 axes and its two gradients. All three are one trilinear form, ⟨g, x ∗ w⟩, with one of its
 * operands left out, so each one's gradients are the other two. A transposed convolution is the input gradient.
 *
 * Attributes: `stride`, `dilation` (one number per spatial axis), `padding` (before each axis, then after each; a negative
 * number cuts off), `groups`, `dtype` of the result.
 */
import { BinadeError } from "../errors.ts";
import { isFloat } from "../formats/table.ts";
import { accumulatorOf, type Builder } from "./builder.ts";
import { type Attributes, type CompositeRow, listOf, type NativeCore, type Node, numberOf } from "./define.ts";
import { dtypeOf } from "./movement.ts";
import { commonDType } from "./pointwise.ts";
import { extent, type Shape, showShape, sizeOf } from "./shape.ts";
import { spanOf, type WindowAxis, windowAxes, windowCount } from "./windows.ts";

const REFERENCE = "Dumoulin, Visin 2016, arXiv:1603.07285";

/** A convolution's extents: x (batch, groups · channels, …input), w (groups · outputs, channels, …kernel), out (batch, groups · outputs, …output). */
export interface ConvolutionGeometry {
  readonly batch: number;
  readonly groups: number;
  /** Input channels of one group. */
  readonly channels: number;
  /** Output channels of one group. */
  readonly outputs: number;
  readonly axes: readonly WindowAxis[];
  readonly input: Shape;
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly output: Shape;
}

const plural = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;

function requireRanks(x: Shape, w: Shape, what: string): number {
  const rank = x.length - 2;
  if ((rank === 1 || rank === 2) && w.length === x.length) return rank;
  throw new BinadeError(
    "shape.invalid",
    `${what} ${showShape(x)} and weight ${showShape(w)}: expected (batch, channels, length) with a weight of 3 axes, or (batch, channels, height, width) with one of 4; reshape them`,
  );
}

/** The geometry of x ∗ w, or the sentence that says why there is none. */
export function geometryOf(x: Shape, w: Shape, attributes: Attributes): ConvolutionGeometry {
  const rank = requireRanks(x, w, "x");
  const groups = numberOf(attributes, "groups");
  const [outputs, channels] = [extent(w, 0), extent(w, 1)];
  if (!(Number.isInteger(groups) && groups >= 1 && outputs % groups === 0 && outputs > 0 && channels > 0)) {
    throw new BinadeError(
      "shape.invalid",
      `weight ${showShape(w)} with groups ${groups}: expected (out, in / groups, …) with out a multiple of groups; change groups or the weight`,
    );
  }
  if (extent(x, 1) !== channels * groups) {
    throw new BinadeError(
      "shape.mismatch",
      `x ${showShape(x)} has ${plural(extent(x, 1), "channel")} and weight ${showShape(w)} with groups ${groups} takes ${channels * groups}; make them equal`,
    );
  }
  const padding = listOf(attributes, "padding");
  const axes = windowAxes({ ...attributes, kernel: w.slice(2) });
  const [input, before, after] = [x.slice(2), padding.slice(0, rank), padding.slice(rank)];
  const padded = input.map((n, i) => n + (before[i] ?? 0) + (after[i] ?? 0));
  const output = axes.map((axis, i) => windowCount(axis, padded[i] ?? 0));
  if (padding.length !== 2 * rank || output.includes(0)) {
    throw new BinadeError(
      "shape.invalid",
      `a kernel that spans ${showShape(axes.map(spanOf))} does not fit into the input ${showShape(input)} with padding, ${showShape(padded)}; use more padding, or a smaller kernel or dilation`,
    );
  }
  return { batch: extent(x, 0), groups, channels, outputs: outputs / groups, axes, input, before, after, output };
}

/** Geometry of the convolution whose result has the shape of `g`. */
function geometryBehind(g: Shape, x: Shape, w: Shape, attributes: Attributes): ConvolutionGeometry {
  const geometry = geometryOf(x, w, attributes);
  const expected = [geometry.batch, geometry.groups * geometry.outputs, ...geometry.output];
  if (expected.length === g.length && expected.every((n, i) => n === g[i])) return geometry;
  throw new BinadeError(
    "shape.mismatch",
    `x ${showShape(x)} with weight ${showShape(w)} has the result ${showShape(expected)}, not ${showShape(g)}; make them equal`,
  );
}

const pair = (inputs: readonly Node[]): [Node, Node] => {
  const [a, w] = inputs;
  if (a === undefined || w === undefined || inputs.length !== 2)
    throw new BinadeError("internal", "internal: a convolution has two operands");
  const dtype = commonDType(inputs);
  if (!isFloat(dtype))
    throw new BinadeError("dtype.unsupported", `expected floating operands, got ${dtype}; cast them first`);
  return [a, w];
};

const inputShape = (g: Node, w: Node, attributes: Attributes): Shape => {
  requireRanks(g.shape, w.shape, "the cotangent");
  return [extent(g.shape, 0), extent(w.shape, 1) * numberOf(attributes, "groups"), ...listOf(attributes, "extents")];
};

const weightShape = (x: Node, g: Node, attributes: Attributes): Shape => [
  extent(g.shape, 1),
  Math.floor(extent(x.shape, 1) / numberOf(attributes, "groups")),
  ...listOf(attributes, "kernel"),
];

/** The attributes that all three forms share, without what only the gradients need. */
const shared = ({ stride, dilation, padding, groups }: Attributes): Attributes =>
  ({ stride, dilation, padding, groups }) as Attributes;

/** x with its padding, and with what it has to lose cut off. */
function padded(b: Builder, x: Node, { before, after, input }: ConvolutionGeometry): Node {
  const lead = x.shape.slice(0, 2);
  const cut = input.map((n, i) => n + Math.min(0, before[i] ?? 0) + Math.min(0, after[i] ?? 0));
  const cutStarts = before.map((n) => Math.max(0, -n));
  const inner = b.slice(x, [0, 0, ...cutStarts], [...lead, ...cut]);
  const whole = cut.map((n, i) => n + Math.max(0, before[i] ?? 0) + Math.max(0, after[i] ?? 0));
  const starts = before.map((n) => Math.max(0, n));
  return whole.every((n, i) => n === cut[i]) ? inner : b.pad(inner, [0, 0, ...starts], [...lead, ...whole]);
}

/** The transpose of `padded`. */
function unpadded(b: Builder, x: Node, { before, after, input }: ConvolutionGeometry): Node {
  const lead = x.shape.slice(0, 2);
  const cut = input.map((n, i) => n + Math.min(0, before[i] ?? 0) + Math.min(0, after[i] ?? 0));
  const inner = b.slice(x, [0, 0, ...before.map((n) => Math.max(0, n))], [...lead, ...cut]);
  const starts = before.map((n) => Math.max(0, -n));
  return cut.every((n, i) => n === input[i]) ? inner : b.pad(inner, [0, 0, ...starts], [...lead, ...input]);
}

const windowAttributes = (axes: readonly WindowAxis[]): Attributes => ({
  kernel: axes.map((axis) => axis.size),
  stride: axes.map((axis) => axis.stride),
  dilation: axes.map((axis) => axis.dilation),
});

const kernelOf = ({ axes }: ConvolutionGeometry): Shape => axes.map((axis) => axis.size);

/** The columns that a product needs: (batch, groups, channels · taps, positions), from the windows of x. */
function columns(b: Builder, x: Node, geometry: ConvolutionGeometry): Node {
  const { batch, groups, channels, axes, output } = geometry;
  const rank = axes.length;
  const seen = b.windows(padded(b, x, geometry), windowAttributes(axes)); // (N, G·C, …output, …kernel)
  const taps = axes.map((_, i) => 2 + rank + i);
  const positions = axes.map((_, i) => 2 + i);
  return b.reshape(b.permute(seen, [0, 1, ...taps, ...positions]), [
    batch,
    groups,
    channels * sizeOf(kernelOf(geometry)),
    sizeOf(output),
  ]);
}

/** The weight as (batch, groups, outputs, channels · taps). */
function filters(b: Builder, w: Node, geometry: ConvolutionGeometry): Node {
  const { batch, groups, outputs, channels } = geometry;
  const rows = b.reshape(w, [1, groups, outputs, channels * sizeOf(kernelOf(geometry))]);
  return b.broadcastTo(rows, [batch, ...rows.shape.slice(1)]);
}

const inGroups = (b: Builder, g: Node, { batch, groups, outputs, output }: ConvolutionGeometry): Node =>
  b.reshape(g, [batch, groups, outputs, sizeOf(output)]);

/** One kernel yields what differs in dtype alone: all other attributes are parameters of the core. */
const nativeCore = (core: string): NativeCore => ({
  family: "convolution",
  core,
  result: 0,
  convertsOperands: true,
  parameters: ({ stride, padding, dilation, groups, extents, kernel }) =>
    [stride, padding, dilation, groups, extents, kernel].flatMap((v) =>
      typeof v === "object" ? [v.length, ...v] : [Number(v ?? 0)],
    ),
});

/** x (N, G·C, …S) ∗ w (G·O, C, …K) → (N, G·O, …P): out[n, o, p] = Σ x[n, c, p · stride + k · dilation − padding] · w[o, c, k]. */
const convolution: CompositeRow = {
  kind: "composite",
  autocast: "narrow",
  ulps: 64,
  native: nativeCore("convolution"),
  reference: REFERENCE,
  infer: (inputs, attributes) => {
    const [x, w] = pair(inputs);
    const { batch, groups, outputs, output } = geometryOf(x.shape, w.shape, attributes);
    return { shape: [batch, groups * outputs, ...output], dtype: dtypeOf(attributes) };
  },
  decompose: (b, inputs, attributes) => {
    const [x, w] = pair(inputs);
    const geometry = geometryOf(x.shape, w.shape, attributes);
    const { batch, groups, outputs, output } = geometry;
    const product = b.matmul(filters(b, w, geometry), columns(b, x, geometry), dtypeOf(attributes));
    return b.reshape(product, [batch, groups * outputs, ...output]);
  },
  vjp: ({ b, g, ins, attributes, wanted }) => {
    const [x, w] = pair(ins);
    const cotangent = b.cast(g, x.dtype);
    return [
      () => inputGradient(b, cotangent, w, { ...attributes, extents: x.shape.slice(2), dtype: wanted[0] ?? x.dtype }),
      () => weightGradient(b, x, cotangent, { ...attributes, kernel: w.shape.slice(2), dtype: wanted[1] ?? w.dtype }),
    ];
  },
};

const inputGradient = (b: Builder, g: Node, w: Node, attributes: Attributes): Node =>
  b.composite("convolutionInputGradient", [g, w], attributes);
const weightGradient = (b: Builder, x: Node, g: Node, attributes: Attributes): Node =>
  b.composite("convolutionWeightGradient", [x, g], attributes);

/** g (N, G·O, …P), w (G·O, C, …K) → (N, G·C, `attributes.extents`): each g[n, o, p] · w[o, c, k] added where k's window took x from. */
const convolutionInputGradient: CompositeRow = {
  kind: "composite",
  autocast: "narrow",
  ulps: 64,
  native: nativeCore("convolutionInputGradient"),
  reference: REFERENCE,
  infer: (inputs, attributes) => {
    const [g, w] = pair(inputs);
    const shape = inputShape(g, w, attributes);
    geometryBehind(g.shape, shape, w.shape, attributes);
    return { shape, dtype: dtypeOf(attributes) };
  },
  decompose: (b, inputs, attributes) => {
    const [g, w] = pair(inputs);
    const geometry = geometryOf(inputShape(g, w, attributes), w.shape, attributes);
    const { batch, groups, channels, axes, input, before, after, output } = geometry;
    const acc = accumulatorOf(g.dtype);
    const product = b.matmul(b.transpose(filters(b, w, geometry)), inGroups(b, g, geometry), acc);
    const rank = axes.length;
    const shaped = b.reshape(product, [batch, groups * channels, ...kernelOf(geometry), ...output]);
    const positions = axes.map((_, i) => 2 + rank + i);
    const added = b.composite("overlapAdd", [b.permute(shaped, [0, 1, ...positions, ...axes.map((_, i) => 2 + i)])], {
      ...windowAttributes(axes),
      extents: input.map((n, i) => n + (before[i] ?? 0) + (after[i] ?? 0)),
      dtype: acc,
    });
    return b.cast(unpadded(b, added, geometry), dtypeOf(attributes));
  },
  vjp: ({ b, g, ins, attributes, wanted }) => {
    const [y, w] = pair(ins);
    const cotangent = b.cast(g, y.dtype);
    const form = shared(attributes);
    return [
      () => b.composite("convolution", [cotangent, w], { ...form, dtype: wanted[0] ?? y.dtype }),
      () => weightGradient(b, cotangent, y, { ...form, kernel: w.shape.slice(2), dtype: wanted[1] ?? w.dtype }),
    ];
  },
};

/** x (N, G·C, …S), g (N, G·O, …P) → (G·O, C, `attributes.kernel`): sums over pictures and positions. */
const convolutionWeightGradient: CompositeRow = {
  kind: "composite",
  autocast: "narrow",
  ulps: 64,
  native: nativeCore("convolutionWeightGradient"),
  reference: REFERENCE,
  infer: (inputs, attributes) => {
    const [x, g] = pair(inputs);
    requireRanks(x.shape, g.shape, "x");
    const shape = weightShape(x, g, attributes);
    geometryBehind(g.shape, x.shape, shape, attributes);
    return { shape, dtype: dtypeOf(attributes) };
  },
  decompose: (b, inputs, attributes) => {
    const [x, g] = pair(inputs);
    const shape = weightShape(x, g, attributes);
    const geometry = geometryOf(x.shape, shape, attributes);
    const { batch, groups, outputs, output } = geometry;
    const all = batch * sizeOf(output);
    // (groups, outputs, batch · positions) × (groups, batch · positions, channels · taps)
    const left = b.reshape(b.permute(inGroups(b, g, geometry), [1, 2, 0, 3]), [groups, outputs, all]);
    const seen = b.permute(columns(b, x, geometry), [1, 0, 3, 2]);
    const right = b.reshape(seen, [groups, all, extent(seen.shape, 3)]);
    return b.reshape(b.matmul(left, right, dtypeOf(attributes)), shape);
  },
  vjp: ({ b, g, ins, attributes, wanted }) => {
    const [x, y] = pair(ins);
    const cotangent = b.cast(g, x.dtype);
    const form = shared(attributes);
    return [
      () => inputGradient(b, y, cotangent, { ...form, extents: x.shape.slice(2), dtype: wanted[0] ?? x.dtype }),
      () => b.composite("convolution", [x, cotangent], { ...form, dtype: wanted[1] ?? y.dtype }),
    ];
  },
};

export const CONVOLUTION = { convolution, convolutionInputGradient, convolutionWeightGradient } as const;
