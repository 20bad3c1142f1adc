/** Softmax, norms, cross-entropy: rows with a decomposition into simpler ones, which backends may run whole. Last axis throughout. */
import { BinadeError } from "../errors.ts";
import { ATTENTION } from "./attention.ts";
import type { Builder } from "./builder.ts";
import { CHANNEL_NORM } from "./channel-norm.ts";
import { CONVOLUTION } from "./convolution.ts";
import {
  type Attributes,
  operandAt as at,
  type CompositeRow,
  type Infer,
  type Node,
  nameRows,
  numberOf,
} from "./define.ts";
import { dtypeOf } from "./movement.ts";
import { POOLING } from "./pooling.ts";
import { PROBABILITY } from "./probability.ts";
import { extent, type Shape, showShape } from "./shape.ts";
import { STORAGE } from "./storage.ts";
import { WINDOWS } from "./windows.ts";

const SOFTMAX = "Bridle 1990; shifted by the maximum so that exp never overflows";

const sameAsFirst: Infer = (inputs) => ({ shape: at(inputs, 0).shape, dtype: at(inputs, 0).dtype });

/** Rows without elements have no maximum. */
const requireRows = (x: Node): void => {
  if (x.shape.length > 0 && x.shape[lastAxis(x)] !== 0) return;
  throw new BinadeError(
    "shape.invalid",
    `shape ${showShape(x.shape)} has no elements along a last axis; give rows of at least one element`,
  );
};
/** Shape and dtype of the first operand, whose rows are not empty. */
const rowsOfFirst: Infer = (inputs, attributes) => {
  requireRows(at(inputs, 0));
  return sameAsFirst(inputs, attributes);
};
const lastAxis = (x: Node): number => x.shape.length - 1;
const overLast = (b: Builder, x: Node, like: Shape): Node => b.restoreAxes(x, like, [like.length - 1]);

/** The maximum along rows; 0 where it is infinite, so that (−∞) − max stays −∞ and not NaN. */
function rowShift(b: Builder, x: Node): Node {
  const top = b.max(x, [lastAxis(x)]);
  return b.where(b.isFinite(top), top, 0);
}

const softmax: CompositeRow = {
  kind: "composite",
  autocast: "wide",
  ulps: 8,
  infer: rowsOfFirst,
  reference: SOFTMAX,
  native: { family: "row", core: "softmax", result: 0 },
  decompose: (b, inputs) => {
    const x = b.widen(at(inputs, 0));
    const e = b.exp(b.sub(x, overLast(b, rowShift(b, x), x.shape)));
    return b.cast(b.div(e, overLast(b, b.sum(e, [lastAxis(x)]), x.shape)), at(inputs, 0).dtype);
  },
  vjp: ({ b, g, out }) => [() => b.composite("softmaxBackward", [g, out])],
};

const softmaxBackward: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  infer: sameAsFirst,
  vjp: "decompose",
  native: { family: "row", core: "softmaxBackward", result: 0 },
  decompose: (b, inputs) => {
    const [g, p] = [b.widen(at(inputs, 0)), b.widen(at(inputs, 1))];
    const dot = b.sum(b.mul(g, p), [lastAxis(g)]);
    return b.cast(b.mul(p, b.sub(g, overLast(b, dot, g.shape))), at(inputs, 0).dtype);
  },
};

const logSoftmax: CompositeRow = {
  kind: "composite",
  autocast: "wide",
  ulps: 8,
  infer: rowsOfFirst,
  reference: SOFTMAX,
  native: { family: "row", core: "logSoftmax", result: 0 },
  decompose: (b, inputs) => {
    const x = b.widen(at(inputs, 0));
    const shifted = b.sub(x, overLast(b, rowShift(b, x), x.shape));
    const total = b.log(b.sum(b.exp(shifted), [lastAxis(x)]));
    return b.cast(b.sub(shifted, overLast(b, total, x.shape)), at(inputs, 0).dtype);
  },
  vjp: ({ b, g, out }) => [() => b.composite("logSoftmaxBackward", [g, out])],
};

const logSoftmaxBackward: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  infer: sameAsFirst,
  vjp: "decompose",
  native: { family: "row", core: "logSoftmaxBackward", result: 0 },
  decompose: (b, inputs) => {
    const [g, y] = [b.widen(at(inputs, 0)), b.widen(at(inputs, 1))];
    const total = overLast(b, b.sum(g, [lastAxis(g)]), g.shape);
    return b.cast(b.sub(g, b.mul(b.exp(y), total)), at(inputs, 0).dtype);
  },
};

