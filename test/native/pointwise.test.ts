/** The native pointwise engine against JavaScript's float32 arithmetic: every primitive, dtype, stride and block shape. */
import { beforeAll, describe, expect, it } from "vitest";
import type { Opcode } from "../../src/backends/cpu/abi.ts";
import {
  type DType,
  decodeArray,
  encodeArray,
  philox,
  type StorageArray,
  storageArray,
} from "../../src/formats/index.ts";
import { addon, at, firstDifference, isas, pointwise, randomWords, runKernels, skipReason, sweep } from "./words.ts";

const flat = (binding: number, dtype: DType) => ({ binding, dtype, strides: [1] });

/** out = opcode(operands…), lane by lane. */
function apply(opcode: Opcode, operands: readonly StorageArray[], dtypes: readonly DType[], out: DType): StorageArray {
  const count = operands[0]?.length ?? 0;
  const result = new (storageArray(out))(count);
  const n = operands.length;
  const fault = runKernels(
    [
      pointwise([count], {
        registers: n + 1,
        loads: operands.map((_, i) => ({ reg: i, view: flat(i + 1, dtypes[i] ?? "float32") })),
        code: [[opcode, n, ...operands.keys()]],
        stores: [{ reg: n, view: flat(n + 1, out) }],
      }),
    ],
    [...operands, result],
  );
  expect(fault).toBeNull();
  return result;
}

const float32 = (values: StorageArray): Float32Array => values as Float32Array;
const f = Math.fround;

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const fraction = x - floor;
  const up = fraction > 0.5 || (fraction === 0.5 && floor % 2 !== 0);
  const rounded = up ? floor + 1 : floor;
  return rounded === 0 ? (x < 0 || Object.is(x, -0) ? -0 : 0) : rounded;
}

const UNARY: Partial<Record<Opcode, (a: number) => number>> = {
  neg: (a) => -a,
  abs: Math.abs,
  sign: Math.sign,
  floor: Math.floor,
  ceil: Math.ceil,
  round: (a) => (Number.isFinite(a) ? roundEven(a) : a),
  sqrt: (a) => f(Math.sqrt(a)),
  isFinite: (a) => (Number.isFinite(a) ? 1 : 0),
};

const truth = (condition: boolean): number => (condition ? 1 : 0);
const BINARY: Partial<Record<Opcode, (a: number, b: number) => number>> = {
  add: (a, b) => f(a + b),
  sub: (a, b) => f(a - b),
  mul: (a, b) => f(a * b),
  div: (a, b) => f(a / b),
  min: Math.min,
  max: Math.max,
  eq: (a, b) => truth(a === b),
  ne: (a, b) => truth(a !== b),
  lt: (a, b) => truth(a < b),
  le: (a, b) => truth(a <= b),
  gt: (a, b) => truth(a > b),
  ge: (a, b) => truth(a >= b),
  and: (a, b) => truth(a !== 0 && b !== 0),
  or: (a, b) => truth(a !== 0 || b !== 0),
};

const INTEGER: Partial<Record<Opcode, (a: number, b: number) => number>> = {
  addInt: (a, b) => (a + b) | 0,
  subInt: (a, b) => (a - b) | 0,
  mulInt: Math.imul,
  minInt: Math.min,
  maxInt: Math.max,
  minUint: (a, b) => (a >>> 0 < b >>> 0 ? a : b),
  maxUint: (a, b) => (a >>> 0 > b >>> 0 ? a : b),
};

const INTEGER_COMPARISONS: Partial<Record<Opcode, (a: number, b: number) => boolean>> = {
  eqInt: (a, b) => a === b,
  neInt: (a, b) => a !== b,
  ltInt: (a, b) => a < b,
  leInt: (a, b) => a <= b,
  ltUint: (a, b) => a >>> 0 < b >>> 0,
  leUint: (a, b) => a >>> 0 <= b >>> 0,
};

