/** Convolutions of tensors, and their transposes. Channels come second: (batch, channels, length) or (batch, channels, height, width). */
import { BinadeError, showValue } from "../errors.ts";
import type { DType } from "../formats/index.ts";
import { build, type Node } from "../ir/graph.ts";
import { geometryOf } from "../ops/convolution.ts";
import type { Attributes } from "../ops/define.ts";
import { OPS } from "../ops/index.ts";
import type { Shape } from "../ops/shape.ts";
import { castOperands, inFunction } from "../precision/autocast.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import type { FunctionName } from "../precision/rules.ts";
import { requireOperands } from "./require.ts";
import { Tensor } from "./tensor.ts";

/** One number for every spatial axis, or one for each. */
export type PerAxis = number | readonly number[];

export interface ConvolutionOptions {
  /** Step from one window to the next. Default 1. */
  readonly stride?: PerAxis;
  /** Zeros before and after each axis; `same` keeps the extents (stride 1), with the odd zero behind. Default 0, which is `valid`. */
  readonly padding?: PerAxis | "same" | "valid";
  /** Step from one tap of a window to the next. Default 1. */
  readonly dilation?: PerAxis;
  /** Divides channels into groups that do not see each other. Default 1. */
  readonly groups?: number;
}

export interface TransposedConvolutionOptions {
  /** Step of the convolution that is transposed: the result is about this many times as large. Default 1. */
  readonly stride?: PerAxis;
  /** Rows and columns cut off on each side. Default 0. */
  readonly padding?: PerAxis;
  /** Rows and columns added behind, less than stride or dilation: they tell apart the inputs that one stride maps to one extent. Default 0. */
  readonly outputPadding?: PerAxis;
  /** Default 1. */
  readonly dilation?: PerAxis;
  /** Default 1. */
  readonly groups?: number;
}

/** How windows lie, as rows of convolutions take it. */
export interface ConvolutionForm {
  readonly stride: readonly number[];
  readonly dilation: readonly number[];
  /** Zeros before each axis, then after each; a negative number cuts off. */
  readonly padding: readonly number[];
  readonly groups: number;
}

const CONVOLUTION_KEYS = ["stride", "padding", "dilation", "groups"] as const;
const TRANSPOSED_KEYS = ["stride", "padding", "outputPadding", "dilation", "groups"] as const;

/** One integer from `low` on per axis. */
export function perAxis(subject: string, value: PerAxis, rank: number, low: number): readonly number[] {
  const list = typeof value === "number" ? Array<number>(rank).fill(value) : value;
  if (!Array.isArray(list) || list.length !== rank) {
    const shown = showValue(value);
    throw new BinadeError("option.invalid", `${subject}: expected a number or a list of ${rank}, got ${shown}`);
  }
  for (const n of list) requireInteger(subject, n, low);
  return list;
}

function requireAxes(subject: string, x: Shape, weight: Shape, rank: number): void {
  if (x.length === rank + 2 && weight.length === rank + 2) return;
  const expected = rank === 1 ? "(batch, channels, length)" : "(batch, channels, height, width)";
  throw new BinadeError(
    "shape.invalid",
    `${subject}: x [${x.join(", ")}] and weight [${weight.join(", ")}]: expected ${expected} and a weight of ${rank + 2} axes; reshape them`,
  );
}

/** Zeros before each axis, then after each. */
function paddingOf(
  subject: string,
  padding: ConvolutionOptions["padding"] & {},
  kernel: readonly number[],
  stride: readonly number[],
  dilation: readonly number[],
): readonly number[] {
  if (padding === "valid") return kernel.flatMap(() => [0, 0]);
  if (padding !== "same") {
    const each = perAxis(`${subject}: padding`, padding, kernel.length, 0);
    return [...each, ...each];
  }
  if (stride.some((n) => n !== 1)) {
    throw new BinadeError(
      "option.invalid",
      `${subject}: padding "same" with stride [${stride.join(", ")}] has no one meaning; give the padding in numbers`,
    );
  }
  const total = kernel.map((size, i) => (size - 1) * (dilation[i] ?? 1));
  const before = total.map((n) => Math.floor(n / 2));
  return [...before, ...total.map((n, i) => n - (before[i] ?? 0))];
}

/** Errors of the geometry, under the name of the function that was called. */
function checked<T>(subject: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof BinadeError) || error.message.startsWith(`${subject}: `)) throw error;
    throw new BinadeError(error.code, `${subject}: ${error.message.replace(/^convolution\w*: /, "")}`, {
      cause: error,
    });
  }
}

export type ConvolutionRow = "convolution" | "convolutionInputGradient" | "convolutionWeightGradient";

/** Runs `body` as the function `subject`, under whose name errors of the geometry are. */
export const inConvolution = <T>(subject: FunctionName, body: () => T): T =>
  checked(subject, () => inFunction(subject, body));

