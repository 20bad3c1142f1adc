/** What every row refuses, and with which sentence; the autocast class of every row as a golden table. */
import { describe, expect, it } from "vitest";
import { BinadeError, type ErrorCode } from "../../src/errors.ts";
import { DTYPES, type DType, isFloat } from "../../src/formats/index.ts";
import { build as b, createInput, createNode, type Node, type Op } from "../../src/ir/graph.ts";
import { ELEMENTWISE } from "../../src/ops/elementwise.ts";
import { OPS } from "../../src/ops/index.ts";
import { autocast, castOperands } from "../../src/precision/autocast.ts";

const leaf = (shape: readonly number[], dtype: DType = "float32"): Node => createInput(shape, dtype);

function caught(body: () => unknown): BinadeError {
  try {
    body();
  } catch (error) {
    if (error instanceof BinadeError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

function expectError(body: () => unknown, code: ErrorCode, ...parts: readonly string[]): void {
  const { code: got, message } = caught(body);
  expect(got, message).toBe(code);
  for (const part of parts) expect(message).toContain(part);
}

const ROWS = Object.values(ELEMENTWISE);
const conditionsOf = (op: Op): readonly number[] =>
  op.name === "where" ? [0] : op.name === "logicalNot" ? [0] : op.name.startsWith("logical") ? [0, 1] : [];
const operandsOf = (op: Op & { slots: readonly string[] }, make: (i: number) => Node): Node[] =>
  op.slots.map((_, i) => (conditionsOf(op).includes(i) ? leaf(make(i).shape, "bool") : make(i)));

const COMPARISONS = ["equal", "notEqual", "less", "lessEqual", "greater", "greaterEqual"];
const NUMBERS = ["add", "sub", "mul", "neg", "minimum", "maximum"];
/** dtypes that a row computes on, stated here and not derived from it. */
function accepted(name: string): readonly DType[] {
  if (name.startsWith("logical")) return ["bool"];
  if (COMPARISONS.includes(name) || name === "where") return DTYPES;
  return DTYPES.filter((d) => isFloat(d) || (NUMBERS.includes(name) && (d === "int32" || d === "uint32")));
}

describe("pointwise rows refuse", () => {
  it.each(ROWS.filter((op) => op.slots.length > 1))("$name: shapes that do not broadcast", (op) => {
    const operands = operandsOf(op, (i) => leaf(i === op.slots.length - 1 ? [4] : [2, 3]));
    expectError(() => b.pointwise(op, operands), "shape.mismatch", `${op.name}: `, "[2, 3]", "[4]", "reshape");
    expectError(() => createNode(op, operands), "shape.mismatch", `${op.name}: `, "[2, 3]", "[4]", "make them equal");
  });

  const mixable = ROWS.filter((op) => op.slots.length - conditionsOf(op).length > 1);
  it.each(mixable)("$name: two dtypes", (op) => {
    const of = (last: DType): Node[] => operandsOf(op, (i) => leaf([2], i === op.slots.length - 1 ? last : "float16"));
    expectError(() => createNode(op, of("float32")), "dtype.mismatch", `${op.name}: `, "float16", "float32", "cast");
    expectError(() => createNode(op, of("bfloat16")), "dtype.mismatch", `${op.name}: `, "float16", "bfloat16", "cast");
  });

  it.each(
    mixable.filter((op) => op.autocast === "widest"),
  )("$name: float16 with bfloat16, also where wider operands win", (op) => {
    const operands = operandsOf(op, (i) => leaf([2], i === op.slots.length - 1 ? "bfloat16" : "float16"));
    expectError(() => castOperands(op, operands), "dtype.mismatch", `${op.name}: `, "float16", "bfloat16", "cast");
    const mixed = operandsOf(op, (i) => leaf([2], i === op.slots.length - 1 ? "float32" : "float16"));
    expect(
      castOperands(op, mixed)
        .filter((n) => isFloat(n.dtype))
        .map((n) => n.dtype),
    ).toEqual(op.slots.flatMap((_, i) => (conditionsOf(op).includes(i) ? [] : ["float32"])));
  });

  it.each(ROWS)("$name: dtypes that it does not compute on", (op) => {
    for (const dtype of DTYPES) {
      const make = (): Node =>
        createNode(
          op,
          op.slots.map((_, i) => leaf([2], op.name === "where" && i === 0 ? "bool" : dtype)),
        );
      if (accepted(op.name).includes(dtype)) expect(make().shape).toEqual([2]);
      else
        expectError(
          make,
          op.name.startsWith("logical") ? "dtype.mismatch" : "dtype.unsupported",
          `${op.name}: `,
          dtype,
        );
    }
  });

  it("where: a condition that is not bool", () => {
    expectError(
      () => createNode(OPS.where, [leaf([2]), leaf([2]), leaf([2])]),
      "dtype.mismatch",
      "where: ",
      "float32",
      "expected bool",
      "compare first",
    );
  });

  it("numbers that an integer tensor cannot hold", () => {
    for (const [value, dtype] of [
      [2.5, "int32"],
      [-1, "uint32"],
      [256, "uint8"],
      [2 ** 31, "int32"],
      [Number.NaN, "int32"],
      [2, "bool"],
    ] as const) {
      expectError(() => b.equal(leaf([2], dtype), value), "value.range", String(value), dtype, "cast");
    }
    expect(b.mul(leaf([2], "int32"), -3).dtype).toBe("int32");
    expect(b.mul(leaf([2], "bfloat16"), 1e9).dtype).toBe("bfloat16");
  });
});

type Refusal = readonly [string, () => unknown, ErrorCode, readonly string[]];

const x23 = (): Node => leaf([2, 3]);
/** The rows of convolution, of operands that do not fit; the functions have more to say (test/tensor/convolution.test.ts). */
function convolutionRefusals(): readonly Refusal[] {
  const form = { stride: [1], padding: [0, 0], dilation: [1], groups: 1, dtype: "float32" };
  const of =
    (
      name: "convolution" | "convolutionInputGradient" | "convolutionWeightGradient",
      a: number[],
      w: number[],
      more = {},
    ) =>
    () =>
      b.composite(name, [leaf(a), leaf(w)], { ...form, ...more });
  return [
    [
      "convolution of matrices",
      of("convolution", [2, 3], [2, 3]),
      "shape.invalid",
      ["convolution: ", "[2, 3]", "length"],
    ],
    [
      "convolution of other channels",
      of("convolution", [1, 3, 5], [2, 2, 3]),
      "shape.mismatch",
      ["3 channels", "takes 2"],
    ],
    ["convolution in groups", of("convolution", [1, 4, 5], [3, 2, 3], { groups: 2 }), "shape.invalid", ["groups 2"]],
    ["convolution past the input", of("convolution", [1, 2, 2], [2, 2, 3]), "shape.invalid", ["[3]", "[2]", "padding"]],
    [
      "convolution of two dtypes",
      () => b.composite("convolution", [leaf([1, 1, 3]), leaf([1, 1, 1], "float16")], form),
      "dtype.mismatch",
      ["convolution: ", "float16"],
    ],
    [
      "the input gradient of another result",
      of("convolutionInputGradient", [1, 2, 3], [2, 2, 3], { extents: [6] }),
      "shape.mismatch",
      ["convolutionInputGradient: ", "[1, 2, 4]", "[1, 2, 3]"],
    ],
    [
      "the weight gradient of another result",
      of("convolutionWeightGradient", [1, 2, 6], [1, 2, 3], { kernel: [3] }),
      "shape.mismatch",
      ["convolutionWeightGradient: ", "[1, 2, 4]", "[1, 2, 3]"],
    ],
  ];
}

const REFUSALS: readonly Refusal[] = [
  ["reshape to another size", () => b.reshape(x23(), [4]), "shape.mismatch", ["reshape: ", "6", "4"]],
  ["reshape to fractions", () => b.reshape(x23(), [2.5, 2.4]), "shape.invalid", ["reshape: ", "[2.5, 2.4]", "whole"]],
  ["reshape to negative extents", () => b.reshape(x23(), [-2, -3]), "shape.invalid", ["reshape: ", "[-2, -3]"]],
  ["permute by no permutation", () => b.permute(x23(), [0, 0]), "shape.invalid", ["permute: ", "[0, 0]", "2 axes"]],
  ["permute of another rank", () => b.permute(x23(), [0, 1, 2]), "shape.invalid", ["permute: ", "[0, 1, 2]"]],
  [
    "broadcast against an axis",
    () => b.broadcastTo(x23(), [3, 3]),
    "shape.mismatch",
    ["broadcast: ", "[2, 3]", "[3, 3]"],
  ],
  ["broadcast to fewer axes", () => b.broadcastTo(x23(), [3]), "shape.mismatch", ["broadcast: ", "[2, 3]", "[3]"]],
  [
    "broadcast of 1 to a negative extent",
    () => b.broadcastTo(leaf([1]), [-4]),
    "shape.invalid",
    ["broadcast: ", "[-4]"],
  ],
  ["slice outside", () => b.slice(x23(), [0, 2], [2, 2]), "shape.invalid", ["slice: ", "[0, 2]", "[2, 2]", "[2, 3]"]],
  ["slice of everything from 1 on", () => b.slice(x23(), [1, 0], [2, 3]), "shape.invalid", ["slice: ", "[1, 0]"]],
  ["permute of fewer axes", () => b.permute(x23(), [0]), "shape.invalid", ["permute: ", "[0]"]],
  ["slice of negative length", () => b.slice(x23(), [1, 1], [-1, 2]), "shape.invalid", ["slice: ", "[-1, 2]"]],
  ["slice from a fraction", () => b.slice(x23(), [0.5, 0], [1, 3]), "shape.invalid", ["slice: ", "[0.5, 0]"]],
  ["pad outside", () => b.pad(x23(), [1, 0], [2, 3]), "shape.invalid", ["pad: ", "[2, 3]", "[1, 0]"]],
  [
    "concatenate nothing",
    () => createNode(OPS.concatenate, [], { axis: 0 }),
    "shape.invalid",
    ["concatenate: ", "none"],
  ],
  [
    "concatenate other shapes",
    () => b.concatenate([x23(), leaf([2, 4])], 0),
    "shape.mismatch",
    ["concatenate: ", "[2, 3]", "[2, 4]", "axis 0"],
  ],
  [
    "concatenate other dtypes",
    () => b.concatenate([x23(), leaf([2, 3], "float16")], 0),
    "dtype.mismatch",
    ["concatenate: ", "float32", "float16"],
  ],
  ["sum of booleans", () => b.sum(leaf([3], "bool"), [0]), "dtype.unsupported", ["sum: ", "bool", "cast"]],
  ["sum of bytes", () => b.sum(leaf([3], "uint8"), [0]), "dtype.unsupported", ["sum: ", "uint8", "cast"]],
  ["mean of integers", () => b.mean(leaf([3], "int32"), [0]), "dtype.unsupported", ["mean: ", "int32", "cast"]],
  ["max of nothing", () => b.max(leaf([2, 0]), [1]), "shape.invalid", ["max: ", "[1]", "[2, 0]"]],
  ["argMin of nothing", () => createNode(OPS.argMin, [leaf([0])], { axes: [0] }), "shape.invalid", ["argMin: ", "[0]"]],
  [
    "matmul of other inner sizes",
    () => b.matmul(x23(), leaf([4, 5])),
    "shape.mismatch",
    ["matmul: ", "[2, 3]", "[4, 5]", "3 and 4"],
  ],
  ["matmul that wants a transpose", () => b.matmul(x23(), leaf([5, 3])), "shape.mismatch", ["matmul: ", "transpose()"]],
  [
    "matmul of other batches",
    () => b.matmul(leaf([2, 3, 4]), leaf([5, 4, 3])),
    "shape.mismatch",
    ["matmul: ", "[2, 3, 4]", "[5, 4, 3]", "batch"],
  ],
  ["matmul of a vector", () => b.matmul(leaf([3]), leaf([3, 2])), "shape.invalid", ["matmul: ", "[3]", "[3, 2]"]],
  [
    "matmul of two dtypes",
    () => b.matmul(x23(), leaf([3, 2], "bfloat16")),
    "dtype.mismatch",
    ["matmul: ", "float32", "bfloat16"],
  ],
  [
    "matmul of integers",
    () => b.matmul(leaf([2, 2], "int32"), leaf([2, 2], "int32")),
    "dtype.unsupported",
    ["matmul: ", "int32"],
  ],
  [
    "magnitudeCounts of 16 bits",
    () => b.magnitudeCounts(leaf([2], "bfloat16")),
    "dtype.unsupported",
    ["magnitudeCounts: ", "float32", "bfloat16"],
  ],
  [
    "magnitudeCounts of more than int32 counts",
    () => b.magnitudeCounts(leaf([2 ** 16, 2 ** 15])),
    "shape.invalid",
    ["magnitudeCounts: ", "2^31", "[65536, 32768]"],
  ],
  ["gather by floats", () => b.gather(x23(), leaf([1])), "dtype.unsupported", ["gather: ", "float32", "int32"]],
  [
    "scatterAdd by floats",
    () => b.scatterAdd(x23(), leaf([2]), { axis: 0, rows: 4, dtype: "float32" }),
    "dtype.unsupported",
    ["scatterAdd: ", "float32", "int32"],
  ],
  [
    "scatterAdd of other axes",
    () => b.scatterAdd(x23(), leaf([3], "int32"), { axis: 0, rows: 4, dtype: "float32" }),
    "shape.mismatch",
    ["scatterAdd: ", "[2, 3]", "[3]"],
  ],
  [
    "crossEntropy of float labels",
    () => b.composite("crossEntropyRows", [x23(), leaf([2])], { ignore: -100 }),
    "dtype.unsupported",
    ["crossEntropyRows: ", "float32", "int32"],
  ],
  [
    "crossEntropy of other rows",
    () => b.composite("crossEntropyRows", [x23(), leaf([3], "int32")], { ignore: -100 }),
    "shape.mismatch",
    ["crossEntropyRows: ", "[2, 3]", "[2]", "[3]"],
  ],
  [
    "attention of three axes",
    () => b.composite("attention", [x23(), x23(), x23()], { scale: 1 }),
    "shape.invalid",
    ["attention: ", "[2, 3]", "batch, time, heads, width"],
  ],
  [
    "attention of other widths",
    () => b.composite("attention", [leaf([1, 2, 1, 4]), leaf([1, 2, 1, 3]), leaf([1, 2, 1, 3])], { scale: 1 }),
    "shape.mismatch",
    ["attention: ", "[1, 2, 1, 4]", "[1, 2, 1, 3]"],
  ],
  [
    "attention of k and v of other lengths",
    () => b.composite("attention", [leaf([1, 2, 1, 4]), leaf([1, 2, 1, 4]), leaf([1, 3, 1, 4])], { scale: 1 }),
    "shape.mismatch",
    ["attention: ", "equally long"],
  ],
  [
    "attention of two dtypes",
    () =>
      b.composite("attention", [leaf([1, 2, 1, 4]), leaf([1, 2, 1, 4]), leaf([1, 2, 1, 4], "float16")], { scale: 1 }),
    "dtype.mismatch",
    ["attention: ", "float16"],
  ],
  [
    "windows that do not fit",
    () => b.windows(x23(), { kernel: [3, 1], stride: [1, 1], dilation: [1, 1] }),
    "shape.invalid",
    ["windows: ", "[3, 1]", "[2, 3]", "pad it"],
  ],
  [
    "windows without a stride",
    () => b.windows(x23(), { kernel: [2], stride: [0], dilation: [1] }),
    "shape.invalid",
    ["windows: ", "stride [0]", "from 1 on"],
  ],
  [
    "overlapAdd of other windows",
    () =>
      b.composite("overlapAdd", [x23()], { kernel: [3], stride: [1], dilation: [1], extents: [5], dtype: "float32" }),
    "shape.mismatch",
    ["overlapAdd: ", "[2, 3]", "[3, 3]"],
  ],
  ...convolutionRefusals(),
  ["random by a float key", () => b.random(leaf([4]), [2], 0), "dtype.mismatch", ["random: ", "uint32", "float32"]],
  ["random by a short key", () => b.random(leaf([3], "uint32"), [2], 0), "dtype.mismatch", ["random: ", "[3]"]],
  ["a constant of negative extent", () => b.constant(1, [-1]), "shape.invalid", ["constant: ", "[-1]"]],
  ["iota of a fraction", () => b.iota(2.5), "shape.invalid", ["iota: ", "[2.5]"]],
];

describe("structured rows refuse", () => {
  it.each(REFUSALS)("%s", (_, body, code, parts) => expectError(body, code, ...parts));
});

describe("autocast classes", () => {
  const CLASSES = ["narrow", "wide", "widest", "as-is"];
  it("are these, row by row", async () => {
    const lines = Object.values<Op>(OPS).map(({ name, kind, autocast: rule, uncast }) => {
      expect(typeof rule === "object" || CLASSES.includes(rule)).toBe(true);
      const kept = uncast === undefined ? "" : `  operands ${uncast.join(", ")} are left alone`;
      return `${name.padEnd(23)} ${kind.padEnd(13)}${typeof rule === "object" ? `refuse: ${rule.refuse}` : rule}${kept}`;
    });
    await expect(`${lines.join("\n")}\n`).toMatchFileSnapshot("../golden/autocast.txt");
  });

  it.each(["float16", "bfloat16"] as const)("decide the operands' dtypes in a %s region", (compute) => {
    for (const op of Object.values<Op>(OPS)) {
      if (typeof op.autocast === "object") continue;
      const operands = [leaf([2], "float32"), leaf([2], "float32"), leaf([2], "int32"), leaf([2], "float64")];
      const [x, , integer, wide] = autocast(compute, () => castOperands({ ...op, uncast: [1] }, operands));
      const expected = { narrow: compute, wide: "float32", widest: "float64", "as-is": "float32" }[op.autocast];
      expect([op.name, x?.dtype, integer?.dtype, wide?.dtype]).toEqual([op.name, expected, "int32", "float64"]);
    }
  });
});
