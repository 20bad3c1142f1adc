/** Losses of probabilities, which 16 bits do not hold near 1: refused under autocast. */
import { BinadeError } from "../errors.ts";
import { isFloat } from "../formats/table.ts";
import type { Builder } from "./builder.ts";
import { type CompositeRow, type Node, nameRows, operandAt } from "./define.ts";
import { ELEMENTWISE } from "./elementwise.ts";
import { commonDType } from "./pointwise.ts";
import { sameShape, showShape } from "./shape.ts";

/** Logarithms below it are clamped, so that a probability of exactly 0 or 1 costs 100 and not infinity. */
const LEAST_LOG = -100;
/** p (1 − p) below it is clamped in the gradient. A float32 number in PyTorch, whatever the dtype. */
const LEAST_VARIANCE = Math.fround(1e-12);

const logarithms = (b: Builder, p: Node): { ofOne: Node; ofZero: Node } => ({
  ofOne: b.maximum(b.log(p), LEAST_LOG),
  ofZero: b.maximum(b.pointwise(ELEMENTWISE.log1p, [b.neg(p)]), LEAST_LOG),
});

/**
 * −t log p − (1 − t) log(1 − p), element by element, inside in float32. The gradient is g (p − t) / (p (1 − p)): that of the
 * clamped logarithms would be 0 exactly where a prediction is as wrong as it can be. Both clamps are PyTorch's.
 */
const binaryCrossEntropy: CompositeRow = {
  kind: "composite",
  autocast: {
    refuse: "probabilities near 1 have no 16-bit form: use binaryCrossEntropyWithLogits on what the sigmoid takes",
  },
  ulps: 8,
  infer: (inputs) => {
    const [p, t] = [operandAt(inputs, 0), operandAt(inputs, 1)];
    const dtype = commonDType([p, t]);
    if (!isFloat(dtype))
      throw new BinadeError(
        "dtype.unsupported",
        `expected floating probabilities and targets, got ${dtype}; cast them`,
      );
    if (sameShape(p.shape, t.shape)) return { shape: p.shape, dtype };
    throw new BinadeError(
      "shape.mismatch",
      `probabilities ${showShape(p.shape)} and targets ${showShape(t.shape)} differ; make the shapes equal`,
    );
  },
  decompose: (b, inputs) => {
    const [p, t] = [b.widen(operandAt(inputs, 0)), b.widen(operandAt(inputs, 1))];
    const { ofOne, ofZero } = logarithms(b, p);
    const loss = b.neg(b.add(b.mul(t, ofOne), b.mul(b.sub(1, t), ofZero)));
    return b.cast(loss, commonDType(inputs));
  },
  vjp: ({ b, g, ins, wanted }) => {
    const [p, t, wide] = [b.widen(operandAt(ins, 0)), b.widen(operandAt(ins, 1)), b.widen(g)];
    const back = (cotangent: Node, i: number): Node => b.cast(cotangent, wanted[i] ?? operandAt(ins, i).dtype);
    return [
      () => back(b.mul(wide, b.div(b.sub(p, t), b.maximum(b.mul(p, b.sub(1, p)), LEAST_VARIANCE))), 0),
      () => {
        const { ofOne, ofZero } = logarithms(b, p);
        return back(b.mul(wide, b.sub(ofZero, ofOne)), 1);
      },
    ];
  },
};

export const PROBABILITY = nameRows({ binaryCrossEntropy });
