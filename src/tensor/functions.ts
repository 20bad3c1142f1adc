/** Functions of several tensors: selection, joining, linear maps, norms, attention, losses. */
import { BinadeError, showValue } from "../errors.ts";
import { type DType, isFloat } from "../formats/index.ts";
import { build, type Node } from "../ir/graph.ts";
import { OPS } from "../ops/index.ts";
import { broadcastShapes, normalizeAxis } from "../ops/shape.ts";
import { castOperands, inFunction, savedDType } from "../precision/autocast.ts";
import { requireBoolean, requireInteger, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { composite, pointwise, rowsTimesMatrix } from "./apply.ts";
import { requireOperands, requireTensors } from "./require.ts";
import { nodeOf, type Operand, requireTensor, Tensor } from "./tensor.ts";

/**
 * `a` where `condition` is true, else `b`. Shapes broadcast; two dtypes of floats meet in the wider one.
 *
 * @param condition bool
 * @throws BinadeError `shape.mismatch`; `dtype.mismatch` for a condition that is not bool, or float16 with bfloat16.
 * @example
 * where(x.greater(0), x, 0); // relu, written out
 */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  requireTensor("where: condition", condition);
  if (typeof a === "number" && typeof b === "number") return new Tensor(build.where(condition.node, a, b));
  return new Tensor(pointwise("where", [condition.node, nodeOf("where: a", a), nodeOf("where: b", b)]));
}

/**
 * Tensors one after another along `axis` (default 0, negative from the end); all other extents are equal. Floats of
 * different width meet in the widest.
 *
 * @throws BinadeError `shape.invalid` for no tensors or an axis outside the shape; `shape.mismatch`; `dtype.mismatch`.
 * @example
 * concatenate([zeros([2, 3]), ones([1, 3])]); // [3, 3]
 */
export function concatenate(tensors: readonly Tensor[], axis = 0): Tensor {
  requireTensors("concatenate: tensor", tensors);
  const [first] = tensors;
  if (first === undefined)
    throw new BinadeError("shape.invalid", "concatenate: expected at least one tensor, got none");
  const nodes = castOperands(
    OPS.concatenate,
    tensors.map((t) => t.node),
  );
  return new Tensor(build.concatenate(nodes, normalizeAxis(axis, first.shape.length, "concatenate")));
}

/**
 * x wᵀ + bias, rounded once: the sums stay in float32 until the bias is added.
 *
 * @param x (…, in) @param weight (out, in) @param bias (out), kept in its own dtype
 * @returns (…, out) in x's dtype, or in the compute dtype under autocast.
 * @throws BinadeError `shape.mismatch` if they do not fit; `dtype.mismatch` if x and weight differ outside of autocast.
 * @example
 * linear(zeros([32, 784]), zeros([10, 784]), zeros([10])); // [32, 10]
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  requireOperands("linear", { x, weight }, { bias });
  return inFunction("linear", () => {
    const [input, matrix] = linearOperands(x, weight);
    if (bias === undefined) return new Tensor(rowsTimesMatrix(input, build.transpose(matrix)));
    const sums = rowsTimesMatrix(input, build.transpose(matrix), input.dtype === "float64" ? "float64" : "float32");
    return withBias(sums, bias, input.dtype);
  });
}

/** Input and weight as a linear map sees them: cast by autocast, and of shapes that fit. */
export function linearOperands(x: Tensor, weight: Tensor): readonly [Node, Node] {
  const [input, matrix] = castOperands(OPS.matmul, [x.node, weight.node]);
  if (input === undefined || matrix === undefined)
    throw new BinadeError("internal", "internal: linear lost an operand");
  if (matrix.shape.length !== 2 || input.shape[input.shape.length - 1] !== matrix.shape[1]) {
    throw new BinadeError(
      "shape.mismatch",
      `linear: x [${input.shape.join(", ")}] and weight [${matrix.shape.join(", ")}] do not fit; weight is (out, in) and x ends with in`,
    );
  }
  return [input, matrix];
}

/** Float32 sums plus a bias, rounded once. */
export const withBias = (sums: Node, bias: Tensor, dtype: DType): Tensor =>
  new Tensor(build.cast(build.add(sums, build.widen(bias.node)), dtype));

/**
 * Rows of `table` by integer: the gradient adds rows that were taken more than once, in float32.
 *
 * @param table (vocabulary, width) @param indices (…) of int32, uint32 or uint8
 * @returns (…, width) in the table's dtype.
 * @throws BinadeError `dtype.unsupported` for other indices; `index.outOfRange` when it runs, with nothing changed.
 * @example
 * embedding(table, tensor(Int32Array.of(3, 1))); // [2, width]
 */
