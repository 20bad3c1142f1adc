/** Scaled-dot-product attention over (B, T, H, D) operands: softmax(scale · q kᵀ + mask) v, and its gradients. */
import { BinadeError } from "../errors.ts";
import { accumulatorOf, type Builder } from "./builder.ts";
import { type Attributes, type CompositeRow, type Infer, type Node, numberOf } from "./define.ts";
import { commonDType } from "./pointwise.ts";
import { extent, showShape } from "./shape.ts";

const REFERENCE =
  "Vaswani et al. 2017, arXiv:1706.03762, eq. 1; gradients: Dao et al. 2022, arXiv:2205.14135, appendix B";

type Operands = { q: Node; k: Node; v: Node };

function operands(inputs: readonly Node[], from: number): Operands {
  const [q, k, v] = inputs.slice(from);
  if (q === undefined || k === undefined || v === undefined)
    throw new BinadeError("internal", "internal: attention needs q, k and v");
  return { q, k, v };
}

function check({ q, k, v }: Operands): void {
  const shapes = `q ${showShape(q.shape)}, k ${showShape(k.shape)}, v ${showShape(v.shape)}`;
  if ([q, k, v].some((x) => x.shape.length !== 4)) {
    throw new BinadeError(
      "shape.invalid",
      `${shapes}: expected (batch, time, heads, width) for each; reshape them to four axes`,
    );
  }
  const alike = [0, 2, 3].every((axis) => q.shape[axis] === k.shape[axis] && k.shape[axis] === v.shape[axis]);
  if (!alike || k.shape[1] !== v.shape[1]) {
    throw new BinadeError(
      "shape.mismatch",
      `${shapes}: batch, heads and width must agree, and k and v must be equally long`,
    );
  }
  if (k.shape[1] === 0)
    throw new BinadeError("shape.invalid", `${shapes}: there are no keys to attend to; give at least one`);
}

const toHeads = (b: Builder, x: Node): Node => b.permute(x, [0, 2, 1, 3]); // (B, T, H, D) → (B, H, T, D), and back

/** scale · q kᵀ in float32, (B, H, Tq, Tk); −∞ where causality hides the key: j > i + (Tk − Tq). */
function scores(b: Builder, { q, k }: Operands, attributes: Attributes): Node {
  const acc = accumulatorOf(q.dtype);
  const s = b.mul(b.matmul(toHeads(b, q), b.permute(k, [0, 2, 3, 1]), acc), numberOf(attributes, "scale"));
  if (attributes.causal !== true) return s;
  const [queries, keys] = [extent(q.shape, 1), extent(k.shape, 1)];
  const row = b.add(b.reshape(b.iota(queries), [queries, 1]), keys - queries);
  return b.where(
    b.lessEqual(b.broadcastTo(b.iota(keys), s.shape), b.broadcastTo(row, s.shape)),
    s,
    Number.NEGATIVE_INFINITY,
  );
}

/** exp(s − lse); a row without visible keys (lse = −∞) is all zeros. */
function probabilities(b: Builder, s: Node, logSumExp: Node): Node {
  const shift = b.where(b.isFinite(logSumExp), logSumExp, 0);
  return b.exp(b.sub(s, b.restoreAxes(shift, s.shape, [3])));
}

const likeOperand =
  (i: number): Infer =>
  (inputs) => {
    const from = inputs.length > 3 ? 1 : 0;
    check(operands(inputs, from));
    const x = inputs[i];
    return { shape: x?.shape ?? [], dtype: commonDType(inputs.slice(from, from + 3)) };
  };

const parameters = (attributes: Attributes): readonly number[] => [
  numberOf(attributes, "scale"),
  attributes.causal === true ? 1 : 0,
];