/** Input and weight as a row sees them, cast by autocast. */
export function convolutionOperands(row: ConvolutionRow, x: Tensor, weight: Tensor): readonly [Node, Node] {
  const [input, kernel] = castOperands(OPS[row], [x.node, weight.node]);
  if (input === undefined || kernel === undefined)
    throw new BinadeError("internal", `internal: ${row} lost an operand`);
  return [input, kernel];
}

/** Float32 sums plus a bias, one number per channel, rounded once. */
export function withChannelBias(subject: FunctionName, sums: Node, bias: Tensor, dtype: DType): Tensor {
  const channels = sums.shape[1] ?? 1;
  if (bias.shape.length !== 1 || bias.shape[0] !== channels) {
    throw new BinadeError(
      "shape.mismatch",
      `${subject}: bias [${bias.shape.join(", ")}] and ${channels} output channels do not fit; the bias has one number per output channel`,
    );
  }
  const column = build.reshape(build.widen(bias.node), [channels, ...sums.shape.slice(2).map(() => 1)]);
  return new Tensor(build.cast(build.add(sums, column), dtype));
}

function apply(
  subject: FunctionName,
  row: ConvolutionRow,
  [x, weight]: readonly [Node, Node],
  form: Attributes,
  bias: Tensor | undefined,
): Tensor {
  if (bias === undefined) return new Tensor(build.composite(row, [x, weight], { ...form, dtype: x.dtype }));
  const wide = x.dtype === "float64" ? "float64" : "float32";
  return withChannelBias(subject, build.composite(row, [x, weight], { ...form, dtype: wide }), bias, x.dtype);
}

/** Functions by the number of spatial axes. */
export type SpatialRank = 1 | 2;
export const convolutionName = (rank: SpatialRank): FunctionName => `conv${rank}d`;
export const transposedName = (rank: SpatialRank): FunctionName => `convTranspose${rank}d`;

/** The attributes of the convolution of operands of these shapes, checked. */
export function convolutionForm(
  rank: SpatialRank,
  x: Shape,
  weight: Shape,
  options: ConvolutionOptions,
): ConvolutionForm {
  const subject = convolutionName(rank);
  requireKnownKeys(subject, options, CONVOLUTION_KEYS);
  requireAxes(subject, x, weight, rank);
  const stride = perAxis(`${subject}: stride`, options.stride ?? 1, rank, 1);
  const dilation = perAxis(`${subject}: dilation`, options.dilation ?? 1, rank, 1);
  const groups = options.groups ?? 1;
  requireInteger(`${subject}: groups`, groups, 1);
  const padding = paddingOf(subject, options.padding ?? 0, weight.slice(2), stride, dilation);
  return { stride, padding, dilation, groups };
}

function convolve(
  rank: SpatialRank,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  options: ConvolutionOptions,
): Tensor {
  const subject = convolutionName(rank);
  requireOperands(subject, { x, weight }, { bias });
  const form = convolutionForm(rank, x.shape, weight.shape, options);
  return inConvolution(subject, () =>
    apply(subject, "convolution", convolutionOperands("convolution", x, weight), { ...form }, bias),
  );
}

/** The attributes of the convolution whose input gradient a transposed one is, and the extents of the result, checked. */
export function transposedForm(
  rank: SpatialRank,
  x: Shape,
  weight: Shape,
  options: TransposedConvolutionOptions,
): { readonly form: ConvolutionForm; readonly extents: Shape } {
  const subject = transposedName(rank);
  requireKnownKeys(subject, options, TRANSPOSED_KEYS);
  requireAxes(subject, x, weight, rank);
  const stride = perAxis(`${subject}: stride`, options.stride ?? 1, rank, 1);
  const dilation = perAxis(`${subject}: dilation`, options.dilation ?? 1, rank, 1);
  const padding = perAxis(`${subject}: padding`, options.padding ?? 0, rank, 0);
  const more = perAxis(`${subject}: outputPadding`, options.outputPadding ?? 0, rank, 0);
  const groups = options.groups ?? 1;
  requireInteger(`${subject}: groups`, groups, 1);
  if (more.some((n, i) => n > 0 && n >= Math.max(stride[i] ?? 1, dilation[i] ?? 1))) {
    throw new BinadeError(
      "value.range",
      `${subject}: outputPadding [${more.join(", ")}] is not less than stride [${stride.join(", ")}] or dilation [${dilation.join(", ")}]; pad the result instead`,
    );
  }
  if (x[1] !== weight[0]) {
    throw new BinadeError(
      "shape.mismatch",
      `${subject}: x [${x.join(", ")}] has ${x[1]} channels and weight [${weight.join(", ")}] takes ${weight[0]}; the weight is (in, out / groups, …)`,
    );
  }
  const kernel = weight.slice(2);
  const whole = x.slice(2).map((n, i) => (n - 1) * (stride[i] ?? 1) + ((kernel[i] ?? 1) - 1) * (dilation[i] ?? 1) + 1);
  const extents = whole.map((n, i) => n - 2 * (padding[i] ?? 0) + (more[i] ?? 0));
  if (extents.some((n) => n < 1)) {
    throw new BinadeError(
      "shape.invalid",
      `${subject}: padding [${padding.join(", ")}] cuts everything off a result of [${whole.join(", ")}]; use less padding`,
    );
  }
  // What the output padding adds behind, the convolution that is transposed finds as that much less padding.
  const form = { stride, dilation, groups, padding: [...padding, ...padding.map((n, i) => n - (more[i] ?? 0))] };
  checked(subject, () => geometryOf([x[0] ?? 0, (weight[1] ?? 0) * groups, ...extents], weight, { ...form }));
  return { form, extents };
}