export function embedding(table: Tensor, indices: Tensor): Tensor {
  requireOperands("embedding", { table, indices });
  return table.gather(indices);
}

export interface NormOptions {
  /** Added to the variance. Default 1e-5. */
  readonly eps?: number;
}

/**
 * (x − mean) / √(variance + eps) · weight + bias over the last axis; biased variance, in float32. Backward keeps the
 * normalised value in the compute dtype, and never x. Source: arXiv:1607.06450.
 *
 * @param x (…, width) @param weight, bias (width)
 * @returns the shape of x; float32 under autocast, else x's dtype.
 * @throws BinadeError `value.range` for a negative eps or a scalar x; `dtype.mismatch` if x and weight differ outside of
 * autocast.
 * @example
 * layerNorm(x, weight, bias, { eps: 1e-6 });
 */
export function layerNorm(x: Tensor, weight?: Tensor, bias?: Tensor, options: NormOptions = {}): Tensor {
  requireOperands("layerNorm", { x }, { weight, bias });
  requireKnownKeys("layerNorm", options, ["eps"]);
  const { eps = 1e-5 } = options;
  return inFunction("layerNorm", () => norm(x, { eps, center: true }, weight, bias));
}

/**
 * x / √(mean(x²) + eps) · weight over the last axis, otherwise as `layerNorm`. Source: arXiv:1910.07467.
 *
 * @example
 * rmsNorm(x, weight); // x (…, width), weight (width)
 */
export function rmsNorm(x: Tensor, weight?: Tensor, options: NormOptions = {}): Tensor {
  requireOperands("rmsNorm", { x }, { weight });
  requireKnownKeys("rmsNorm", options, ["eps"]);
  const { eps = 1e-5 } = options;
  return inFunction("rmsNorm", () => norm(x, { eps, center: false }, weight, undefined));
}

function norm(
  x: Tensor,
  { eps, center }: { readonly eps: number; readonly center: boolean },
  weight: Tensor | undefined,
  bias: Tensor | undefined,
): Tensor {
  if (!(eps >= 0) || x.shape.length === 0)
    throw new BinadeError(
      "value.range",
      `norm: eps is ${eps} and the shape [${x.shape.join(", ")}]; expected eps ≥ 0 and at least one axis`,
    );
  const saved = savedDType("normalize", x.node);
  const normalized = composite("normalize", [x.node], { eps, center, saved });
  if (weight === undefined) return new Tensor(normalized);
  const copy = build.cast(build.cast(normalized, saved), normalized.dtype);
  const scaled = new Tensor(pointwise("mulSaved", [normalized, copy, weight.node]));
  return bias === undefined ? scaled : scaled.add(bias);
}

export interface AttentionOptions {
  /** Default 1/√width. */
  readonly scale?: number;
  /** Query i sees key j only if j ≤ i + (keys − queries). Default false. */
  readonly causal?: boolean;
}

/**
 * softmax(scale · q kᵀ) v per head.
 *
 * @param q (batch, queries, heads, width) @param k, v (batch, keys, heads, width)
 * @returns (batch, queries, heads, width) in the dtype of q, k and v, or in the compute dtype under autocast.
 * @throws BinadeError `shape.invalid` unless each has four axes; `shape.mismatch`; `dtype.mismatch`; `option.unknown`,
 * `option.invalid` or `value.range` for a bad option.
 * @example
 * scaledDotProductAttention(q, k, v, { causal: true });
 */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const subject = "scaledDotProductAttention";
  requireOperands(subject, { q, k, v });
  requireKnownKeys(subject, options, ["scale", "causal"]);
  requireBoolean(`${subject}: causal`, options.causal);
  const { scale = 1 / Math.sqrt(q.shape[3] ?? 1), causal = false } = options;
  requireNumber(`${subject}: scale`, scale, Number.isFinite, "a finite number");
  const attributes = { scale, causal };
  return inFunction(
    "scaledDotProductAttention",
    () => new Tensor(composite("attention", [q.node, k.node, v.node], attributes)),
  );
}

/** Label that takes no part in a loss. */
export const IGNORED_LABEL = -100;

