/** The native pointwise engine over views: transposed, broadcast, reversed and strided operands, of every block shape. */
import { describe, expect, it } from "vitest";
import { type DType, encodeArray } from "../../src/formats/index.ts";
import { at, bitsOf, firstDifference, pointwise, runKernels, skipReason, sweep } from "./words.ts";

const xs = sweep(1 << 15);
const ys = Float32Array.from(xs, (_, i) => at(xs, (i * 7919 + 13) % xs.length));

const flat = (binding: number, dtype: DType) => ({ binding, dtype, strides: [1] });

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