function convolveTransposed(
  rank: SpatialRank,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  options: TransposedConvolutionOptions,
): Tensor {
  const subject = transposedName(rank);
  requireOperands(subject, { x, weight }, { bias });
  const { form, extents } = transposedForm(rank, x.shape, weight.shape, options);
  return inConvolution(subject, () => {
    const operands = convolutionOperands("convolutionInputGradient", x, weight);
    return apply(subject, "convolutionInputGradient", operands, { ...form, extents }, bias);
  });
}

/**
 * Cross-correlation along one axis, what networks call convolution: out[n, o, p] = Σ x[n, c, p · stride + k · dilation −
 * padding] · weight[o, c, k] + bias[o]. Sums and bias are float32, rounded once.
 *
 * @param x (batch, in, length) @param weight (out, in / groups, taps) @param bias (out), kept in its own dtype
 * @returns (batch, out, …) in x's dtype, or in the compute dtype under autocast.
 * @throws BinadeError `shape.mismatch` or `shape.invalid` for channels, groups or a kernel that do not fit; `value.range`,
 * `option.invalid` or `option.unknown` for options; `dtype.mismatch` if x and weight differ outside of autocast.
 * @example
 * conv1d(zeros([8, 4, 100]), zeros([16, 4, 5]), zeros([16]), { padding: "same" }); // [8, 16, 100]
 */
export function conv1d(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvolutionOptions = {}): Tensor {
  return convolve(1, x, weight, bias, options);
}

/**
 * Cross-correlation over height and width, otherwise as `conv1d`.
 *
 * The cpu device computes 3×3 kernels of stride 1 in tiles of 2 × 2 outputs (Winograd's filtering; docs/numerics.md): an infinity in x may
 * make outputs of a tile NaN that do not see it. It never becomes finite.
 *
 * @param x (batch, in, height, width) @param weight (out, in / groups, height, width) @param bias (out)
 * @returns (batch, out, …): ⌊(extent + 2 · padding − dilation · (kernel − 1) − 1) / stride⌋ + 1 along each axis.
 * @throws BinadeError as `conv1d`.
 * @example
 * conv2d(zeros([8, 3, 32, 32]), zeros([16, 3, 3, 3]), zeros([16]), { stride: 2, padding: 1 }); // [8, 16, 16, 16]
 */
export function conv2d(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvolutionOptions = {}): Tensor {
  return convolve(2, x, weight, bias, options);
}

/**
 * The transpose of `conv1d` (its gradient with respect to x), used forward: it spreads each element over a window.
 *
 * @param x (batch, in, length) @param weight (in, out / groups, taps) @param bias (out), kept in its own dtype
 * @returns (batch, out, (length − 1) · stride − 2 · padding + dilation · (taps − 1) + outputPadding + 1).
 * @throws BinadeError as `conv1d`.
 * @example
 * convTranspose1d(zeros([8, 16, 50]), zeros([16, 4, 4]), undefined, { stride: 2, padding: 1 }); // [8, 4, 100]
 */
export function convTranspose1d(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: TransposedConvolutionOptions = {},
): Tensor {
  return convolveTransposed(1, x, weight, bias, options);
}

/**
 * The transpose of `conv2d`, otherwise as `convTranspose1d`.
 *
 * @param x (batch, in, height, width) @param weight (in, out / groups, height, width) @param bias (out)
 * @throws BinadeError as `conv1d`.
 * @example
 * convTranspose2d(zeros([8, 16, 8, 8]), zeros([16, 4, 2, 2]), undefined, { stride: 2 }); // [8, 4, 16, 16]
 */
export function convTranspose2d(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: TransposedConvolutionOptions = {},
): Tensor {
  return convolveTransposed(2, x, weight, bias, options);
}
