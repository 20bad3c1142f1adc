/** Norms of channels: batch norm and group norm over (batch, channels, …). Every statistic is float32, the variance biased. */
import { BinadeError } from "../errors.ts";
import { type DType, isFloat } from "../formats/table.ts";
import { accumulatorOf, type Builder } from "./builder.ts";
import { type Attributes, operandAt as at, type CompositeRow, listOf, type Node, numberOf } from "./define.ts";
import { extent, type Shape, showShape, sizeOf } from "./shape.ts";

/** Every axis but `kept`. */
const axesBut = (shape: Shape, kept: readonly number[]): readonly number[] =>
  shape.map((_, axis) => axis).filter((axis) => !kept.includes(axis));
const countOver = (shape: Shape, axes: readonly number[]): number => sizeOf(axes.map((axis) => extent(shape, axis)));

/** A tensor as (outer, channels, inner): the axes that are kept lie side by side. */
export interface ChannelLayout {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
}

/** Of an operand of shape `shape`: statistics go over `attributes.axes`, or over every axis but the second. */
export function channelLayout(shape: Shape, { axes }: Attributes): ChannelLayout {
  const reduced = Array.isArray(axes) ? axes : axesBut(shape, [1]);
  const kept = axesBut(shape, reduced);
  const [first = shape.length] = kept;
  if (kept.some((axis, i) => axis !== first + i))
    throw new BinadeError("internal", `internal: the kept axes ${kept.join(", ")} of a statistic are no neighbours`);
  const end = first + kept.length;
  return {
    outer: sizeOf(shape.slice(0, first)),
    channels: sizeOf(shape.slice(first, end)),
    inner: sizeOf(shape.slice(end)),
  };
}

/**
 * Mean and biased variance over `axes`, in one pass: sums of x − s and of its square, where s is the mean over the first
 * index of the first axis. The variance is the mean square less the squared mean; (mean − s)² is at most n/m variances for
 * a shift that is the mean of m of the n elements, so the difference keeps all but log₂(n/m) bits at worst: no
 * cancellation, however large the mean is against the deviation. No gradient flows through s, which cancels.
 */
function moments(b: Builder, x: Node, axes: readonly number[]): { mean: Node; variance: Node } {
  const [lead = 0] = axes;
  const first = b.slice(
    x,
    x.shape.map(() => 0),
    x.shape.map((n, axis) => (axis === lead ? Math.min(n, 1) : n)),
  );
  const shift = b.detach(b.mean(first, axes));
  const shifted = b.sub(x, b.restoreAxes(shift, x.shape, axes));
  const offset = b.mean(shifted, axes);
  const spread = b.sub(b.mean(b.mul(shifted, shifted), axes), b.mul(offset, offset));
  return { mean: b.add(shift, offset), variance: b.maximum(spread, 0) };
}

const inverseOf = (b: Builder, variance: Node, eps: number): Node =>
  b.div(b.constant(1, variance.shape, variance.dtype), b.sqrt(b.add(variance, eps)));

const axesOf = (attributes: Attributes): readonly number[] => listOf(attributes, "axes");
const epsOf = (attributes: Attributes): readonly number[] => [numberOf(attributes, "eps")];

const statistic = (result: 0 | 1): CompositeRow => ({
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  vjp: "decompose",
  native: { family: "channelStatistic", core: "channelMoments", result, parameters: axesOf },
  infer: (inputs, attributes) => {
    const { shape, dtype } = at(inputs, 0);
    channelLayout(shape, attributes);
    return {
      shape: axesBut(shape, axesOf(attributes)).map((axis) => extent(shape, axis)),
      dtype: accumulatorOf(dtype),
    };
  },
  decompose: (b, inputs, attributes) => {
    const { mean, variance } = moments(b, b.widen(at(inputs, 0)), axesOf(attributes));
    return result === 0 ? mean : variance;
  },
});

