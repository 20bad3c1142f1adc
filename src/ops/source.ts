/** Leaves: inputs, literals, counting sequences, random numbers. */
import { BinadeError } from "../errors.ts";
import { type Infer, listOf, nameRows, numberOf, type SourceRow } from "./define.ts";
import { dtypeOf } from "./movement.ts";
import { requireShape } from "./shape.ts";

const stated: Infer = (_, attributes) => ({
  shape: requireShape(listOf(attributes, "shape")),
  dtype: dtypeOf(attributes),
});

/** A value handed over at run time: a parameter, a batch, a tensor's data. `key` makes it unique. */
const input: SourceRow = {
  kind: "source",
  source: "input",
  autocast: "as-is",
  infer: stated,
  vjp: "none",
};

/** One literal in every element; float32 literals adapt to the dtype of their neighbours. */
const constant: SourceRow = {
  kind: "source",
  source: "constant",
  weak: true,
  autocast: "as-is",
  infer: stated,
  vjp: "none",
};

/** One value in every element of a tensor that someone asked for in this dtype: it meets others as any tensor does. */
const full: SourceRow = { ...constant, weak: false };

/** 0, 1, …, length−1 in int32. */
const iota: SourceRow = {
  kind: "source",
  source: "iota",
  autocast: "as-is",
  infer: (_, attributes) => ({ shape: requireShape([numberOf(attributes, "length")]), dtype: "int32" }),
  vjp: "none",
};

/**
 * Uniform float32 in [0, 1) from Philox4x32-10: a pure function of the operand (four uint32 words: seed low and high,
 * counter, stream), of `stream`, and of the element's position; the same on every backend.
 */
const random: SourceRow = {
  kind: "source",
  source: "random",
  autocast: "as-is",
  infer: ([key], attributes) => {
    if (key?.dtype !== "uint32" || key.shape.length !== 1 || key.shape[0] !== 4) {
      throw new BinadeError(
        "dtype.mismatch",
        `random: expected a key of dtype uint32 and shape [4], got ${key?.dtype} ${JSON.stringify(key?.shape)}; use a RandomStream's key`,
      );
    }
    return { shape: requireShape(listOf(attributes, "shape")), dtype: "float32" };
  },
  vjp: "none",
  reference: "Salmon, Moraes, Dror, Shaw 2011, Parallel Random Numbers: As Easy as 1, 2, 3",
};

export const SOURCE = nameRows({ input, constant, full, iota, random });
