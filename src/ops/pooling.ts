/** Pooling and resampling of the last axes: rows over the taps of each output position, and their transposes. */
import { BinadeError } from "../errors.ts";
import { type DType, isFloat } from "../formats/table.ts";
import type { Builder } from "./builder.ts";
import { type Attributes, operandAt as at, type CompositeRow, type Infer, listOf, type Node } from "./define.ts";
import { type Shape, sameShape, showShape, sizeOf } from "./shape.ts";
import { type TapAxis, type TapNodes, tapAxes, tapCount, tapNodes, tapParameters } from "./taps.ts";

/** The axes before those that are pooled. */
const leadOf = (shape: Shape, attributes: Attributes): Shape =>
  shape.slice(0, shape.length - listOf(attributes, "input").length);

/** From the extents in the attribute `from` to those in `to`, the other axes unchanged. */
const between =
  (from: "input" | "output", to: "input" | "output", dtype: (x: Node, attributes: Attributes) => DType): Infer =>
  (inputs, attributes) => {
    const x = at(inputs, 0);
    const lead = leadOf(x.shape, attributes);
    if (!isFloat(x.dtype))
      throw new BinadeError("dtype.unsupported", `expected a floating dtype, got ${x.dtype}; cast it first`);
    if (!sameShape(x.shape, [...lead, ...listOf(attributes, from)])) {
      throw new BinadeError(
        "shape.mismatch",
        `${showShape(x.shape)} does not end with the extents ${showShape(listOf(attributes, from))}; give both alike`,
      );
    }
    return { shape: [...lead, ...listOf(attributes, to)], dtype: dtype(x, attributes) };
  };

const sameDType = (x: Node): DType => x.dtype;
const givenDType = (x: Node, { dtype }: Attributes): DType => (dtype as DType | undefined) ?? x.dtype;

/** `mask` (output, count), repeated over every axis of a shape in which it stands at `axis`. */
const standing = (b: Builder, mask: Node, shape: Shape, axis: number): Node =>
  b.broadcastTo(b.reshape(mask, [...mask.shape, ...shape.slice(axis + 2).map(() => 1)]), shape);

/** x · weight, and 0 for taps outside, whatever x is. */
function weigh(b: Builder, x: Node, { valid, weights }: TapNodes, axis: number): Node {
  const weighted = weights === null ? x : b.mul(x, standing(b, weights, x.shape, axis));
  return valid === null ? weighted : b.where(standing(b, valid, x.shape, axis), weighted, 0);
}

/** How many elements each output position is the mean of, (output…) in x's dtype; null where it is a sum. */
function divisors(b: Builder, axes: readonly TapAxis[], attributes: Attributes, x: Node): Node | null {
  const output = listOf(attributes, "output");
  if (attributes.divide === "none") return null;
  if (attributes.divide === "size") return b.constant(sizeOf(axes.map((axis) => axis.size)), output, x.dtype);
  return axes.reduce<Node>(
    (product, axis, i) => {
      const { valid, count } = tapNodes(b, axis, x.dtype);
      const counts = valid === null ? b.constant(count, [axis.output], x.dtype) : b.sum(b.cast(valid, x.dtype), [1]);
      const placed = b.reshape(counts, [axis.output, ...output.slice(i + 1).map(() => 1)]);
      return b.mul(product, b.broadcastTo(placed, output));
    },
    b.constant(1, output, x.dtype),
  );
}

function divided(b: Builder, x: Node, axes: readonly TapAxis[], attributes: Attributes): Node {
  const by = divisors(b, axes, attributes, x);
  return by === null ? x : b.div(x, b.broadcastTo(by, x.shape));
}

/** (…, input…) → (…, output…): the sum of each position's taps, last axis first, weighted or divided by their number. */
const resampling = (autocast: "as-is" | "wide"): CompositeRow => ({
  kind: "composite",
  autocast,
  ulps: 16,
  infer: between("input", "output", givenDType),
  native: { family: "plane", core: "resample", result: 0, parameters: tapParameters },
  decompose: (b, inputs, attributes) => {
    const axes = tapAxes(attributes);
    const lead = leadOf(at(inputs, 0).shape, attributes).length;
    const sums = axes.reduceRight(
      (x, axis, i) => {
        const taps = tapNodes(b, axis, x.dtype);
        return b.sum(weigh(b, b.gather(x, taps.positions, lead + i), taps, lead + i), [lead + i + 1]);
      },
      b.widen(at(inputs, 0)),
    );
    return b.cast(divided(b, sums, axes, attributes), givenDType(at(inputs, 0), attributes));
  },
  vjp: ({ b, g, ins: [x], attributes, wanted: [dtype] }) => [
    () => b.composite("resampleBackward", [g], { ...attributes, dtype: dtype ?? x?.dtype ?? g.dtype }),
  ],
});

/** The transpose of `resample`: each element goes back to its taps, in float32; sums are rounded once. */
const resampleBackward: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 16,
  infer: between("output", "input", givenDType),
  native: { family: "plane", core: "resampleBackward", result: 0, parameters: tapParameters },
  decompose: (b, inputs, attributes) => {
    const axes = tapAxes(attributes);
    const lead = leadOf(at(inputs, 0).shape, attributes).length;
    const back = axes.reduce(
      (g, axis, i) => {
        const taps = tapNodes(b, axis, g.dtype);
        const place = lead + i;
        const shape = [...g.shape.slice(0, place + 1), taps.count, ...g.shape.slice(place + 1)];
        const column = b.reshape(g, [...g.shape.slice(0, place + 1), 1, ...g.shape.slice(place + 1)]);
        const values = weigh(b, b.broadcastTo(column, shape), taps, place);
        return b.scatterAdd(values, taps.positions, { axis: place, rows: axis.input, dtype: g.dtype });
      },
      divided(b, b.widen(at(inputs, 0)), axes, attributes),
    );
    return b.cast(back, givenDType(at(inputs, 0), attributes));
  },
  vjp: ({ b, g, ins: [x], attributes }) => [
    () => b.composite("resample", [g], { ...attributes, dtype: x?.dtype ?? g.dtype }),
  ],
};

