/** Matrix products. Operands of 16 bits, sums of float32 (invariant 4). Transposition is a view: there is one product. */
import { BinadeError } from "../errors.ts";
import { isFloat } from "../formats/table.ts";
import { type ContractionRow, type Node, nameRows } from "./define.ts";
import { dtypeOf } from "./movement.ts";
import { commonDType } from "./pointwise.ts";
import { extent, type Shape, showShape } from "./shape.ts";

function inferProduct(a: Node, w: Node): Shape {
  const inner = extent(a.shape, a.shape.length - 1);
  const rows = extent(w.shape, w.shape.length - 2);
  if (inner !== rows) {
    const last = extent(w.shape, w.shape.length - 1);
    const fix = inner === last ? "; did you mean b.transpose()?" : "; make the inner sizes equal";
    throw new BinadeError(
      "shape.mismatch",
      `${showShape(a.shape)} × ${showShape(w.shape)} — inner sizes ${inner} and ${rows} differ${fix}`,
    );
  }
  const batchA = a.shape.slice(0, -2);
  if (batchA.length !== w.shape.length - 2 || batchA.some((n, i) => n !== w.shape[i])) {
    throw new BinadeError(
      "shape.mismatch",
      `${showShape(a.shape)} × ${showShape(w.shape)} — batch axes differ; broadcast them first`,
    );
  }
  return [...batchA, extent(a.shape, a.shape.length - 2), extent(w.shape, w.shape.length - 1)];
}

/** (…, m, k) × (…, k, n) → (…, m, n) in `attributes.dtype`: the operands' dtype, or float32 sums left unrounded. */
const matmul: ContractionRow = {
  kind: "contraction",
  autocast: "narrow",
  infer: (inputs, attributes) => {
    const [a, w] = inputs;
    if (a === undefined || w === undefined || a.shape.length < 2 || w.shape.length < 2) {
      throw new BinadeError(
        "shape.invalid",
        `expected two operands of at least 2 axes, got ${inputs.map((n) => showShape(n.shape)).join(" and ")}`,
      );
    }
    const dtype = commonDType(inputs);
    if (!isFloat(dtype))
      throw new BinadeError("dtype.unsupported", `expected floating operands, got ${dtype}; cast them first`);
    return { shape: inferProduct(a, w), dtype: dtypeOf(attributes) };
  },
  vjp: ({ b, g, ins: [a, w], wanted }) => {
    if (a === undefined || w === undefined) return [];
    // A product that yields a variable's gradient leaves the accumulators in float32 (invariant 5).
    return [
      () => b.matmul(b.cast(g, a.dtype), b.transpose(w), wanted[0] ?? a.dtype),
      () => b.matmul(b.transpose(a), b.cast(g, a.dtype), wanted[1] ?? w.dtype),
    ];
  },
};

export const LINEAR = nameRows({ matmul });
