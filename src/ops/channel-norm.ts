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

const statistic = (pick: (moments: { mean: Node; variance: Node }) => Node): CompositeRow => ({
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  vjp: "decompose",
  infer: (inputs, attributes) => {
    const { shape, dtype } = at(inputs, 0);
    const axes = listOf(attributes, "axes");
    return { shape: shape.filter((_, axis) => !axes.includes(axis)), dtype: accumulatorOf(dtype) };
  },
  decompose: (b, inputs, attributes) => pick(moments(b, b.widen(at(inputs, 0)), listOf(attributes, "axes"))),
});

/** (x − mean) / √(variance + eps) over `attributes.axes`, rounded to `attributes.dtype`: what backward keeps. */
const standardize: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  vjp: "decompose",
  infer: (inputs, attributes) => ({ shape: at(inputs, 0).shape, dtype: attributes.dtype as DType }),
  decompose: (b, inputs, attributes) => {
    const [x, axes] = [b.widen(at(inputs, 0)), listOf(attributes, "axes")];
    const { mean, variance } = moments(b, x, axes);
    const inverse = inverseOf(b, variance, numberOf(attributes, "eps"));
    const centred = b.sub(x, b.restoreAxes(mean, x.shape, axes));
    return b.cast(b.mul(centred, b.restoreAxes(inverse, x.shape, axes)), attributes.dtype as DType);
  },
};

/** x has channels, and the other operands are one number for each. */
function requireChannels([x, ...parameters]: readonly Node[]): void {
  if (x === undefined) throw new BinadeError("internal", "internal: a norm without operands");
  if (!isFloat(x.dtype))
    throw new BinadeError("dtype.unsupported", `expected a floating dtype, got ${x.dtype}; cast it first`);
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
 * Backward keeps the normalised value in `attributes.saved` and the reciprocal deviation in float32, and never x:
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
    const normalized = b.composite("standardize", [x], {
      axes: axesBut(x.shape, [1]),
      eps: numberOf(attributes, "eps"),
      dtype: accumulatorOf(x.dtype),
    });
    return b.cast(b.add(b.mul(normalized, perChannel(b, weight, x)), perChannel(b, bias, x)), x.dtype);
  },
  vjp: ({ b, g, ins, attributes, wanted }) => {
    const [x, weight] = [at(ins, 0), at(ins, 1)];
    const axes = axesBut(x.shape, [1]);
    const eps = numberOf(attributes, "eps");
    const normalized = b.widen(b.composite("standardize", [x], { axes, eps, dtype: savedDType(attributes, x) }));
    const wide = b.widen(g);
    const [total, along] = [b.sum(wide, axes), b.sum(b.mul(wide, normalized), axes)];
    return [
      () => {
        const share = 1 / countOver(x.shape, axes);
        const spread = (p: Node): Node => b.restoreAxes(p, x.shape, axes);
        const inverse = inverseOf(b, b.composite("varianceOver", [x], { axes }), eps);
        const centred = b.sub(wide, spread(b.mul(total, share)));
        const slope = b.sub(centred, b.mul(normalized, spread(b.mul(along, share))));
        return b.cast(b.mul(spread(b.mul(b.cast(weight, inverse.dtype), inverse)), slope), x.dtype);
      },
      () => b.cast(along, wanted[1] ?? weight.dtype),
      () => b.cast(total, wanted[2] ?? at(ins, 2).dtype),
    ];
  },
};

/** Batch norm's formula with given statistics, (channels) each, in place of the batch's: evaluation. */
const batchNormWith: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  uncast: [1, 2, 3, 4],
  ulps: 16,
  vjp: "decompose",
  infer: (inputs) => {
    requireChannels(inputs);
    return { shape: at(inputs, 0).shape, dtype: at(inputs, 0).dtype };
  },
  decompose: (b, inputs, attributes) => {
    const x = at(inputs, 0);
    const [weight, bias, mean] = [1, 2, 3].map((i) => perChannel(b, at(inputs, i), x));
    const variance = b.cast(at(inputs, 4), accumulatorOf(x.dtype));
    const inverse = perChannel(b, inverseOf(b, variance, numberOf(attributes, "eps")), x);
    const normalized = b.mul(b.sub(b.widen(x), mean ?? 0), inverse);
    return b.cast(b.add(b.mul(normalized, weight ?? 1), bias ?? 0), x.dtype);
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
  /** Mean over `attributes.axes`, float32 at least. */
  meanOver: statistic(({ mean }) => mean),
  /** Biased variance over `attributes.axes`, float32 at least. */
  varianceOver: statistic(({ variance }) => variance),
  standardize,
  batchNorm,
  batchNormWith,
  groupNorm,
} as const;
