/** Reductions along axes. Sums accumulate in float32 at least (invariant 4); a 16-bit result is rounded once, at the end. */
import { BinadeError } from "../errors.ts";
import { type DType, isFloat } from "../formats/table.ts";
import { type Autocast, type Combine, type Infer, listOf, nameRows, type ReduceRow, type Vjp } from "./define.ts";
import { dtypeOf } from "./movement.ts";
import { extent } from "./shape.ts";

const SUMMED: readonly DType[] = ["int32", "uint32"];

const inferReduced =
  (result: "attribute" | "same" | "int32"): Infer =>
  ([x], attributes) => {
    const axes = listOf(attributes, "axes");
    const from = x?.shape ?? [];
    if (result === "attribute" && x !== undefined && !SUMMED.some((d) => d === x.dtype) && !isFloat(x.dtype)) {
      throw new BinadeError(
        "dtype.unsupported",
        `expected a floating dtype, int32 or uint32, got ${x.dtype}, which cannot hold a sum; cast it first, for instance x.cast("int32")`,
      );
    }
    if (result !== "attribute" && axes.some((axis) => extent(from, axis) === 0)) {
      throw new BinadeError(
        "shape.invalid",
        `no elements along axes [${axes.join(", ")}] of shape [${from.join(", ")}]; an empty maximum does not exist`,
      );
    }
    const shape = from.filter((_, axis) => !axes.includes(axis));
    return {
      shape,
      dtype: result === "attribute" ? dtypeOf(attributes) : result === "int32" ? "int32" : (x?.dtype ?? "float32"),
    };
  };

const reduction = (
  combine: Combine,
  autocast: Autocast,
  result: "attribute" | "same" | "int32",
  vjp: Vjp | "none",
): ReduceRow => ({
  kind: "reduce",
  combine,
  autocast,
  infer: inferReduced(result),
  vjp,
});

const sum = reduction("sum", "wide", "attribute", ({ b, g, ins: [x], attributes }) => [
  x !== undefined && isFloat(x.dtype)
    ? () => b.cast(b.restoreAxes(g, x.shape, listOf(attributes, "axes")), x.dtype)
    : null,
]);

/** The gradient is shared evenly among equal extremes, as PyTorch's amax does. */
const extremeVjp: Vjp = ({ b, g, out, ins: [x], attributes }) => {
  if (x === undefined) return [];
  const axes = listOf(attributes, "axes");
  return [
    () => {
      const hits = b.cast(b.equal(x, b.restoreAxes(out, x.shape, axes)), x.dtype);
      const count = b.restoreAxes(b.sum(hits, axes), x.shape, axes);
      return b.mul(hits, b.div(b.restoreAxes(g, x.shape, axes), count));
    },
  ];
};

export const REDUCE = nameRows({
  sum,
  max: reduction("max", "as-is", "same", extremeVjp),
  min: reduction("min", "as-is", "same", extremeVjp),
  /** Position of the first maximum along the last of the linearised axes. */
  argMax: reduction("argMax", "as-is", "int32", "none"),
  argMin: reduction("argMin", "as-is", "int32", "none"),
});
