/** The native reduce kernel: every combine over odd shapes, both vector axes, and the same bits for any thread count. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { addon, at, isas, randomFloats, reduce, runKernels, skipReason, stridesOf } from "./words.ts";

interface Case {
  readonly kept: readonly number[];
  readonly reduced: readonly number[];
  readonly vectorAxis: 0 | 1;
}

const COMBINES = ["sum", "product", "max", "min", "argMax", "argMin"] as const;

/** Reduces x (kept…, reduced…), given by strides into a buffer, with all combines at once. */
function runReduction(x: Float32Array, { kept, reduced, vectorAxis }: Case, strides: readonly number[]) {
  const outputs = kept.reduce((a, b) => a * b, 1);
  const floats = COMBINES.slice(0, 4).map(() => new Float32Array(outputs));
  const positions = COMBINES.slice(4).map(() => new Int32Array(outputs));
  const bindings = [x, ...floats, ...positions];
  const kernel = reduce({
    extents: [...kept, ...reduced],
    keptRank: kept.length,
    vectorAxis,
    combines: COMBINES,
    prologue: {
      registers: 1,
      loads: [{ reg: 0, view: { binding: 1, dtype: "float32", strides } }],
      code: [],
      stores: COMBINES.map((_, buffer) => ({ reg: 0, buffer })),
    },
    epilogue: {
      registers: COMBINES.length,
      loads: COMBINES.map((_, buffer) => ({ reg: buffer, buffer })),
      code: [],
      stores: COMBINES.map((_, i) => ({
        reg: i,
        view: { binding: 2 + i, dtype: i < 4 ? "float32" : "int32", strides: stridesOf(kept) },
      })),
    },
  });
  expect(runKernels([kernel], bindings)).toBeNull();
  return { floats, positions };
}

function offsets(extents: readonly number[], strides: readonly number[]): number[] {
  return extents.reduce<number[]>(
    (list, extent, axis) => list.flatMap((o) => Array.from({ length: extent }, (_, i) => o + i * (strides[axis] ?? 0))),
    [0],
  );
}

const CASES: readonly Case[] = [
  { kept: [1], reduced: [1], vectorAxis: 0 },
  { kept: [1], reduced: [7], vectorAxis: 0 },
  { kept: [5], reduced: [63], vectorAxis: 0 },
  { kept: [33], reduced: [64], vectorAxis: 0 },
  { kept: [3], reduced: [511], vectorAxis: 0 },
  { kept: [2], reduced: [100_001], vectorAxis: 0 },
  { kept: [2, 3], reduced: [5, 129], vectorAxis: 0 },
  { kept: [3], reduced: [300, 70], vectorAxis: 0 },
  { kept: [1], reduced: [9], vectorAxis: 1 },
  { kept: [10], reduced: [77], vectorAxis: 1 },
  { kept: [384], reduced: [2048], vectorAxis: 1 },
  { kept: [513], reduced: [65], vectorAxis: 1 },
  { kept: [3, 17], reduced: [4, 600], vectorAxis: 1 },
  // Rows of three blocks, so many that a task takes whole ones.
  { kept: [1037], reduced: [1090], vectorAxis: 1 },
];

