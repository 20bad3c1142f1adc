/** Pooling of pictures and sequences, and up-sampling. Channels come second: (batch, channels, length) or (…, height, width). */
import { BinadeError, showValue } from "../errors.ts";
import { build } from "../ir/graph.ts";
import type { Attributes } from "../ops/define.ts";
import { attributesOf, type TapAxis } from "../ops/taps.ts";
import { isPositive, requireInteger, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { composite } from "./apply.ts";
import { type PerAxis, perAxis } from "./convolution.ts";
import { requireTensor, Tensor } from "./tensor.ts";

export interface PoolOptions {
  readonly kernelSize: PerAxis;
  /** Step from one window to the next. Default the kernel size. */
  readonly stride?: PerAxis;
  /** Rows and columns added on each side, at most half of the kernel. Default 0. */
  readonly padding?: PerAxis;
}

export interface MaxPoolOptions extends PoolOptions {
  /** Step from one tap of a window to the next. Default 1. */
  readonly dilation?: PerAxis;
}

export interface AveragePoolOptions extends PoolOptions {
  /** Divide by the kernel's size everywhere, with zeros outside; false divides by how many elements lie inside. Default true. */
  readonly countIncludePad?: boolean;
}

const NO_TAPS: Omit<TapAxis, "kind" | "input" | "output"> = {
  size: 0,
  stride: 0,
  padding: 0,
  dilation: 0,
  scale: 0,
  aligned: 0,
};

const EXPECTED: Readonly<Record<number, string>> = {
  1: "(batch, channels, length)",
  2: "(batch, channels, height, width)",
};

/** The extents of the `rank` last axes of a tensor that has two more. */
function extentsOf(subject: string, x: Tensor, rank: number): readonly number[] {
  requireTensor(`${subject}: x`, x);
  if (x.shape.length === rank + 2) return x.shape.slice(2);
  throw new BinadeError(
    "shape.invalid",
    `${subject}: x is [${x.shape.join(", ")}], expected ${EXPECTED[rank]}; reshape it`,
  );
}

function windowAxis(subject: string, axis: Omit<TapAxis, "output">): TapAxis {
  const { input, size, stride, padding, dilation } = axis;
  const span = (size - 1) * dilation + 1;
  if (2 * padding > span) {
    throw new BinadeError(
      "shape.invalid",
      `${subject}: padding ${padding} is more than half of a window of ${span} elements; some windows would hold nothing, so pad less`,
    );
  }
  const output = Math.floor((input + 2 * padding - span) / stride) + 1;
  if (output < 1 || input < 1) {
    throw new BinadeError(
      "shape.invalid",
      `${subject}: a window of ${span} elements does not fit into ${input} with padding ${padding}; take a smaller kernel or dilation, or larger pictures`,
    );
  }
  return { ...axis, output };
}

function windowAxes(subject: string, x: Tensor, rank: number, options: MaxPoolOptions): readonly TapAxis[] {
  const extents = extentsOf(subject, x, rank);
  const of = (key: string, value: PerAxis, low: number): readonly number[] =>
    perAxis(`${subject}: ${key}`, value, rank, low);
  const size = of("kernelSize", options.kernelSize, 1);
  const stride = of("stride", options.stride ?? options.kernelSize, 1);
  const padding = of("padding", options.padding ?? 0, 0);
  const dilation = of("dilation", options.dilation ?? 1, 1);
  return extents.map((input, i) =>
    windowAxis(subject, {
      ...NO_TAPS,
      kind: "window",
      input,
      size: size[i] ?? 1,
      stride: stride[i] ?? 1,
      padding: padding[i] ?? 0,
      dilation: dilation[i] ?? 1,
    }),
  );
}

function pooled(
  name: "maxPool" | "resample" | "upsample",
  x: Tensor,
  axes: readonly TapAxis[],
  extra: Attributes,
): Tensor {
  return new Tensor(composite(name, [x.node], { ...attributesOf(axes), ...extra }));
}

function maxPool(subject: string, x: Tensor, rank: number, options: MaxPoolOptions): Tensor {
  requireKnownKeys(subject, options, ["kernelSize", "stride", "padding", "dilation"]);
  return pooled("maxPool", x, windowAxes(subject, x, rank, options), {});
}

function averagePool(subject: string, x: Tensor, rank: number, options: AveragePoolOptions): Tensor {
  requireKnownKeys(subject, options, ["kernelSize", "stride", "padding", "countIncludePad"]);
  const { countIncludePad = true, ...windows } = options;
  return pooled("resample", x, windowAxes(subject, x, rank, windows), { divide: countIncludePad ? "size" : "taps" });
}

/**
 * The greatest element of every window. The gradient goes to the first of equal ones, row by row; a window with a NaN gives NaN.
 *
 * @param x (batch, channels, length) floating
 * @returns (batch, channels, ⌊(length + 2 padding − dilation (kernelSize − 1) − 1) / stride⌋ + 1), x's dtype.
 * @throws BinadeError `shape.invalid` for windows that do not fit; `value.range`, `option.invalid` or `option.unknown` for a
 * bad option; `dtype.unsupported` for integers.
 * @example
 * maxPool1d(zeros([8, 16, 32]), { kernelSize: 2 }); // [8, 16, 16]
 */
export const maxPool1d = (x: Tensor, options: MaxPoolOptions): Tensor => maxPool("maxPool1d", x, 1, options);

/**
 * `maxPool1d` over two axes: numbers for both, or [height, width].
 *
 * @example
 * maxPool2d(zeros([8, 16, 32, 32]), { kernelSize: 3, stride: 2, padding: 1 }); // [8, 16, 16, 16]
 */
export const maxPool2d = (x: Tensor, options: MaxPoolOptions): Tensor => maxPool("maxPool2d", x, 2, options);

/**
 * The mean of every window: summed in float32, rounded once.
 *
 * @param x (batch, channels, length) floating
 * @returns (batch, channels, ⌊(length + 2 padding − kernelSize) / stride⌋ + 1), x's dtype.
 * @throws BinadeError as `maxPool1d`.
 * @example
 * avgPool1d(zeros([8, 16, 32]), { kernelSize: 3, stride: 2, padding: 1, countIncludePad: false }); // [8, 16, 16]
 */
export const avgPool1d = (x: Tensor, options: AveragePoolOptions): Tensor => averagePool("avgPool1d", x, 1, options);

/**
 * `avgPool1d` over two axes: numbers for both, or [height, width].
 *
 * @example
 * avgPool2d(zeros([8, 16, 32, 32]), { kernelSize: 2 }); // [8, 16, 16, 16]
 */
export const avgPool2d = (x: Tensor, options: AveragePoolOptions): Tensor => averagePool("avgPool2d", x, 2, options);

/** Window o of O over I elements reaches from ⌊o I / O⌋ to ⌈(o + 1) I / O⌉. */
function adaptiveAxes(subject: string, x: Tensor, rank: number, outputSize: PerAxis): readonly TapAxis[] {
  const output = perAxis(`${subject}: outputSize`, outputSize, rank, 1);
  return extentsOf(subject, x, rank).map((input, i) => {
    const axis: TapAxis = { ...NO_TAPS, kind: "adaptive", input, output: output[i] ?? 1 };
    if (input >= 1 && (input + 1) * (axis.output + 1) < 2 ** 31) return axis;
    throw new BinadeError(
      "shape.invalid",
      `${subject}: ${input} elements do not pool into ${axis.output}; expected at least one element, and a product below 2^31`,
    );
  });
}

function adaptiveAverage(subject: string, x: Tensor, rank: number, outputSize: PerAxis): Tensor {
  const axes = adaptiveAxes(subject, x, rank, outputSize);
  if (axes.some(({ output }) => output !== 1)) return pooled("resample", x, axes, { divide: "taps" });
  // One mean per channel is a reduction, which takes up what comes before it.
  const mean = build.mean(
    x.node,
    axes.map((_, i) => 2 + i),
  );
  return new Tensor(build.reshape(mean, [...x.shape.slice(0, 2), ...axes.map(() => 1)]));
}

/**
 * Means of windows that divide the last axis as evenly as possible into `outputSize`.
 *
 * @param x (batch, channels, length) floating
 * @returns (batch, channels, outputSize), x's dtype.
 * @throws BinadeError `shape.invalid`; `value.range` or `option.invalid` for a bad size.
 * @example
 * adaptiveAvgPool1d(zeros([8, 16, 30]), 4); // [8, 16, 4]
 */
export const adaptiveAvgPool1d = (x: Tensor, outputSize: PerAxis): Tensor =>
  adaptiveAverage("adaptiveAvgPool1d", x, 1, outputSize);

/**
 * `adaptiveAvgPool1d` over two axes: a number for both, or [height, width]. Size 1 is the mean of each channel.
 *
 * @example
 * adaptiveAvgPool2d(zeros([8, 64, 7, 9]), 1); // [8, 64, 1, 1]
 */
export const adaptiveAvgPool2d = (x: Tensor, outputSize: PerAxis): Tensor =>
  adaptiveAverage("adaptiveAvgPool2d", x, 2, outputSize);

/**
 * The greatest elements of the windows of `adaptiveAvgPool1d`, otherwise as `maxPool1d`.
 *
 * @example
 * adaptiveMaxPool1d(zeros([8, 16, 30]), 4); // [8, 16, 4]
 */
export const adaptiveMaxPool1d = (x: Tensor, outputSize: PerAxis): Tensor =>
  pooled("maxPool", x, adaptiveAxes("adaptiveMaxPool1d", x, 1, outputSize), {});

/**
 * `adaptiveMaxPool1d` over two axes: a number for both, or [height, width].
 *
 * @example
 * adaptiveMaxPool2d(zeros([8, 64, 7, 9]), [2, 3]); // [8, 64, 2, 3]
 */
export const adaptiveMaxPool2d = (x: Tensor, outputSize: PerAxis): Tensor =>
  pooled("maxPool", x, adaptiveAxes("adaptiveMaxPool2d", x, 2, outputSize), {});

export interface UpsampleOptions {
  /** Result's extents: one number for all axes, or one for each. Either this or `scaleFactor`. */
  readonly size?: PerAxis;
  /** How many times as large the result is, rounded down: > 0, a number or one for each axis. */
  readonly scaleFactor?: PerAxis;
  /** Default nearest; bilinear is for pictures. */
  readonly mode?: "nearest" | "bilinear";
  /** Bilinear: the corners of both pictures are the same points, instead of their outer edges. Default false. */
  readonly alignCorners?: boolean;
}

/** Extents, and how far apart neighbours of the result lie in x. */
function scaling(x: Tensor, { size, scaleFactor }: UpsampleOptions): { output: number[]; steps: number[] } {
  const extents = x.shape.slice(2);
  if ((size === undefined) === (scaleFactor === undefined)) {
    throw new BinadeError("option.invalid", "upsample: expected either size or scaleFactor; give one of them");
  }
  if (size !== undefined) {
    const output = [...perAxis("upsample: size", size, extents.length, 1)];
    return { output, steps: output.map((n, i) => (extents[i] ?? 0) / n) };
  }
  const factors = typeof scaleFactor === "number" ? extents.map(() => scaleFactor) : (scaleFactor ?? []);
  if (factors.length !== extents.length) {
    throw new BinadeError(
      "option.invalid",
      `upsample: scaleFactor: expected a number or a list of ${extents.length}, got ${showValue(scaleFactor)}`,
    );
  }
  for (const factor of factors) requireNumber("upsample: scaleFactor", factor, isPositive, "a finite number > 0");
  return { output: factors.map((f, i) => Math.floor((extents[i] ?? 0) * f)), steps: factors.map((f) => 1 / f) };
}

/**
 * Pictures or sequences of another size: each element of the result is its nearest element of x, or a mean of its four
 * neighbours. The index of the nearest, and the weights, are PyTorch's `interpolate` in float32.
 *
 * @param x (batch, channels, height, width), for nearest also (batch, channels, length), floating
 * @returns (batch, channels, …size): float32 under autocast, else x's dtype.
 * @throws BinadeError `shape.invalid` for another rank or an empty result; `option.invalid`, `option.unknown` or
 * `value.range` for a bad option.
 * @example
 * upsample(zeros([8, 16, 4, 4]), { scaleFactor: 2, mode: "bilinear" }); // [8, 16, 8, 8]
 */
export function upsample(x: Tensor, options: UpsampleOptions): Tensor {
  requireTensor("upsample: x", x);
  requireKnownKeys("upsample", options, ["size", "scaleFactor", "mode", "alignCorners"]);
  const { mode = "nearest", alignCorners = false } = options;
  if (mode !== "nearest" && mode !== "bilinear") {
    const sentence = `upsample: mode is ${showValue(mode)}, expected "nearest" or "bilinear"`;
    throw new BinadeError("option.invalid", sentence);
  }
  if (alignCorners && mode === "nearest") {
    throw new BinadeError("option.invalid", "upsample: alignCorners is for bilinear; leave it out, or choose the mode");
  }
  extentsOf("upsample", x, x.shape.length === 3 && mode === "nearest" ? 1 : 2);
  const { output, steps } = scaling(x, options);
  const axes = x.shape.slice(2).map((input, i): TapAxis => {
    const [n, step] = [output[i] ?? 0, steps[i] ?? 1];
    if (input < 1 || n < 1) {
      throw new BinadeError(
        "shape.invalid",
        `upsample: [${x.shape.join(", ")}] would become [${[...x.shape.slice(0, 2), ...output].join(", ")}]; give a size or factor that leaves elements`,
      );
    }
    const scale = alignCorners ? (n > 1 ? (input - 1) / (n - 1) : 0) : step;
    const kind = mode === "nearest" ? "nearest" : "linear";
    return { ...NO_TAPS, kind, input, output: n, scale, aligned: alignCorners ? 1 : 0 };
  });
  return pooled("upsample", x, axes, { divide: "none" });
}

/** The axes from `start` to `end` as one: [2, 3, 4, 5] from 1 becomes [2, 60]. Default all but the first. */
export function flatten(x: Tensor, start = 1, end = -1): Tensor {
  requireTensor("flatten: x", x);
  const rank = x.shape.length;
  const [from, to] = [start, end].map((axis) => (axis < 0 ? axis + rank : axis)) as [number, number];
  for (const axis of [from, to]) requireInteger("flatten: axis", axis, 0);
  if (from > to || to >= rank) {
    throw new BinadeError(
      "shape.invalid",
      `flatten: axes ${start} to ${end} are not a range of the ${rank} axes of [${x.shape.join(", ")}]; name two that are`,
    );
  }
  const joined = x.shape.slice(from, to + 1).reduce((a, b) => a * b, 1);
  return x.reshape([...x.shape.slice(0, from), joined, ...x.shape.slice(to + 1)]);
}