export interface CrossEntropyOptions {
  /** Rows with this label count for nothing. Default −100. */
  readonly ignoreLabel?: number;
  /** `mean` over the rows that count (default), `sum`, or `none`: one loss per row. */
  readonly reduction?: "mean" | "sum" | "none";
}

/**
 * −log softmax(logits)[label]. A label outside 0…classes−1 (and not ignored) fails the step and changes nothing.
 *
 * @param logits (…, classes) @param labels (…) integers
 * @returns a scalar, or (…) with `none`: float32 under autocast, else the logits' dtype. NaN as the mean of no rows, as in
 * PyTorch.
 * @throws BinadeError `shape.mismatch`; `option.unknown` or `option.invalid` for a bad option; `index.outOfRange` when it runs.
 * @example
 * crossEntropy(zeros([2, 10]), tensor(Int32Array.of(3, 7))); // log 10
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  requireOperands("crossEntropy", { logits, labels });
  requireKnownKeys("crossEntropy", options, ["ignoreLabel", "reduction"]);
  const { ignoreLabel = IGNORED_LABEL, reduction = "mean" } = options;
  if (reduction !== "mean" && reduction !== "sum" && reduction !== "none") {
    throw new BinadeError(
      "option.invalid",
      `crossEntropy: reduction: expected "mean", "sum" or "none", got ${showValue(reduction)}`,
    );
  }
  if (isFloat(labels.dtype)) {
    throw new BinadeError(
      "dtype.unsupported",
      `crossEntropy: labels are ${labels.dtype}, expected integers; cast them, for instance labels.cast("int32")`,
    );
  }
  requireInteger("crossEntropy: ignoreLabel", ignoreLabel, -(2 ** 31));
  return inFunction("crossEntropy", () => {
    const targets = labels.cast("int32");
    const rows = new Tensor(composite("crossEntropyRows", [logits.node, targets.node], { ignore: ignoreLabel }));
    if (reduction === "none") return rows;
    const total = rows.sum();
    if (reduction === "sum") return total;
    return total.div(targets.notEqual(ignoreLabel).cast(total.dtype).sum());
  });
}

/**
 * Mean of squared differences over all elements: a scalar. Shapes broadcast. Under autocast squares and mean are float32; the
 * difference is in the wider dtype of the two.
 *
 * @throws BinadeError `shape.mismatch`; `dtype.mismatch`.
 * @example
 * meanSquaredError(tensor([1, 2]), tensor([1, 4])); // 2
 */
export function meanSquaredError(x: Tensor, y: Tensor): Tensor {
  requireOperands("meanSquaredError", { x, y });
  return inFunction("meanSquaredError", () => x.sub(y).square().mean());
}

/**
 * Mean of −t log p − (1 − t) log(1 − p) over all elements, from probabilities p: a scalar. Logarithms are clamped at −100.
 * Refused under autocast, since probabilities near 1 have no 16-bit form, unless a rule gives it a class.
 *
 * @param probabilities, targets from 0 to 1, of one floating dtype; shapes broadcast
 * @throws BinadeError `autocast.refused` inside a region; `shape.mismatch`; `dtype.mismatch` or `dtype.unsupported`.
 * @example
 * binaryCrossEntropy(tensor([0.5]), tensor([1])); // log 2
 */
export function binaryCrossEntropy(probabilities: Tensor, targets: Tensor): Tensor {
  requireOperands("binaryCrossEntropy", { probabilities, targets });
  const shape = broadcastShapes(probabilities.shape, targets.shape, "binaryCrossEntropy");
  const operands = [probabilities, targets].map(({ node }) => build.broadcastTo(node, shape));
  return inFunction("binaryCrossEntropy", () => new Tensor(composite("binaryCrossEntropy", operands)).mean());
}

/**
 * Mean of −t log σ(x) − (1 − t) log(1 − σ(x)) over all elements, from logits x: a scalar. It is computed as softplus(x) − t x,
 * which no logit makes infinite.
 *
 * @param targets from 0 to 1, a floating dtype; shapes broadcast
 * @throws BinadeError `shape.mismatch`; `dtype.mismatch` or `dtype.unsupported` for integers.
 * @example
 * binaryCrossEntropyWithLogits(tensor([0]), tensor([1])); // log 2
 */
export function binaryCrossEntropyWithLogits(logits: Tensor, targets: Tensor): Tensor {
  requireOperands("binaryCrossEntropyWithLogits", { logits, targets });
  return inFunction("binaryCrossEntropyWithLogits", () => logits.softplus().sub(logits.mul(targets)).mean());
}
