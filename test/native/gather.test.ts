/** The native gather and scatterAdd: values, fixed order of sums, and indices out of range that touch no memory. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { byteSize, type DType, decodeArray, encodeArray, FORMATS, storageArray } from "../../src/formats/index.ts";
import {
  addon,
  at,
  isas,
  kernelWords,
  randomFloats,
  randomWords,
  refWords,
  runKernels,
  sameBytes,
  skipReason,
} from "./words.ts";

interface Sizes {
  readonly outer: number;
  readonly rows: number;
  readonly indices: number;
  readonly inner: number;
}

type Index = Int32Array | Uint32Array | Uint8Array;

const indexDType = (index: Index): DType =>
  index instanceof Int32Array ? "int32" : index instanceof Uint32Array ? "uint32" : "uint8";

const gather = (s: Sizes, dtype: DType, index: Index): number[] =>
  kernelWords("gather", [
    ...[s.outer, s.rows, s.indices, s.inner, byteSize(dtype)],
    ...refWords(1),
    FORMATS[indexDType(index)].code,
    ...refWords(2),
    ...refWords(3),
  ]);

const scatterAdd = (s: Sizes, dtype: DType, out: DType): number[] =>
  kernelWords("scatterAdd", [
    ...[s.outer, s.rows, s.indices, s.inner, FORMATS[dtype].code],
    ...refWords(1),
    FORMATS.int32.code,
    ...refWords(2),
    FORMATS[out].code,
    ...refWords(3),
  ]);

const SIZES: readonly Sizes[] = [
  { outer: 1, rows: 5, indices: 9, inner: 1 },
  { outer: 3, rows: 7, indices: 20, inner: 3 },
  { outer: 1, rows: 250, indices: 2000, inner: 130 },
  { outer: 2, rows: 1, indices: 4, inner: 300 },
];

describe.skipIf(skipReason !== undefined).each(isas)("gather on %s", (isa) => {
  beforeAll(() => addon().setIsa(isa));
  afterAll(() => addon().setThreads(2));

  it.each(SIZES)("takes rows by index: $outer × $rows × $inner at $indices", (s) => {
    for (const dtype of ["float32", "bfloat16", "uint8", "float64"] as const) {
      const words = randomWords(s.indices).map((word) => word % s.rows);
      for (const index of [Int32Array.from(words), words, Uint8Array.from(words)]) {
        const table = encodeArray(
          randomFloats(s.outer * s.rows * s.inner).map((v) => v * 100),
          dtype,
        );
        const out = new (storageArray(dtype))(s.outer * s.indices * s.inner);
        expect(runKernels([gather(s, dtype, index)], [table, index, out])).toBeNull();
        const expected = out.map((_: number, e: number) => {
          const position = Math.floor(e / s.inner);
          const o = Math.floor(position / s.indices);
          return at(table as Float32Array, (o * s.rows + at(index, position % s.indices)) * s.inner + (e % s.inner));
        });
        expect(sameBytes(out, expected)).toBe(true);
      }
    }
  });

  it.each(SIZES)("adds rows by index in order: $outer × $rows × $inner at $indices", (s) => {
    const index = Int32Array.from(randomWords(s.indices), (word) => word % s.rows);
    for (const [dtype, outDtype] of [
      ["float32", "float32"],
      ["bfloat16", "float32"],
      ["float16", "float16"],
    ] as const) {
      const values = encodeArray(randomFloats(s.outer * s.indices * s.inner), dtype);
      const wide = decodeArray(values, dtype);
      const sums = new Float32Array(s.outer * s.rows * s.inner);
      for (let o = 0; o < s.outer; o++) {
        for (let i = 0; i < s.indices; i++) {
          for (let j = 0; j < s.inner; j++) {
            const target = (o * s.rows + at(index, i)) * s.inner + j;
            sums[target] = at(sums, target) + at(wide, (o * s.indices + i) * s.inner + j);
          }
        }
      }
      for (const threads of [1, 3]) {
        addon().setThreads(threads);
        const out = new (storageArray(outDtype))(sums.length).fill(7);
        expect(runKernels([scatterAdd(s, dtype, outDtype)], [values, index, out])).toBeNull();
        expect(sameBytes(out, encodeArray(sums, outDtype))).toBe(true);
      }
    }
  });

  it.each([-1, 6, 2 ** 31 - 1, -(2 ** 31)])("faults at index %d and touches nothing outside", (wrong) => {
    const s = { outer: 2, rows: 6, indices: 5000, inner: 2 };
    const index = Int32Array.from({ length: s.indices }, (_, i) => (i === 4321 || i === 77 ? wrong : i % 6));
    const table = Float32Array.from({ length: 24 }, (_, i) => i + 1);
    const guarded = new Float32Array(2 * s.indices * s.inner + 2).fill(-5);
    const out = guarded.subarray(1, guarded.length - 1);
    expect(runKernels([gather(s, "float32", index)], [table, index, out])).toEqual({
      kernel: 0,
      position: 77,
      value: wrong,
    });
    expect([guarded[0], guarded.at(-1)]).toEqual([-5, -5]);
    expect([...out.slice(77 * 2, 78 * 2)]).toEqual([0, 0]);
    const sums = new Float32Array(26).fill(-5);
    const values = new Float32Array(out.length).fill(1);
    const fault = runKernels([scatterAdd(s, "float32", "float32")], [values, index, sums.subarray(1, 25)]);
    expect(fault).toEqual({ kernel: 0, position: 77, value: wrong });
    expect([sums[0], sums[25]]).toEqual([-5, -5]);
    expect(sums.slice(1, 25).reduce((a, b) => a + b)).toBe(2 * 2 * (s.indices - 2));
  });
});