/** (x − mean) / √(variance + eps) over `attributes.axes`, rounded to `attributes.dtype`: what group norm's backward keeps. */
const standardize: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  vjp: "decompose",
  infer: (inputs, attributes) => ({ shape: at(inputs, 0).shape, dtype: attributes.dtype as DType }),
  decompose: (b, inputs, attributes) => {
    const [x, axes] = [b.widen(at(inputs, 0)), axesOf(attributes)];
    const [mean, variance] = momentsOf(b, at(inputs, 0), axes);
    const inverse = inverseOf(b, variance, numberOf(attributes, "eps"));
    const centred = b.sub(x, b.restoreAxes(mean, x.shape, axes));
    return b.cast(b.mul(centred, b.restoreAxes(inverse, x.shape, axes)), attributes.dtype as DType);
  },
};

const momentsOf = (b: Builder, x: Node, axes: readonly number[]): readonly [mean: Node, variance: Node] => [
  b.composite("meanOver", [x], { axes }),
  b.composite("varianceOver", [x], { axes }),
];

/** x has channels, and the other operands are one number for each; all are floating. */
function requireChannels([x, ...parameters]: readonly Node[]): void {
  if (x === undefined) throw new BinadeError("internal", "internal: a norm without operands");
  const integer = [x, ...parameters].find(({ dtype }) => !isFloat(dtype));
  if (integer !== undefined)
    throw new BinadeError("dtype.unsupported", `expected floating dtypes, got ${integer.dtype}; cast it first`);
  if (x.shape.length < 2) {
    throw new BinadeError(
      "shape.invalid",
      `expected (batch, channels, …), got ${showShape(x.shape)}; reshape it to at least two axes`,
    );
  }
  const wrong = parameters.findIndex((p) => p.shape.length !== 1 || p.shape[0] !== x.shape[1]);
  if (wrong < 0) return;
  const name = ["weight", "bias", "mean", "variance"][wrong];
  throw new BinadeError(
    "shape.mismatch",
    `x ${showShape(x.shape)} has ${x.shape[1]} channels, but ${name} has the shape ${showShape(at(parameters, wrong).shape)}; give one number per channel`,
  );
}

/** One number per channel, (channels), repeated over x's shape in the accumulator's dtype. */
const perChannel = (b: Builder, p: Node, x: Node): Node =>
  b.restoreAxes(b.cast(p, accumulatorOf(x.dtype)), x.shape, axesBut(x.shape, [1]));

/** The dtype in which the normalised value is kept for backward. */
const savedDType = (attributes: Attributes, x: Node): DType =>
  x.dtype === "float64" ? x.dtype : (attributes.saved as DType);

/**
 * (x − mean) / √(variance + eps) · weight + bias, with the statistics of each channel over batch and positions; rounded once.
 * Backward keeps x and both statistics, and normalises anew: x̂ itself would be stored beside x's values, and rounded.
 *
 *     dbias = Σ g        dweight = Σ g x̂        dx = weight / √(variance + eps) · (g − dbias/n − x̂ · dweight/n)
 */
const batchNorm: CompositeRow = {
  kind: "composite",
  // As PyTorch, whose list leaves it out: x keeps its dtype, so that activations between convolutions stay narrow.
  autocast: "as-is",
  uncast: [1, 2],
  ulps: 16,
  reference: "Ioffe, Szegedy 2015, arXiv:1502.03167, algorithm 1",
  infer: (inputs) => {
    requireChannels(inputs);
    return { shape: at(inputs, 0).shape, dtype: at(inputs, 0).dtype };
  },
  decompose: (b, inputs, attributes) => {
    const [x, weight, bias] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)];
    return b.composite("batchNormWith", [x, weight, bias, ...momentsOf(b, x, axesBut(x.shape, [1]))], attributes);
  },
  vjp: ({ b, g, ins, attributes, wanted }) => {
    const [x, weight] = [at(ins, 0), at(ins, 1)];
    const statistics = momentsOf(b, x, axesBut(x.shape, [1]));
    const [total, along] = [
      b.composite("batchNormTotal", [g, x, ...statistics], attributes),
      b.composite("batchNormAlong", [g, x, ...statistics], attributes),
    ];
    return [
      () => b.composite("batchNormBackward", [g, x, weight, ...statistics, total, along], attributes),
      () => b.cast(along, wanted[1] ?? weight.dtype),
      () => b.cast(total, wanted[2] ?? at(ins, 2).dtype),
    ];
  },
};