/** Order of axes in which each axis of positions is followed by that of its taps, and back. */
const pairs = (lead: number, rank: number): readonly number[] =>
  Array.from({ length: rank }, (_, i) => [lead + i, lead + rank + i]).flat();
const unpairs = (lead: number, rank: number): readonly number[] => [
  ...Array.from({ length: rank }, (_, i) => lead + 2 * i),
  ...Array.from({ length: rank }, (_, i) => lead + 2 * i + 1),
];
const count = (n: number): readonly number[] => Array.from({ length: n }, (_, i) => i);

/** The windows (…, output…, count…) of x, with −∞ outside, their maxima, and the first tap that holds each. */
function maxima(b: Builder, x: Node, attributes: Attributes): { top: Node; index: Node } {
  const axes = tapAxes(attributes);
  const lead = leadOf(x.shape, attributes).length;
  const gathered = axes.reduceRight(
    ({ values, valid }, axis, i) => {
      const taps = tapNodes(b, axis, x.dtype);
      const found = b.gather(values, taps.positions, lead + i);
      const known = valid === null ? null : b.gather(valid, taps.positions, lead + i);
      const own = taps.valid === null ? null : standing(b, taps.valid, found.shape, lead + i);
      return { values: found, valid: known === null ? own : own === null ? known : b.and(known, own) };
    },
    { values: x, valid: null as Node | null },
  );
  const order = [...count(lead), ...unpairs(lead, axes.length)];
  const values = b.permute(gathered.values, order);
  const valid = gathered.valid === null ? null : b.permute(gathered.valid, order);
  const windows = valid === null ? values : b.where(valid, values, Number.NEGATIVE_INFINITY);
  const over = count(axes.length).map((i) => lead + axes.length + i);
  const top = b.max(windows, over);
  const isTop = b.or(b.equal(windows, b.restoreAxes(top, windows.shape, over)), b.notEqual(windows, windows));
  const sizes = axes.map(tapCount);
  const position = b.broadcastTo(b.reshape(b.cast(b.iota(sizeOf(sizes)), "float32"), sizes), windows.shape);
  const candidates = b.where(valid === null ? isTop : b.and(isTop, valid), position, sizeOf(sizes));
  return { top, index: b.min(candidates, over) };
}

/** Positions in windows of at most 256 taps take a byte. */
const indexDType = (_: Node, attributes: Attributes): DType =>
  sizeOf(tapAxes(attributes).map(tapCount)) <= 256 ? "uint8" : "int32";

/** (…, input…) → (…, output…): the greatest of each position's taps; NaN if one is NaN. */
const maxPool: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 0,
  infer: between("input", "output", sameDType),
  native: { family: "plane", core: "maxPool", result: 0, parameters: tapParameters },
  decompose: (b, inputs, attributes) => maxima(b, at(inputs, 0), attributes).top,
  vjp: ({ b, g, ins: [x], attributes, wanted: [dtype] }) => [
    () =>
      b.composite("maxPoolBackward", [g, b.composite("maxPoolIndex", [x ?? g], attributes)], {
        ...attributes,
        dtype: dtype ?? x?.dtype ?? g.dtype,
      }),
  ],
};

/** Which tap, row-major in its window, is the first to hold the maximum, or NaN. */
const maxPoolIndex: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 0,
  vjp: "none",
  infer: between("input", "output", indexDType),
  native: { family: "plane", core: "maxPool", result: 1, parameters: tapParameters },
  decompose: (b, inputs, attributes) =>
    b.cast(maxima(b, at(inputs, 0), attributes).index, indexDType(at(inputs, 0), attributes)),
};

/** Each element of g goes to the tap that its index names; sums in float32, rounded once. */
const maxPoolBackward: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 4,
  vjp: "decompose",
  infer: between("output", "input", givenDType),
  native: { family: "plane", core: "maxPoolBackward", result: 0, parameters: tapParameters },
  decompose: (b, inputs, attributes) => {
    const axes = tapAxes(attributes);
    const [g, index] = [b.widen(at(inputs, 0)), b.cast(at(inputs, 1), "int32")];
    const [lead, sizes] = [leadOf(g.shape, attributes), axes.map(tapCount)];
    const over = sizes.map((_, i) => g.shape.length + i);
    const shape = [...g.shape, ...sizes];
    const hot = b.equal(
      b.restoreAxes(index, shape, over),
      b.broadcastTo(b.reshape(b.iota(sizeOf(sizes)), sizes), shape),
    );
    const values = b.permute(b.where(hot, b.restoreAxes(g, shape, over), 0), [
      ...count(lead.length),
      ...pairs(lead.length, axes.length),
    ]);
    const back = axes.reduceRight(
      (sums, axis, i) =>
        b.scatterAdd(sums, tapNodes(b, axis, g.dtype).positions, {
          axis: lead.length + 2 * i,
          rows: axis.input,
          dtype: g.dtype,
        }),
      values,
    );
    return b.cast(back, givenDType(at(inputs, 0), attributes));
  },
};

export const POOLING = {
  resample: resampling("as-is"),
  /** `resample` of pictures, which PyTorch's autocast computes in float32. */
  upsample: resampling("wide"),
  resampleBackward,
  maxPool,
  maxPoolIndex,
  maxPoolBackward,
} as const;