describe.skipIf(skipReason !== undefined).each(isas)("reduce on %s", (isa) => {
  beforeAll(() => addon().setIsa(isa));
  afterAll(() => addon().setThreads(2));

  it.each(CASES)("$kept × $reduced along axis $vectorAxis", (shape) => {
    const extents = [...shape.kept, ...shape.reduced];
    const size = extents.reduce((a, b) => a * b, 1);
    const x = randomFloats(size).map((v) => (v < 0 ? v - 0.5 : v + 0.5));
    // Vector axis 1: kept axes are the contiguous ones.
    const order = [...shape.reduced, ...shape.kept];
    const reversed = stridesOf(order);
    const strides =
      shape.vectorAxis === 0
        ? stridesOf(extents)
        : [...reversed.slice(shape.reduced.length), ...reversed.slice(0, shape.reduced.length)];
    const runs = [1, 2, 3, 8].map((threads) => {
      addon().setThreads(threads);
      return runReduction(x, shape, strides);
    });
    for (const other of runs.slice(1)) expect(other).toEqual(runs[0]);
    const keptOffsets = offsets(shape.kept, strides.slice(0, shape.kept.length));
    const reducedOffsets = offsets(shape.reduced, strides.slice(shape.kept.length));
    const {
      floats: [sum, product, max, min],
      positions: [argMax, argMin],
    } = runs[0] ?? { floats: [], positions: [] };
    keptOffsets.forEach((base, i) => {
      const lanes = reducedOffsets.map((o) => at(x, base + o));
      const exact = lanes.reduce((a, b) => a + b, 0);
      const size1 = lanes.reduce((a, b) => a + Math.abs(b), 0);
      // 64 (or 512) terms to an accumulator, then a tree: far below the count of terms.
      expect(Math.abs((sum?.[i] ?? Number.NaN) - exact)).toBeLessThanOrEqual(size1 * 600 * 2 ** -24);
      const greatest = lanes.reduce((a, b) => Math.max(a, b));
      const least = lanes.reduce((a, b) => Math.min(a, b));
      expect([max?.[i], min?.[i]]).toEqual([greatest, least]);
      expect([argMax?.[i], argMin?.[i]]).toEqual([lanes.indexOf(greatest), lanes.indexOf(least)]);
      const exactProduct = lanes.reduce((a, b) => a * b, 1);
      if (Math.abs(exactProduct) > 1e-30 && lanes.length < 100) {
        expect(Math.abs((product?.[i] ?? Number.NaN) / exactProduct - 1)).toBeLessThan(lanes.length * 2 ** -23);
      }
    });
  });

  it.each([
    0, 1,
  ] as const)("takes the first of equal values, the first NaN, and propagates NaN, along axis %d", (axis) => {
    const inf = Number.POSITIVE_INFINITY;
    const rows = [
      Array.from({ length: 200 }, (_, i) => (i === 70 || i === 134 ? 5 : i % 5)),
      Array.from({ length: 200 }, (_, i) => (i === 90 || i === 20 ? Number.NaN : i)),
      Array.from({ length: 200 }, () => -inf),
      Array.from({ length: 200 }, () => inf),
    ];
    const width = rows.length;
    const x = Float32Array.from({ length: width * 200 }, (_, i) =>
      axis === 0 ? at(rows[Math.floor(i / 200)] ?? [], i % 200) : at(rows[i % width] ?? [], Math.floor(i / width)),
    );
    const shape = { kept: [width], reduced: [200], vectorAxis: axis };
    const { floats, positions } = runReduction(x, shape, axis === 0 ? [200, 1] : [1, width]);
    expect(floats[2]).toEqual(Float32Array.of(5, Number.NaN, -inf, inf));
    expect(floats[3]).toEqual(Float32Array.of(0, Number.NaN, -inf, inf));
    expect(positions[0]).toEqual(Int32Array.of(70, 20, 0, 0));
    expect(positions[1]).toEqual(Int32Array.of(0, 20, 0, 0));
  });

  it("gives identities over nothing", () => {
    const { floats, positions } = runReduction(new Float32Array(0), { kept: [2], reduced: [0], vectorAxis: 0 }, [0, 1]);
    const inf = Number.POSITIVE_INFINITY;
    expect(floats.map((values) => values[1])).toEqual([0, 1, -inf, inf]);
    expect(positions.map((values) => values[1])).toEqual([0, 0]);
  });

  it("computes in the prologue, stores from it, and computes on the sums", () => {
    const x = randomFloats(3000);
    const doubled = new Float32Array(3000);
    const out = new Uint16Array(1);
    const kernel = reduce({
      extents: [1, 3000],
      keptRank: 1,
      vectorAxis: 0,
      combines: ["sum"],
      prologue: {
        registers: 2,
        loads: [{ reg: 0, view: { binding: 1, dtype: "float32", strides: [0, 1] } }],
        code: [
          ["mul", 1, 0, 0],
          ["add", 0, 0, 0],
        ],
        stores: [
          { reg: 1, buffer: 0 },
          { reg: 0, view: { binding: 2, dtype: "float32", strides: [0, 1] } },
        ],
      },
      epilogue: {
        registers: 1,
        loads: [{ reg: 0, buffer: 0 }],
        code: [["sqrt", 0, 0]],
        stores: [{ reg: 0, view: { binding: 3, dtype: "bfloat16", strides: [0] } }],
      },
    });
    expect(runKernels([kernel], [x, doubled, out])).toBeNull();
    expect(doubled).toEqual(x.map((v) => v * 2));
    const norm = Math.sqrt(x.reduce((s, v) => s + v * v, 0));
    const actual = new Float32Array(Uint32Array.of(at(out, 0) << 16).buffer)[0] ?? Number.NaN;
    expect(Math.abs(actual / norm - 1)).toBeLessThan(2 ** -8);
  });

  it("sums integers with wrap-around", () => {
    const x = Int32Array.of(2 ** 31 - 1, 1, 5, -(2 ** 31), ...Array.from({ length: 999 }, (_, i) => i));
    const out = new Int32Array(1);
    const view = (binding: number, strides: number[]) => ({ binding, dtype: "int32", strides }) as const;
    const kernel = reduce({
      extents: [1, x.length],
      keptRank: 1,
      vectorAxis: 0,
      combines: ["sumInt"],
      prologue: { registers: 1, loads: [{ reg: 0, view: view(1, [0, 1]) }], code: [], stores: [{ reg: 0, buffer: 0 }] },
      epilogue: { registers: 1, loads: [{ reg: 0, buffer: 0 }], code: [], stores: [{ reg: 0, view: view(2, [0]) }] },
    });
    expect(runKernels([kernel], [x, out])).toBeNull();
    expect(out[0]).toBe(x.reduce((s, v) => (s + v) | 0, 0));
  });

  it("adds up what was there, where the prologue writes over it", () => {
    const [rows, lanes] = [130, 1040];
    const x = randomFloats(rows * lanes, 11);
    const before = x.slice();
    const out = new Float32Array(lanes);
    const view = (binding: number, strides: number[]) => ({ binding, dtype: "float32", strides }) as const;
    const kernel = reduce({
      extents: [lanes, rows],
      keptRank: 1,
      vectorAxis: 1,
      combines: ["sum"],
      prologue: {
        registers: 2,
        loads: [{ reg: 0, view: view(1, [1, lanes]) }],
        code: [["neg", 1, 0]],
        stores: [
          { reg: 0, buffer: 0 },
          { reg: 1, view: view(1, [1, lanes]) },
        ],
      },
      epilogue: { registers: 1, loads: [{ reg: 0, buffer: 0 }], code: [], stores: [{ reg: 0, view: view(2, [1]) }] },
    });
    expect(runKernels([kernel], [x, out])).toBeNull();
    expect(x).toEqual(before.map((v) => -v));
    out.forEach((sum, lane) => {
      const column = Array.from({ length: rows }, (_, row) => before[row * lanes + lane] ?? 0);
      const exact = column.reduce((a, b) => a + b, 0);
      const size = column.reduce((a, b) => a + Math.abs(b), 0);
      expect(Math.abs(sum - exact)).toBeLessThanOrEqual(size * rows * 2 ** -24);
    });
  });
});
