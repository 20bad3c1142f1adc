/** Rows of a table by integer: gather, and its transpose scatter-add. An index outside the table raises a fault. */
import { BinadeError } from "../errors.ts";
import { type DType, isFloat } from "../formats/table.ts";
import { type IndexRow, type Node, nameRows, numberOf } from "./define.ts";
import { dtypeOf } from "./movement.ts";
import { extent } from "./shape.ts";

const INDEX_DTYPES: readonly DType[] = ["int32", "uint32", "uint8"];

function requireIndices(indices: Node): void {
  if (!INDEX_DTYPES.includes(indices.dtype)) {
    throw new BinadeError(
      "dtype.unsupported",
      `indices are ${indices.dtype}, expected int32, uint32 or uint8; cast them, for instance indices.cast("int32")`,
    );
  }
}

/** table (…outer, rows, …inner), indices (…i) → (…outer, …i, …inner), along `attributes.axis`. */
const gather: IndexRow = {
  kind: "index",
  direction: "gather",
  autocast: "as-is",
  infer: ([table, indices], attributes) => {
    if (table === undefined || indices === undefined)
      throw new BinadeError("internal", "internal: gather needs two operands");
    requireIndices(indices);
    const axis = numberOf(attributes, "axis");
    return {
      shape: [...table.shape.slice(0, axis), ...indices.shape, ...table.shape.slice(axis + 1)],
      dtype: table.dtype,
    };
  },
  vjp: ({ b, g, ins: [table, indices], attributes, wanted: [dtype] }) => {
    if (table === undefined || indices === undefined || !isFloat(table.dtype)) return [null, null];
    const axis = numberOf(attributes, "axis");
    return [
      () => b.scatterAdd(g, indices, { axis, rows: extent(table.shape, axis), dtype: dtype ?? table.dtype }),
      null,
    ];
  },
};

/** values (…outer, …i, …inner), indices (…i) → (…outer, rows, …inner): sums of equal indices, in float32, in order. */
const scatterAdd: IndexRow = {
  kind: "index",
  direction: "scatter",
  autocast: "as-is",
  infer: ([values, indices], attributes) => {
    if (values === undefined || indices === undefined)
      throw new BinadeError("internal", "internal: scatterAdd needs two operands");
    requireIndices(indices);
    const axis = numberOf(attributes, "axis");
    const shape = values.shape;
    const inner = shape.slice(axis + indices.shape.length);
    if (indices.shape.some((n, i) => n !== shape[axis + i])) {
      throw new BinadeError(
        "shape.mismatch",
        `values [${shape.join(", ")}] do not hold indices [${indices.shape.join(", ")}] from axis ${axis} on; make those axes equal`,
      );
    }
    return { shape: [...shape.slice(0, axis), numberOf(attributes, "rows"), ...inner], dtype: dtypeOf(attributes) };
  },
  vjp: ({ b, g, ins: [values, indices], attributes }) => {
    if (values === undefined || indices === undefined) return [];
    return [() => b.cast(b.gather(g, indices, numberOf(attributes, "axis")), values.dtype), null];
  },
};

export const INDEXING = nameRows({ gather, scatterAdd });
