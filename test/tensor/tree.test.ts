/** Tensors in structures: casts that leave everything else alone (case 49), and selection as a whole (case 50). */
import { beforeAll, describe, expect, it } from "vitest";
import { castTree, full, selectTree, type Tensor, tensor, useDevice, zeros } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { expectRefusal } from "../support/refusal.ts";

beforeAll(() => {
  useDevice("reference");
});

it("case 49: floats are cast, and nothing else is touched", () => {
  const labels = zeros([2], "int32");
  const mask = zeros([2], "bool");
  const wide = zeros([2], "float64");
  const date = new Date(0);
  const tree = {
    x: zeros([2]),
    nested: [zeros([1], "float16"), { labels, mask, wide }],
    none: null,
    lost: undefined,
    date,
    n: 3,
  };
  const cast = castTree(tree, "bfloat16");
  expect(cast.x.dtype).toBe("bfloat16");
  expect((cast.nested[0] as Tensor).dtype).toBe("bfloat16");
  expect(cast.nested[1]).toMatchObject({
    labels: { dtype: "int32" },
    mask: { dtype: "bool" },
    wide: { dtype: "float64" },
  });
  expect((cast.nested[1] as { labels: Tensor }).labels.node).toBe(labels.node);
  expect([cast.none, cast.lost, cast.date, cast.n]).toEqual([null, undefined, date, 3]);
  expect(Object.keys(cast)).toEqual(Object.keys(tree));
  expect(tree.x.dtype).toBe("float32");
});

it.each([
  "int32",
  "uint8",
  "bool",
  "float31",
])("case 49: a cast to %s is refused: floats would lose their fractions", (dtype) => {
  expectRefusal(() => castTree({ x: tensor([1.5]) }, dtype as "float32"), "option.invalid", [
    "castTree",
    dtype,
    "bfloat16",
  ]);
});

it.each([
  ["a map", new Map([["x", zeros([1])]]), "Map"],
  ["a set inside", { parts: [new Set([zeros([1])])] }, "Set"],
  [
    "an instance",
    new (class Pair {
      readonly first = zeros([1]);
    })(),
    "Pair",
  ],
])("case 49: tensors in %s are refused, which no cast would reach", (_, tree, name) => {
  expectRefusal(() => castTree(tree as object, "bfloat16"), "option.invalid", ["castTree", name]);
});

describe.each(DEVICES)("case 50: on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    [true, [1, 2], 5],
    [false, [3, 4], 6],
  ])("a %s condition takes one side as a whole", async (condition, pair, single) => {
    const chosen = selectTree(
      full([], condition ? 1 : 0, "bool"),
      { pair: tensor([1, 2]), rest: [tensor(5), "same"] as const },
      { pair: tensor([3, 4]), rest: [tensor(6), "same"] as const },
    );
    expect([...(await chosen.pair.data())]).toEqual(pair);
    expect(await chosen.rest[0].item()).toBe(single);
    expect(chosen.rest[1]).toBe("same");
  });
});

describe("case 50: a selection is refused", () => {
  const yes = full([], 1, "bool");
  it.each<[string, () => unknown, string, readonly string[]]>([
    [
      "for a condition with axes",
      () => selectTree(zeros([1], "bool"), zeros([1]), zeros([1])),
      "shape.mismatch",
      ["[1]", "scalar"],
    ],
    [
      "for a condition that is no bool",
      () => selectTree(zeros([]), zeros([1]), zeros([1])),
      "dtype.mismatch",
      ["float32", "notEqual"],
    ],
    [
      "for other keys",
      () => selectTree<object>(yes, { a: zeros([1]) }, { b: zeros([1]) }),
      "shape.mismatch",
      ["at the top"],
    ],
    ["for other lengths", () => selectTree<object>(yes, { a: [zeros([1])] }, { a: [] }), "shape.mismatch", ["at .a"]],
    ["for other shapes", () => selectTree(yes, [zeros([1])], [zeros([2])]), "shape.mismatch", ["[1] and [2] at [0]"]],
    ["for other dtypes", () => selectTree(yes, [zeros([1])], [zeros([1], "int32")]), "dtype.mismatch", ["at [0]"]],
    ["for other values", () => selectTree<unknown>(yes, 1, 2), "shape.mismatch", ["same values"]],
  ])("%s", (_, act, code, parts) => {
    expectRefusal(act, code, parts);
  });
});