/** log Σ exp along rows, without the last axis. */
const logSumExp: CompositeRow = {
  kind: "composite",
  autocast: "wide",
  ulps: 8,
  reference: SOFTMAX,
  infer: (inputs, attributes) => {
    const { shape, dtype } = rowsOfFirst(inputs, attributes);
    return { shape: shape.slice(0, -1), dtype };
  },
  native: { family: "row", core: "logSumExp", result: 0 },
  decompose: (b, inputs) => {
    const x = b.widen(at(inputs, 0));
    const shift = rowShift(b, x);
    const total = b.sum(b.exp(b.sub(x, overLast(b, shift, x.shape))), [lastAxis(x)]);
    return b.cast(b.add(shift, b.log(total)), at(inputs, 0).dtype);
  },
  vjp: ({ b, g, out, ins }) => {
    const x = at(ins, 0);
    // A row of −∞ has the sum −∞ and the gradient 0: x − out would be −∞ + ∞. An attention row that sees no key is one.
    const shift = b.where(b.isFinite(out), out, 0);
    return [() => b.mul(overLast(b, g, x.shape), b.exp(b.sub(x, overLast(b, shift, x.shape))))];
  },
};

const normParameters = (attributes: Attributes): readonly number[] => [
  numberOf(attributes, "eps"),
  attributes.center === true ? 1 : 0,
];

/** Mean (0 for RMS norm) and reciprocal deviation of rows in float32: 1/√(variance + eps), biased variance. */
function moments(b: Builder, x: Node, attributes: Attributes): { centred: Node; inverse: Node } {
  const axis = [lastAxis(x)];
  const centred = attributes.center === true ? b.sub(x, overLast(b, b.mean(x, axis), x.shape)) : x;
  const variance = b.mean(b.mul(centred, centred), axis);
  return {
    centred,
    inverse: b.div(b.constant(1, variance.shape, variance.dtype), b.sqrt(b.add(variance, numberOf(attributes, "eps")))),
  };
}

/**
 * (x − mean) / √(variance + eps) along rows. Backward reads the result in `attributes.saved`, and never x: a float32
 * residual stream costs no float32 activations.
 */
const normalize: CompositeRow = {
  kind: "composite",
  autocast: "wide",
  ulps: 16,
  infer: sameAsFirst,
  reference: "Ba, Kiros, Hinton 2016, arXiv:1607.06450; Zhang, Sennrich 2019, arXiv:1910.07467 (center: false)",
  native: { family: "row", core: "normalize", result: 0, parameters: normParameters },
  decompose: (b, inputs, attributes) => {
    const x = b.widen(at(inputs, 0));
    const { centred, inverse } = moments(b, x, attributes);
    return b.cast(b.mul(centred, overLast(b, inverse, x.shape)), at(inputs, 0).dtype);
  },
  vjp: ({ b, g, out, ins, attributes }) => [
    () => {
      const inverse = b.composite("inverseDeviation", [at(ins, 0)], attributes);
      const { center } = attributes;
      return b.composite(
        "normalizeBackward",
        [g, b.cast(out, dtypeOf({ dtype: attributes.saved ?? out.dtype })), inverse],
        { center: center === true },
      );
    },
  ],
};

/** The reciprocal deviation that `normalize` used, one per row, in float32. */
const inverseDeviation: CompositeRow = {
  kind: "composite",
  autocast: "wide",
  ulps: 16,
  vjp: "decompose",
  infer: (inputs) => ({
    shape: at(inputs, 0).shape.slice(0, -1),
    dtype: at(inputs, 0).dtype === "float64" ? "float64" : "float32",
  }),
  native: { family: "row", core: "normalize", result: 1, parameters: normParameters },
  decompose: (b, inputs, attributes) => moments(b, b.widen(at(inputs, 0)), attributes).inverse,
};

/** inverse · (g − mean(g) − x̂ · mean(g x̂)); without the mean(g) term for RMS norm. */
const normalizeBackward: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 32,
  infer: sameAsFirst,
  vjp: "decompose",
  native: {
    family: "row",
    core: "normalizeBackward",
    result: 0,
    parameters: (attributes) => [attributes.center === true ? 1 : 0],
  },
  decompose: (b, inputs, attributes) => {
    const [g, xhat] = [b.widen(at(inputs, 0)), b.widen(at(inputs, 1))];
    const axis = [lastAxis(g)];
    const along = b.mul(xhat, overLast(b, b.mean(b.mul(g, xhat), axis), g.shape));
    const centred = attributes.center === true ? b.sub(g, overLast(b, b.mean(g, axis), g.shape)) : g;
    return b.cast(b.mul(overLast(b, at(inputs, 2), g.shape), b.sub(centred, along)), at(inputs, 0).dtype);
  },
};