/** q (B, Tq, H, D), k and v (B, Tk, H, D) → (B, Tq, H, D). Probabilities are rounded to the operands' dtype before the second product. */
const attention: CompositeRow = {
  kind: "composite",
  autocast: "narrow",
  ulps: 64,
  reference: REFERENCE,
  infer: likeOperand(0),
  native: { family: "attention", core: "attention", result: 0, parameters },
  decompose: (b, inputs, attributes) => {
    const o = operands(inputs, 0);
    const s = scores(b, o, attributes);
    const p = b.cast(probabilities(b, s, b.composite("logSumExp", [s])), o.v.dtype);
    return toHeads(b, b.matmul(p, toHeads(b, o.v)));
  },
  vjp: ({ b, g, out, ins, attributes }) => {
    const lse = b.composite("attentionLogSumExp", ins, attributes);
    const saved = [g, ...ins, out, lse];
    return [
      () => b.composite("attentionBackwardQ", saved, attributes),
      () => b.composite("attentionBackwardK", saved, attributes),
      () => b.composite("attentionBackwardV", saved, attributes),
    ];
  },
};

/** log Σ exp of each query's scores, (B, H, Tq) in float32: what backward needs to rebuild the probabilities. */
const attentionLogSumExp: CompositeRow = {
  kind: "composite",
  autocast: "narrow",
  ulps: 64,
  vjp: "decompose",
  reference: REFERENCE,
  infer: (inputs) => {
    const { q } = operands(inputs, 0);
    return { shape: [extent(q.shape, 0), extent(q.shape, 2), extent(q.shape, 1)], dtype: accumulatorOf(q.dtype) };
  },
  native: { family: "attention", core: "attention", result: 1, parameters },
  decompose: (b, inputs, attributes) => b.composite("logSumExp", [scores(b, operands(inputs, 0), attributes)]),
};

/** Probabilities and scaled score cotangents, both in the operands' dtype: p and ds = scale · p · (g vᵀ − rowsum(g · out)). */
function backwardParts(
  b: Builder,
  inputs: readonly Node[],
  attributes: Attributes,
): { p: Node; ds: Node; g: Node; o: Operands } {
  const [cotangent, , , , out, lse] = inputs;
  const o = operands(inputs, 1);
  if (cotangent === undefined || out === undefined || lse === undefined)
    throw new BinadeError("internal", "internal: attention gradient needs six operands");
  const acc = accumulatorOf(o.q.dtype);
  const g = toHeads(b, cotangent);
  const p = probabilities(b, scores(b, o, attributes), lse);
  const delta = b.sum(b.mul(b.cast(g, acc), b.cast(toHeads(b, out), acc)), [3]);
  const dp = b.matmul(g, b.permute(o.v, [0, 2, 3, 1]), acc);
  const ds = b.mul(b.mul(p, b.sub(dp, b.restoreAxes(delta, dp.shape, [3]))), numberOf(attributes, "scale"));
  return { p: b.cast(p, o.q.dtype), ds: b.cast(ds, o.q.dtype), g, o };
}

const backward = (result: number, operand: number, decompose: CompositeRow["decompose"]): CompositeRow => ({
  kind: "composite",
  autocast: "as-is",
  ulps: 128,
  vjp: "decompose",
  reference: REFERENCE,
  infer: likeOperand(operand),
  native: { family: "attentionBackward", core: "attentionBackward", result, parameters },
  decompose,
});

export const ATTENTION = {
  attention,
  attentionLogSumExp,
  attentionBackwardQ: backward(0, 1, (b, inputs, attributes) => {
    const { ds, o } = backwardParts(b, inputs, attributes);
    return toHeads(b, b.matmul(ds, toHeads(b, o.k)));
  }),
  attentionBackwardK: backward(1, 2, (b, inputs, attributes) => {
    const { ds, o } = backwardParts(b, inputs, attributes);
    return toHeads(b, b.matmul(b.transpose(ds), toHeads(b, o.q)));
  }),
  attentionBackwardV: backward(2, 3, (b, inputs, attributes) => {
    const { p, g } = backwardParts(b, inputs, attributes);
    return toHeads(b, b.matmul(b.transpose(p), g));
  }),
} as const;
