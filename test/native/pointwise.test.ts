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
import {
  addon,
  at,
  bitsOf,
  firstDifference,
  isas,
  pointwise,
  randomWords,
  runKernels,
  skipReason,
  sweep,
} from "./words.ts";

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

describe.skipIf(skipReason !== undefined)("pointwise views", () => {
  const dtypes = ["float32", "bfloat16", "int32", "uint8"] as const;
  const shapes = [
    [1],
    [5],
    [511],
    [513],
    [40000],
    [3, 7],
    [2, 300],
    [5, 1, 9],
    [4, 5, 6, 7],
    [300, 2],
    [1000, 1],
  ] as const;

  it.each(shapes.map((shape) => [shape]))("adds a transposed, a broadcast and a reversed operand over %j", (shape) => {
    const extents: readonly number[] = shape;
    const size = extents.reduce((a, b) => a * b, 1);
    const rowMajor = extents.map((_, axis) => extents.slice(axis + 1).reduce((a, b) => a * b, 1));
    const columnMajor = extents.map((_, axis) => extents.slice(0, axis).reduce((a, b) => a * b, 1));
    const lastOnly = extents.map((_, axis) => (axis === extents.length - 1 ? 1 : 0));
    for (const dtype of dtypes) {
      const source = Float32Array.from({ length: size }, (_, i) => (i * 37) % 101);
      const stored = encodeArray(source, dtype);
      const views = [rowMajor, columnMajor, lastOnly, rowMajor.map((stride) => -stride)];
      const integer = dtype === "int32";
      const add = integer ? "addInt" : "add";
      const out = new Float32Array(size);
      const kernel = pointwise(extents, {
        registers: 4,
        loads: views.map((strides, i) => ({
          reg: i,
          view: { binding: 1, dtype, strides, byteOffset: i === 3 ? (size - 1) * stored.BYTES_PER_ELEMENT : 0 },
        })),
        code: [[add, 0, 0, 1], [add, 0, 0, 2], [add, 0, 0, 3], ...(integer ? [["fromInt32", 0, 0] as const] : [])],
        stores: [{ reg: 0, view: { binding: 2, dtype: "float32", strides: columnMajor } }],
      });
      expect(runKernels([kernel], [stored, out])).toBeNull();
      const expected = new Float32Array(size);
      for (let i = 0; i < size; i++) {
        const index = rowMajor.map((stride, axis) => Math.floor(i / stride) % (extents[axis] ?? 1));
        const offset = (strides: readonly number[]): number =>
          index.reduce((sum, at, axis) => sum + at * (strides[axis] ?? 0), 0);
        const sum = views.reduce((s, strides, v) => s + at(source, offset(strides) + (v === 3 ? size - 1 : 0)), 0);
        expected[offset(columnMajor)] = sum;
      }
      expect(firstDifference(out, expected)).toBe(-1);
    }
  });

  /** x is register 0, y 1, z 2; the result is register 3. */
  const half = bitsOf(0.5);
  it.each([
    [
      "productSum",
      [0, 1, 2, 0],
      [
        ["mul", 4, 0, 1],
        ["add", 3, 4, 2],
      ],
    ],
    [
      "scaledSum",
      [0, 1, 0, half],
      [
        ["constant", 4, 0, 0, 0, half],
        ["mul", 4, 0, 4],
        ["add", 3, 4, 1],
      ],
    ],
    [
      "scaledProduct",
      [0, 1, 0, half],
      [
        ["constant", 4, 0, 0, 0, half],
        ["mul", 4, 0, 4],
        ["mul", 3, 4, 1],
      ],
    ],
    [
      "addConstant",
      [0, 0, 0, half],
      [
        ["constant", 4, 0, 0, 0, half],
        ["add", 3, 0, 4],
      ],
    ],
    [
      "mulConstant",
      [0, 0, 0, half],
      [
        ["constant", 4, 0, 0, 0, half],
        ["mul", 3, 0, 4],
      ],
    ],
    [
      "erfPlusOne",
      [0, 0, 0, half],
      [
        ["constant", 4, 0, 0, 0, half],
        ["mul", 3, 0, 4],
        ["erf", 3, 3],
        ["constant", 4, 0, 0, 0, bitsOf(1)],
        ["add", 3, 3, 4],
      ],
    ],
    [
      "gaussian",
      [0, 0, 0, bitsOf(-0.5)],
      [
        ["constant", 4, 0, 0, 0, bitsOf(-0.5)],
        ["mul", 3, 0, 0],
        ["mul", 3, 3, 4],
        ["exp", 3, 3],
      ],
    ],
  ] as const)("%s has the bits of the instructions that it stands for", (opcode, [a, b, c, imm], longer) => {
    const zs = Float32Array.from(xs, (_, i) => at(xs, (i * 104729 + 7) % xs.length));
    const code = { short: [[opcode, 3, a, b, c, imm]] as const, long: longer };
    const [short, long] = [code.short, code.long].map((instructions) => {
      const out = new Float32Array(xs.length);
      const kernel = pointwise([xs.length], {
        registers: 5,
        loads: [0, 1, 2].map((reg) => ({ reg, view: flat(reg + 1, "float32") })),
        code: instructions,
        stores: [{ reg: 3, view: flat(4, "float32") }],
      });
      expect(runKernels([kernel], [xs, ys, zs, out])).toBeNull();
      return out;
    }) as [Float32Array, Float32Array];
    const i = firstDifference(short, long);
    expect(i, `${opcode}(${xs[i]}, ${ys[i]}, ${zs[i]}) gave ${short[i]}, not ${long[i]}`).toBe(-1);
  });

  it("computes values that are the same everywhere once, and in any register order", () => {
    const n = 5000;
    const x = Float32Array.from({ length: n }, (_, i) => i);
    const scale = Float32Array.of(3);
    const out = new Float32Array(n);
    const kernel = pointwise([n], {
      registers: 5,
      loads: [
        { reg: 0, view: flat(1, "float32") },
        { reg: 1, view: { binding: 2, dtype: "float32", strides: [0] } },
      ],
      code: [
        ["mul", 0, 0, 1],
        ["constant", 2, 0, 0, 0, bitsOf(0.5)],
        ["add", 3, 1, 2], // 3.5 everywhere
        ["add", 0, 0, 3],
        ["constant", 4, 0, 0, 0, bitsOf(100)],
        ["add", 0, 0, 4],
        ["constant", 4, 0, 0, 0, bitsOf(1000)], // a register written twice is no invariant
        ["add", 0, 0, 4],
      ],
      stores: [{ reg: 0, view: flat(3, "float32") }],
    });
    expect(runKernels([kernel], [x, scale, out])).toBeNull();
    expect(out).toEqual(x.map((v) => v * 3 + 3.5 + 100 + 1000));
  });

  it("writes the first lane of each row through a last stride of 0", () => {
    const x = Float32Array.from({ length: 2100 }, (_, i) => i);
    const out = new Float32Array(4).fill(-1);
    const kernel = pointwise([3, 700], {
      registers: 1,
      loads: [{ reg: 0, view: { binding: 1, dtype: "float32", strides: [700, 1] } }],
      code: [],
      stores: [{ reg: 0, view: { binding: 2, dtype: "float32", strides: [1, 0] } }],
    });
    expect(runKernels([kernel], [x, out])).toBeNull();
    expect(out).toEqual(Float32Array.of(0, 700, 1400, -1));
  });

  it("does nothing over an empty domain", () => {
    const out = Float32Array.of(7);
    const kernel = pointwise([0, 3], {
      registers: 1,
      loads: [{ reg: 0, view: { binding: 1, dtype: "float32", strides: [3, 1] } }],
      code: [],
      stores: [{ reg: 0, view: { binding: 2, dtype: "float32", strides: [3, 1] } }],
    });
    expect(runKernels([kernel], [new Float32Array(0), out])).toBeNull();
    expect(out).toEqual(Float32Array.of(7));
  });
});