function requireLabels(logits: Node, labels: Node): void {
  if (labels.dtype !== "int32") {
    throw new BinadeError(
      "dtype.unsupported",
      `labels are ${labels.dtype}, expected int32; cast them, for instance labels.cast("int32")`,
    );
  }
  const rows = logits.shape.slice(0, -1);
  if (rows.length !== labels.shape.length || rows.some((n, i) => n !== labels.shape[i])) {
    throw new BinadeError(
      "shape.mismatch",
      `logits ${showShape(logits.shape)} need labels ${showShape(rows)}, got ${showShape(labels.shape)}; give one label per row`,
    );
  }
}

/** Labels within 0…n−1 as a mask over classes; a label outside raises the fault of gather. Ignored rows are false everywhere. */
function oneHot(b: Builder, logits: Node, labels: Node, attributes: Attributes): { valid: Node; hot: Node } {
  const classes = extent(logits.shape, lastAxis(logits));
  const valid = b.notEqual(labels, numberOf(attributes, "ignore"));
  const checked = b.gather(b.iota(classes), b.where(valid, labels, 0));
  const hot = b.and(
    b.equal(b.broadcastTo(b.iota(classes), logits.shape), overLast(b, checked, logits.shape)),
    overLast(b, valid, logits.shape),
  );
  return { valid, hot };
}

/** −log softmax(logits)[label] per row; 0 where the label is `attributes.ignore`. */
const crossEntropyRows: CompositeRow = {
  kind: "composite",
  autocast: "wide",
  uncast: [1],
  ulps: 16,
  infer: ([logits, labels]) => {
    if (logits === undefined || labels === undefined)
      throw new BinadeError("internal", "internal: crossEntropy needs two operands");
    requireRows(logits);
    requireLabels(logits, labels);
    return { shape: labels.shape, dtype: logits.dtype };
  },
  native: {
    family: "row",
    core: "crossEntropy",
    result: 0,
    raisesFaults: true,
    parameters: (attributes) => [numberOf(attributes, "ignore")],
  },
  decompose: (b, inputs, attributes) => {
    const x = b.widen(at(inputs, 0));
    const { hot } = oneHot(b, x, at(inputs, 1), attributes);
    const picked = b.sum(b.where(hot, b.composite("logSoftmax", [x]), 0), [lastAxis(x)]);
    return b.cast(b.neg(picked), at(inputs, 0).dtype);
  },
  vjp: ({ b, g, ins, attributes }) => [
    () => b.composite("crossEntropyBackward", [g, at(ins, 0), at(ins, 1)], attributes),
    null,
  ],
};

/** (softmax(logits) − one-hot) · g, 0 in ignored rows. */
const crossEntropyBackward: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  vjp: "decompose",
  infer: (inputs) => ({ shape: at(inputs, 1).shape, dtype: at(inputs, 1).dtype }),
  native: {
    family: "row",
    core: "crossEntropyBackward",
    result: 0,
    raisesFaults: true,
    parameters: (attributes) => [numberOf(attributes, "ignore")],
  },
  decompose: (b, inputs, attributes) => {
    const x = b.widen(at(inputs, 1));
    const { valid, hot } = oneHot(b, x, at(inputs, 2), attributes);
    const g = b.where(valid, b.widen(at(inputs, 0)), 0);
    const difference = b.sub(b.composite("softmax", [x]), b.cast(hot, x.dtype));
    return b.cast(b.mul(difference, overLast(b, g, x.shape)), at(inputs, 1).dtype);
  },
};

export const COMPOSITE = nameRows({
  softmax,
  softmaxBackward,
  logSoftmax,
  logSoftmaxBackward,
  logSumExp,
  normalize,
  inverseDeviation,
  normalizeBackward,
  crossEntropyRows,
  crossEntropyBackward,
  ...PROBABILITY,
  ...CHANNEL_NORM,
  ...POOLING,
  ...ATTENTION,
  ...CONVOLUTION,
  ...WINDOWS,
  ...STORAGE,
});
