/** The native counts of magnitudes against counting by hand: every pattern of 16 bits, every exponent, odd sizes, any number of threads. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type DType, decodeArray, FORMATS, type StorageArray } from "../../src/formats/index.ts";
import { countByHand } from "../support/magnitudes.ts";
import {
  addon,
  bitsOf,
  domainWords,
  isas,
  kernelWords,
  refWords,
  runKernels,
  skipReason,
  sweep,
  vmWords,
} from "./words.ts";

/** Binding 1 → binding 2, as (rows, lanes) with these strides; with `scale` its elements are multiplied and stored in binding 3, too. */
function magnitudes(extents: readonly number[], strides: readonly number[], dtype: DType, scale?: number): number[] {
  const view = { binding: 1, dtype, strides };
  const stored = { binding: 3, dtype: "float32", strides } as const;
  return kernelWords("magnitudes", [
    ...domainWords(extents),
    ...vmWords({
      registers: 1,
      loads: [{ reg: 0, view }],
      code: scale === undefined ? [] : [["mulConstant", 0, 0, 0, 0, bitsOf(scale)]],
      stores: [{ reg: 0, buffer: 0 }, ...(scale === undefined ? [] : [{ reg: 0, view: stored }])],
    }),
    ...refWords(2),
  ]);
}

function countsOf(stored: StorageArray, dtype: DType): Int32Array {
  const counts = new Int32Array(258).fill(-7);
  expect(runKernels([magnitudes([stored.length], [1], dtype)], [stored, counts])).toBeNull();
  return counts;
}

const everyPattern = (bits: number): number[] => Array.from({ length: 2 ** bits }, (_, pattern) => pattern);
const borders = Float32Array.of(65503.996, 65504, 65504.004, 65520, 65535.996, 65536, -65504.004, -65504);

describe.skipIf(skipReason !== undefined).each(isas)("counts of magnitudes on %s", (isa) => {
  beforeAll(() => addon().setIsa(isa));
  afterAll(() => addon().setThreads(2));

  it.each(["float16", "bfloat16"] as const)("of every %s", (dtype) => {
    const stored = Uint16Array.from(everyPattern(16));
    expect(countsOf(stored, dtype)).toEqual(countByHand(decodeArray(stored, dtype)));
  });

  it.each(["float8_e4m3fn", "float8_e5m2"] as const)("of every %s", (dtype) => {
    const stored = Uint8Array.from(everyPattern(8));
    expect(countsOf(stored, dtype)).toEqual(countByHand(decodeArray(stored, dtype)));
  });

  it("of float32 of every exponent, both signs, subnormals, NaN with any payload", () => {
    const stored = sweep(20_000);
    const counts = countsOf(stored, "float32");
    expect(counts).toEqual(countByHand(stored));
    expect(counts.subarray(0, 256).every((count) => count >= 8)).toBe(true);
    expect(countsOf(borders, "float32")).toEqual(countByHand(borders));
    expect(countsOf(borders, "float32")[257]).toBe(5);
  });

  // Blocks have 512 lanes, tasks 8192.
  it.each([
    0, 1, 7, 8, 9, 15, 511, 512, 513, 8191, 8192, 8193, 40_961,
  ])("of %d elements, of one exponent or of many", (n) => {
    for (const make of [() => 1.5, (i: number) => (i % 3 === 0 ? 0 : 2 ** ((i * 37) % 60) - 0.25)]) {
      const stored = Float32Array.from({ length: n }, (_, i) => make(i));
      const want = countByHand(stored);
      for (const threads of [1, 2, 3, 8]) {
        addon().setThreads(threads);
        expect(countsOf(stored, "float32"), `${threads} threads`).toEqual(want);
      }
    }
  });

  it("of rows apart, of columns, and of one number repeated", () => {
    const stored = sweep(3000).subarray(0, 39 * 61);
    const run = (extents: readonly number[], strides: readonly number[]): Int32Array => {
      const counts = new Int32Array(258);
      expect(runKernels([magnitudes(extents, strides, "float32")], [stored, counts])).toBeNull();
      return counts;
    };
    const rows = Array.from({ length: 39 }, (_, row) => [...stored.subarray(row * 61, row * 61 + 33)]);
    expect(run([39, 33], [61, 1])).toEqual(countByHand(rows.flat()));
    expect(run([33, 39], [1, 61])).toEqual(countByHand(rows.flat()));
    expect(run([3, 700], [0, 0])).toEqual(countByHand(new Float32Array(2100)));
  });

  it("of what its prologue computes, which may overwrite what it read", () => {
    const values = sweep(9000).map((x) => (Number.isNaN(x) ? 3 : x));
    const scaled = values.map((x) => x * 0.75);
    const counts = new Int32Array(258);
    expect(runKernels([magnitudes([values.length], [1], "float32", 0.75)], [values, counts, values])).toBeNull();
    expect(values).toEqual(scaled);
    expect(counts).toEqual(countByHand(scaled));
  });

  it("touch nothing outside their result", () => {
    const guarded = new Int32Array(260).fill(-5);
    expect(
      runKernels([magnitudes([600], [1], "float32")], [new Float32Array(600), guarded.subarray(1, 259)]),
    ).toBeNull();
    expect([guarded[0], guarded[1], guarded[257], guarded[258], guarded[259]]).toEqual([-5, 600, 600, 0, -5]);
  });

  it.each([
    ["a result that is too short", [600], new Int32Array(257)],
    ["more elements than int32 counts", [2 ** 31], new Int32Array(258)],
  ])("are refused for %s", (_, extents, counts) => {
    expect(() => runKernels([magnitudes(extents, [0], "float32")], [new Float32Array(1), counts])).toThrow();
  });
});

it("are of every format that the cpu stores", () => {
  const counted = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"];
  const stored = Object.entries(FORMATS).filter(([, format]) => format.kind === "float" && format.bits <= 32);
  expect(stored.map(([name]) => name).sort()).toEqual(counted.sort());
});
