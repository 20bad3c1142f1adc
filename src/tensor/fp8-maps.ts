/** What 8-bit recipes multiply: linear maps and convolutions, with the axis along which each of their products sums. */
import { BinadeError } from "../errors.ts";
import { build, type Node } from "../ir/graph.ts";
import { geometryOf } from "../ops/convolution.ts";
import type { Attributes } from "../ops/define.ts";
import { extent, type Shape, sizeOf } from "../ops/shape.ts";
import { inFunction } from "../precision/autocast.ts";
import type { FunctionName } from "../precision/rules.ts";
import {
  type ConvolutionOptions,
  type ConvolutionRow,
  convolutionForm,
  convolutionName,
  convolutionOperands,
  inConvolution,
  type SpatialRank,
  type TransposedConvolutionOptions,
  transposedForm,
  transposedName,
  withChannelBias,
} from "./convolution.ts";
import type { BilinearMap, Fp8Operand } from "./fp8-product.ts";
import { linearOperands, withBias } from "./functions.ts";
import { Tensor } from "./tensor.ts";

/** All axes but the last as one. */
const rowsOf = (shape: Shape): readonly [number, number] => [
  sizeOf(shape.slice(0, -1)),
  extent(shape, shape.length - 1),
];
const asRows = (x: Tensor): Tensor => x.reshape(rowsOf(x.shape));
/** Blocks along the last axis, and along all the others as one. */
const alongLast = (shape: Shape): Shape => [...rowsOf(shape), 1];
const alongRows = (shape: Shape): Shape => [1, ...rowsOf(shape)];

/** x wᵀ: x (…, in), weight (out, in). */
export const LINEAR_MAP: BilinearMap = {
  within: (body) => inFunction("linear", body),
  operands: (x, weight) => checkedDTypes("linear", linearOperands(x, weight)),
  outputShape: (x, weight) => [...x.slice(0, -1), extent(weight, 0)],
  forward: {
    operands: [
      ["input", alongLast],
      ["weight", alongLast],
    ],
    multiply: (x, weight, shape) => asRows(x).matmul(weight.transpose()).reshape(shape),
  },
  inputGradient: {
    operands: [
      ["gradient", alongLast],
      ["weight", alongRows],
    ],
    multiply: (g, weight, shape) => asRows(g).matmul(weight).reshape(shape),
  },
  weightGradient: {
    operands: [
      ["gradient", alongRows],
      ["input", alongRows],
    ],
    multiply: (g, x) => asRows(g).transpose().matmul(asRows(x)),
  },
  withBias: (sums, bias, { dtype }) => withBias(sums, bias, dtype),
};

/** Blocks along axis 1, the channels, of which each group has its own. */
const alongChannels =
  (groups: number) =>
  ([first = 0, channels = 0, ...spatial]: Shape): Shape => [first * groups, channels / groups, sizeOf(spatial)];
/** Blocks along axis 0 of a weight, which has the channels of all groups there. */
const alongFirstChannels =
  (groups: number) =>
  ([channels = 0, ...rest]: Shape): Shape => [groups, channels / groups, sizeOf(rest)];
const alongBatch = ([batch = 0, ...rest]: Shape): Shape => [1, batch, sizeOf(rest)];
/** A weight has the channels of one group on axis 1. */
const alongSecondChannels = alongChannels(1);

/** Sums over batch and positions. An element of the input meets others at every tap, so that only along the batch do blocks of both stay together. */
const BATCH_SUM = [
  ["gradient", alongBatch],
  ["input", alongBatch],
] as const satisfies readonly [Fp8Operand, Fp8Operand];

const FLOAT32 = { dtype: "float32" } as const;