/** x̂ = (x − mean) / √(variance + eps) with one mean and variance per channel, and the reciprocal deviation, of x's shape. */
function normalized(b: Builder, operand: Node, mean: Node, variance: Node, eps: number): { x: Node; inverse: Node } {
  const x = b.widen(operand);
  const inverse = perChannel(b, inverseOf(b, b.cast(variance, x.dtype), eps), operand);
  return { x: b.mul(b.sub(x, perChannel(b, mean, operand)), inverse), inverse };
}

/** Batch norm's formula with given statistics, (channels) each: the batch's, or in evaluation the running ones. */
const batchNormWith: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  uncast: [1, 2, 3, 4],
  ulps: 16,
  vjp: "decompose",
  native: { family: "channelMap", core: "channelNormalize", result: 0, parameters: epsOf },
  infer: (inputs) => {
    requireChannels(inputs);
    return { shape: at(inputs, 0).shape, dtype: at(inputs, 0).dtype };
  },
  decompose: (b, inputs, attributes) => {
    const [x, weight, bias] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)];
    const { x: centred } = normalized(b, x, at(inputs, 3), at(inputs, 4), numberOf(attributes, "eps"));
    return b.cast(b.add(b.mul(centred, perChannel(b, weight, x)), perChannel(b, bias, x)), x.dtype);
  },
};

/** Sums of batch norm's backward, from g, x, mean and variance: of g, or of g x̂; (channels), float32 at least. */
const batchNormSum = (result: 0 | 1, summed: (b: Builder, g: Node, x: Node) => Node): CompositeRow => ({
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  vjp: "decompose",
  native: { family: "channelStatistic", core: "channelSums", result, parameters: epsOf },
  infer: (inputs) => {
    const { shape, dtype } = at(inputs, 0);
    return { shape: [extent(shape, 1)], dtype: accumulatorOf(dtype) };
  },
  decompose: (b, inputs, attributes) => {
    const { x } = normalized(b, at(inputs, 1), at(inputs, 2), at(inputs, 3), numberOf(attributes, "eps"));
    return b.sum(summed(b, b.widen(at(inputs, 0)), x), axesBut(x.shape, [1]));
  },
});

/** dx of batch norm, from g, x, weight, mean, variance and both sums. */
const batchNormBackward: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 32,
  vjp: "decompose",
  native: { family: "channelMap", core: "channelGradient", result: 0, parameters: epsOf },
  infer: (inputs) => ({ shape: at(inputs, 1).shape, dtype: at(inputs, 1).dtype }),
  decompose: (b, inputs, attributes) => {
    const [g, operand, weight] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)];
    const { x, inverse } = normalized(b, operand, at(inputs, 3), at(inputs, 4), numberOf(attributes, "eps"));
    const share = 1 / countOver(x.shape, axesBut(x.shape, [1]));
    const spread = (sum: Node): Node => perChannel(b, b.mul(sum, share), operand);
    const slope = b.sub(b.sub(b.widen(g), spread(at(inputs, 5))), b.mul(x, spread(at(inputs, 6))));
    return b.cast(b.mul(b.mul(perChannel(b, weight, operand), inverse), slope), operand.dtype);
  },
};

/** (batch, channels, …) as (batch, groups, channels of a group, positions). */
function intoGroups(x: Node, groups: number): Shape {
  const [batch = 0, channels = 0, ...positions] = x.shape;
  return [batch, groups, channels / groups, sizeOf(positions)];
}

