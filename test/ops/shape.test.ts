/** Strided views against plain index arithmetic. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readView } from "../../src/backends/reference/evaluate.ts";
import { BinadeError } from "../../src/errors.ts";
import {
  broadcastShapes,
  broadcastView,
  contiguousView,
  isContiguous,
  normalizeAxes,
  normalizeAxis,
  permuteView,
  requireShape,
  reshapeView,
  rowMajor,
  type Shape,
  sizeOf,
  sliceView,
  type View,
} from "../../src/ops/shape.ts";

const shapes = fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 4 });
const data = (shape: Shape): Float64Array => Float64Array.from({ length: sizeOf(shape) }, (_, i) => i);

/** A view reached by random permutes, slices and broadcasts, and its elements in order. */
const views: fc.Arbitrary<View> = fc
  .tuple(shapes, fc.array(fc.tuple(fc.nat(2), fc.nat(20)), { maxLength: 4 }))
  .map(([shape, steps]) =>
    steps.reduce((view, [kind, n]) => {
      const rank = view.shape.length;
      if (kind === 0)
        return permuteView(
          view,
          view.shape.map((_, i) => (i + n) % rank),
        );
      if (kind === 1)
        return sliceView(
          view,
          view.shape.map((d) => n % d),
          view.shape.map((d) => d - (n % d)),
        );
      return rank < 5 ? broadcastView(view, [1 + (n % 2), ...view.shape]) : view;
    }, contiguousView(shape)),
  );
const elements = (view: View): number[] => [...readView(data([400]), view)];

describe("views", () => {
  it("read what their strides address", () => {
    fc.assert(
      fc.property(views, (view) => {
        const expected = view.shape.reduce<number[]>(
          (list, n, axis) =>
            list.flatMap((at) => Array.from({ length: n }, (_, i) => at + i * (view.strides[axis] ?? 0))),
          [view.offset],
        );
        expect(elements(view)).toEqual(expected);
      }),
    );
  });

  it("reshape to the same elements in the same order, or say that they cannot", () => {
    fc.assert(
      fc.property(views, fc.nat(1000), (view, n) => {
        for (const shape of [
          [sizeOf(view.shape)],
          [...view.shape, 1],
          [1, ...view.shape],
          factored(sizeOf(view.shape), n),
        ]) {
          const reshaped = reshapeView(view, shape);
          if (reshaped !== null) expect(elements(reshaped)).toEqual(elements(view));
          if (isContiguous(view)) expect(reshaped).not.toBeNull();
        }
      }),
      { numRuns: 400 },
    );
  });

  it("of a transpose cannot be flattened, and of a row can", () => {
    const transposed = permuteView(contiguousView([2, 3]), [1, 0]);
    expect(reshapeView(transposed, [6])).toBeNull();
    expect(reshapeView(transposed, [3, 1, 2])).not.toBeNull();
    expect(reshapeView(sliceView(contiguousView([4, 6]), [1, 0], [1, 6]), [2, 3])).toMatchObject({
      offset: 6,
      strides: [3, 1],
    });
    expect(reshapeView(broadcastView(contiguousView([1]), [6]), [2, 3])).toMatchObject({ strides: [0, 0] });
    expect(reshapeView(contiguousView([0, 3]), [3, 0, 2])).not.toBeNull();
  });

  it("are contiguous exactly if they count up by one", () => {
    fc.assert(
      fc.property(views, (view) => {
        const list = elements(view);
        const counts = list.every((v, i) => v === view.offset + i);
        if (isContiguous(view)) expect(counts).toBe(true);
        if (counts && view.shape.every((n) => n > 1)) expect(isContiguous(view)).toBe(true);
      }),
    );
  });
});

function factored(size: number, n: number): Shape {
  const divisor = [2, 3, 4, 1][n % 4] ?? 1;
  return size % divisor === 0 ? [divisor, size / divisor] : [size];
}

describe("shape arithmetic", () => {
  it.each([
    [[], [2], [2]],
    [
      [3, 1],
      [1, 4],
      [3, 4],
    ],
    [[1], [2, 3], [2, 3]],
    [[0], [1], [0]],
    [
      [5, 1, 2],
      [4, 1],
      [5, 4, 2],
    ],
  ])("broadcasts %j and %j to %j", (a, c, expected) => {
    expect(broadcastShapes(a, c, "add")).toEqual(expected);
    expect(broadcastShapes(c, a, "add")).toEqual(expected);
  });

  it("refuses shapes that do not broadcast, naming the axis", () => {
    expect(() => broadcastShapes([2, 3], [2, 4], "add")).toThrow(
      "add: shapes [2, 3] and [2, 4] do not broadcast (axis -1: 3 vs 4)",
    );
    expect(() => broadcastShapes([0], [2], "add")).toThrow(BinadeError);
  });

  it("normalises axes", () => {
    expect([normalizeAxis(-1, 3, "x"), normalizeAxis(0, 3, "x"), normalizeAxes([-1, 0], 3, "x")]).toEqual([
      2,
      0,
      [0, 2],
    ]);
    for (const axis of [3, -4, 0.5, Number.NaN])
      expect(() => normalizeAxis(axis, 3, "sum")).toThrow(`sum: axis ${axis} is outside`);
    expect(() => normalizeAxes([0, -3], 3, "sum")).toThrow("name one axis twice");
  });

  it("requires whole extents", () => {
    expect(requireShape([0, 2])).toEqual([0, 2]);
    for (const shape of [[-1], [1.5], [Number.NaN], [Infinity]]) expect(() => requireShape(shape)).toThrow(BinadeError);
  });

  it("has row-major strides", () => expect(rowMajor([2, 3, 4])).toEqual([12, 4, 1]));
});