/** Convolution: weight (out, in / groups, …kernel). Forward sums over in and taps, the input's gradient over out and taps. */
export function convolutionMap(rank: SpatialRank, options: ConvolutionOptions): BilinearMap {
  const subject = convolutionName(rank);
  const { groups = 1 } = options;
  const form = (x: Shape, weight: Shape): Attributes => ({ ...convolutionForm(rank, x, weight, options), ...FLOAT32 });
  return {
    ...convolving(subject),
    operands: (x, weight) => checkedDTypes(subject, convolutionOperands("convolution", x, weight)),
    outputShape: (x, weight) => {
      const { batch, outputs, output } = geometryOf(x, weight, form(x, weight));
      return [batch, groups * outputs, ...output];
    },
    forward: {
      operands: [
        ["input", alongChannels(groups)],
        ["weight", alongSecondChannels],
      ],
      multiply: (x, weight) => row("convolution", x, weight, form(x.shape, weight.shape)),
    },
    inputGradient: {
      operands: [
        ["gradient", alongChannels(groups)],
        ["weight", alongFirstChannels(groups)],
      ],
      multiply: (g, weight, shape) =>
        row("convolutionInputGradient", g, weight, { ...form(shape, weight.shape), extents: shape.slice(2) }),
    },
    weightGradient: {
      operands: BATCH_SUM,
      multiply: (g, x, shape) =>
        row("convolutionWeightGradient", x, g, { ...form(x.shape, shape), kernel: shape.slice(2) }),
    },
  };
}

/** Transposed convolution: weight (in, out / groups, …kernel). The rows are those of the convolution that is transposed. */
export function transposedConvolutionMap(rank: SpatialRank, options: TransposedConvolutionOptions): BilinearMap {
  const subject = transposedName(rank);
  const { groups = 1 } = options;
  const form = (x: Shape, weight: Shape): Attributes => ({
    ...transposedForm(rank, x, weight, options).form,
    ...FLOAT32,
  });
  return {
    ...convolving(subject),
    operands: (x, weight) => checkedDTypes(subject, convolutionOperands("convolutionInputGradient", x, weight)),
    outputShape: (x, weight) => [
      extent(x, 0),
      extent(weight, 1) * groups,
      ...transposedForm(rank, x, weight, options).extents,
    ],
    forward: {
      operands: [
        ["input", alongChannels(groups)],
        ["weight", alongFirstChannels(groups)],
      ],
      multiply: (x, weight, shape) =>
        row("convolutionInputGradient", x, weight, { ...form(x.shape, weight.shape), extents: shape.slice(2) }),
    },
    inputGradient: {
      operands: [
        ["gradient", alongChannels(groups)],
        ["weight", alongSecondChannels],
      ],
      multiply: (g, weight, shape) => row("convolution", g, weight, form(shape, weight.shape)),
    },
    weightGradient: {
      operands: BATCH_SUM,
      multiply: (g, x, shape) =>
        row("convolutionWeightGradient", g, x, { ...form(x.shape, shape), kernel: shape.slice(2) }),
    },
  };
}

const row = (name: ConvolutionRow, a: Tensor, b: Tensor, attributes: Attributes): Tensor =>
  new Tensor(build.composite(name, [a.node, b.node], attributes));

const convolving = (subject: FunctionName): Pick<BilinearMap, "within" | "withBias"> => ({
  within: (body) => inConvolution(subject, body),
  withBias: (sums, bias, { dtype }) => withChannelBias(subject, sums, bias, dtype),
});

function checkedDTypes(subject: FunctionName, [input, weight]: readonly [Node, Node]): readonly [Node, Node] {
  if (input.dtype !== weight.dtype) {
    throw new BinadeError(
      "dtype.mismatch",
      `${subject}: x is ${input.dtype} and weight ${weight.dtype}; cast one of them, or use autocast`,
    );
  }
  if (input.dtype === "float32" || input.dtype === "float16" || input.dtype === "bfloat16") return [input, weight];
  throw new BinadeError(
    "dtype.unsupported",
    `${subject}: 8-bit recipes take float32, float16 or bfloat16, got ${input.dtype}; cast x and weight`,
  );
}