const xs = sweep(1 << 15);
const ys = Float32Array.from(xs, (_, i) => at(xs, (i * 7919 + 13) % xs.length));
const all16 = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
const all8 = Uint8Array.from({ length: 256 }, (_, bits) => bits);

/** A program of one load and one store. */
function copy(source: StorageArray, from: DType, to: DType): StorageArray {
  const result = new (storageArray(to))(source.length);
  const kernel = pointwise([source.length], {
    registers: 1,
    loads: [{ reg: 0, view: flat(1, from) }],
    code: [],
    stores: [{ reg: 0, view: flat(2, to) }],
  });
  expect(runKernels([kernel], [source, result])).toBeNull();
  return result;
}

describe.skipIf(skipReason !== undefined).each(isas)("pointwise on %s", (isa) => {
  beforeAll(() => addon().setIsa(isa));

  it.each(Object.entries(UNARY))("%s", (opcode, meaning) => {
    const actual = float32(apply(opcode as Opcode, [xs], ["float32"], "float32"));
    const i = firstDifference(actual, Float32Array.from(xs, meaning));
    expect(i, `${opcode}(${xs[i]}) gave ${actual[i]}`).toBe(-1);
  });

  it.each(Object.entries(BINARY))("%s", (opcode, meaning) => {
    const actual = float32(apply(opcode as Opcode, [xs, ys], ["float32", "float32"], "float32"));
    const i = firstDifference(
      actual,
      Float32Array.from(xs, (x, j) => meaning(x, at(ys, j))),
    );
    expect(i, `${opcode}(${xs[i]}, ${ys[i]}) gave ${actual[i]}`).toBe(-1);
  });

  it("select takes its second operand wherever the first is not 0, NaN included", () => {
    const actual = float32(apply("select", [xs, ys, xs], ["float32", "float32", "float32"], "float32"));
    expect(
      firstDifference(
        actual,
        Float32Array.from(xs, (x, i) => (x !== 0 ? at(ys, i) : x)),
      ),
    ).toBe(-1);
  });

  it.each(Object.entries(INTEGER))("%s wraps around", (opcode, meaning) => {
    const a = Int32Array.from([0, -1, 2 ** 31 - 1, -(2 ** 31), ...randomWords(1001)]);
    const b = Int32Array.from([1, -1, 1, -1, ...randomWords(1001, 7)]);
    const actual = apply(opcode as Opcode, [a, b], ["int32", "int32"], "int32");
    expect(actual).toEqual(Int32Array.from(a, (x, i) => meaning(x, at(b, i))));
  });

  it.each(Object.entries(INTEGER_COMPARISONS))("%s", (opcode, meaning) => {
    const a = Int32Array.from([0, -1, 5, 2 ** 31 - 1, ...randomWords(1001)]);
    const b = Int32Array.from([1, 1, 5, -(2 ** 31), ...randomWords(1001, 7)]);
    const actual = apply(opcode as Opcode, [a, b], ["int32", "int32"], "bool");
    expect(actual).toEqual(Uint8Array.from(a, (x, i) => truth(meaning(x, at(b, i)))));
  });

  it("converts to and from integers: truncates, saturates, NaN becomes 0", () => {
    expect(apply("toInt32", [xs], ["float32"], "int32")).toEqual(
      Int32Array.from(xs, (x) => Math.min(Math.max(Math.trunc(x) || 0, -(2 ** 31)), 2 ** 31 - 1)),
    );
    expect(apply("toUint32", [xs], ["float32"], "uint32")).toEqual(
      Uint32Array.from(xs, (x) => Math.min(Math.max(Math.trunc(x) || 0, 0), 2 ** 32 - 1)),
    );
    const words = Uint32Array.from([0, 2 ** 32 - 1, 2 ** 24 + 1, 2 ** 31 + 128, 2 ** 31 + 384, ...randomWords(4099)]);
    expect(apply("fromUint32", [words], ["uint32"], "float32")).toEqual(Float32Array.from(words));
    const ints = Int32Array.from(words);
    expect(apply("fromInt32", [ints], ["int32"], "float32")).toEqual(Float32Array.from(ints));
    expect(apply("negInt", [ints], ["int32"], "int32")).toEqual(ints.map((x) => -x));
  });

  it.each(["float16", "bfloat16"] as const)("widens every %s pattern and narrows it back", (d) => {
    const values = copy(all16, d, "float32") as Float32Array;
    expect(firstDifference(values, decodeArray(all16, d))).toBe(-1);
    expect(firstDifference(decodeArray(copy(values, "float32", d), d), values)).toBe(-1);
  });

  it.each(["float8_e4m3fn", "float8_e5m2"] as const)("widens every %s pattern and narrows it back", (d) => {
    const values = copy(all8, d, "float32") as Float32Array;
    expect(firstDifference(values, decodeArray(all8, d))).toBe(-1);
    expect(firstDifference(decodeArray(copy(values, "float32", d), d), values)).toBe(-1);
  });

  it.each([
    ["roundFloat16", "float16"],
    ["roundBfloat16", "bfloat16"],
    ["roundFloat8E4m3fn", "float8_e4m3fn"],
    ["roundFloat8E5m2", "float8_e5m2"],
  ] as const)("%s rounds once to nearest even, as a store does", (opcode, d) => {
    const expected = decodeArray(encodeArray(xs, d), d);
    expect(firstDifference(float32(apply(opcode, [xs], ["float32"], "float32")), expected)).toBe(-1);
    expect(firstDifference(decodeArray(copy(xs, "float32", d), d), expected)).toBe(-1);
  });

  it("stores bool as 1 or 0 and uint8 saturated", () => {
    const bytes = copy(xs, "float32", "bool");
    expect(bytes).toEqual(Uint8Array.from(xs, (x) => truth(x !== 0)));
    expect(copy(xs, "float32", "uint8")).toEqual(
      Uint8Array.from(xs, (x) => Math.min(Math.max(Math.trunc(x) || 0, 0), 255)),
    );
    expect(copy(all8, "uint8", "float32")).toEqual(Float32Array.from(all8));
  });

  it("draws Philox4x32-10 by row-major position, merged, strided and in small rows alike", () => {
    const key = Uint32Array.from([0xa4093822, 0x299f31d0, 0x13198a2e, 0x03707344]);
    const stream = 9;
    const expected = Float32Array.from({ length: 3003 }, (_, e) => {
      const out = new Uint32Array(4);
      philox([e >>> 2, 0, at(key, 2), (at(key, 3) ^ stream) >>> 0], [at(key, 0), at(key, 1)], out);
      return (at(out, e & 3) >>> 8) * 2 ** -24;
    });
    for (const extents of [[3003], [3, 1001], [1001, 3], [7, 11, 39]]) {
      const strides = extents.map((_, axis) => extents.slice(axis + 1).reduce((a, b) => a * b, 1));
      const gaps = strides.map((stride) => stride * 2);
      for (const [layout, step] of [
        [strides, 1],
        [gaps, 2],
      ] as const) {
        const out = new Float32Array(3003 * 2);
        const key0 = { binding: 1, dtype: "uint32", strides: extents.map(() => 0) } as const;
        const kernel = pointwise(extents, {
          registers: 2,
          loads: [
            { reg: 1, view: { ...key0, binding: 2, strides: extents.map(() => 0) } },
            { reg: 0, view: key0 },
          ],
          code: [["random", 0, 1, 0, 0, stream]],
          stores: [{ reg: 0, view: { binding: 3, dtype: "float32", strides: layout } }],
        });
        expect(runKernels([kernel], [key, Uint32Array.of(5), out])).toBeNull();
        expect(out.filter((_, i) => i % step === 0).slice(0, 3003)).toEqual(expected);
      }
    }
  });
});