/** Over the channels of a group and their positions. */
const GROUP_AXES = [2, 3];

/**
 * Batch norm's formula with the statistics of each group of channels of one example. Backward sums every channel's positions
 * once, and takes both the groups' sums and the parameters' gradients from those.
 */
const groupNorm: CompositeRow = {
  kind: "composite",
  autocast: "wide",
  ulps: 16,
  reference: "Wu, He 2018, arXiv:1803.08494",
  infer: (inputs, attributes) => {
    requireChannels(inputs);
    const { shape, dtype } = at(inputs, 0);
    const groups = numberOf(attributes, "groups");
    if (!Number.isInteger(groups) || groups < 1 || extent(shape, 1) % groups !== 0) {
      throw new BinadeError(
        "shape.invalid",
        `${extent(shape, 1)} channels do not divide into ${groups} groups; give a number of groups that divides them`,
      );
    }
    return { shape, dtype };
  },
  decompose: (b, inputs, attributes) => {
    const [x, weight, bias] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)];
    const normalized = b.composite("standardize", [b.reshape(x, intoGroups(x, numberOf(attributes, "groups")))], {
      axes: GROUP_AXES,
      eps: numberOf(attributes, "eps"),
      dtype: accumulatorOf(x.dtype),
    });
    const scaled = b.mul(b.reshape(normalized, x.shape), perChannel(b, weight, x));
    return b.cast(b.add(scaled, perChannel(b, bias, x)), x.dtype);
  },
  vjp: ({ b, g, ins, attributes, wanted }) => {
    const [x, weight] = [at(ins, 0), at(ins, 1)];
    const [eps, groups] = [numberOf(attributes, "eps"), numberOf(attributes, "groups")];
    const shape = intoGroups(x, groups);
    const grouped = b.reshape(x, shape);
    const of = { axes: GROUP_AXES, eps, dtype: savedDType(attributes, x) };
    const normalized = b.widen(b.composite("standardize", [grouped], of));
    const wide = b.reshape(b.widen(g), shape);
    const [total, along] = [b.sum(wide, [3]), b.sum(b.mul(wide, normalized), [3])]; // (batch, groups, channels)
    const scale = b.reshape(b.cast(weight, wide.dtype), [1, groups, extent(shape, 2)]);
    const share = 1 / countOver(shape, GROUP_AXES);
    const parameterGradient = (sums: Node, i: number): Node =>
      b.cast(b.reshape(b.sum(sums, [0]), at(ins, i).shape), wanted[i] ?? at(ins, i).dtype);
    return [
      () => {
        const ofGroups = (sums: Node): Node =>
          b.restoreAxes(b.mul(b.sum(b.mul(sums, scale), [2]), share), shape, GROUP_AXES);
        const inverse = inverseOf(b, b.composite("varianceOver", [grouped], { axes: GROUP_AXES }), eps);
        const centred = b.sub(b.mul(wide, b.reshape(scale, [1, groups, extent(shape, 2), 1])), ofGroups(total));
        const slope = b.sub(centred, b.mul(normalized, ofGroups(along)));
        return b.cast(b.reshape(b.mul(b.restoreAxes(inverse, shape, GROUP_AXES), slope), x.shape), x.dtype);
      },
      () => parameterGradient(along, 1),
      () => parameterGradient(total, 2),
    ];
  },
};

export const CHANNEL_NORM = {
  /** Mean over `attributes.axes`, float32 at least; the other axes are neighbours. */
  meanOver: statistic(0),
  /** Biased variance over `attributes.axes`, float32 at least; the other axes are neighbours. */
  varianceOver: statistic(1),
  standardize,
  batchNorm,
  batchNormWith,
  batchNormTotal: batchNormSum(0, (_, g) => g),
  batchNormAlong: batchNormSum(1, (b, g, x) => b.mul(g, x)),
  batchNormBackward,
  groupNorm,
} as const;
