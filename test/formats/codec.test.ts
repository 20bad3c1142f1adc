/** Rounding and bits of single values: the vector table, every bit pattern, every midpoint between neighbours. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decode, encode, round } from "../../src/formats/codec.ts";
import { DTYPES, FORMATS } from "../../src/formats/table.ts";
import {
  beside,
  beyond,
  indexAtOrBelow,
  magnitudes,
  patternCount,
  phantom,
  SMALL,
  type SmallDType,
  valueByDefinition,
} from "./enumerate.ts";

const above = (x: number) => beside(x, 1n);
const below = (x: number) => beside(x, -1n);
const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
/** Half-way from the largest bfloat16 to 2^128. */
const BFLOAT16_OVERFLOW = (2 - 2 ** -8) * 2 ** 127;

/** Input, then its nearest number in float16, bfloat16, e4m3fn, e5m2, and in the last two when saturating. */
type Vector = readonly [number, number, number, number, number, number, number];

// biome-ignore format: a table is read by rows
const VECTORS: readonly Vector[] = [
  [0.1, 0.0999755859375, 0.10009765625, 0.1015625, 0.09375, 0.1015625, 0.09375],
  [1 / 3, 0.333251953125, 0.333984375, 0.34375, 0.3125, 0.34375, 0.3125],
  [1 + 2 ** -11, 1, 1, 1, 1, 1, 1],
  [1 + 3 * 2 ** -11, 1.001953125, 1, 1, 1, 1, 1],
  [1 + 2 ** -8, 1 + 2 ** -8, 1, 1, 1, 1, 1],
  [1 + 3 * 2 ** -8, 1 + 3 * 2 ** -8, 1.015625, 1, 1, 1, 1],
  [17, 17, 17, 16, 16, 16, 16],
  [18, 18, 18, 18, 16, 18, 16],
  [19, 19, 19, 20, 20, 20, 20],
  [257, 257, 256, 256, 256, 256, 256],
  [2049, 2048, 2048, nan, 2048, 448, 2048],
  [2051, 2052, 2048, nan, 2048, 448, 2048],
  [65504, 65504, 65536, nan, inf, 448, 57344],
  [65519.99, 65504, 65536, nan, inf, 448, 57344],
  [65520, inf, 65536, nan, inf, 448, 57344],
  [464, 464, 464, 448, 448, 448, 448],
  [465, 465, 464, nan, 448, 448, 448],
  [61439, 61440, 61440, nan, 57344, 448, 57344],
  [61440, 61440, 61440, nan, inf, 448, 57344],
  [2 ** -25, 0, 2 ** -25, 0, 0, 0, 0],
  [above(2 ** -25), 2 ** -24, 2 ** -25, 0, 0, 0, 0],
  [2 ** -10, 2 ** -10, 2 ** -10, 0, 2 ** -10, 0, 2 ** -10],
  [above(2 ** -10), 2 ** -10, 2 ** -10, 2 ** -9, 2 ** -10, 2 ** -9, 2 ** -10],
  [2 ** -17, 2 ** -17, 2 ** -17, 0, 0, 0, 0],
  [above(2 ** -17), 2 ** -17, 2 ** -17, 0, 2 ** -16, 0, 2 ** -16],
  [below(BFLOAT16_OVERFLOW), inf, FORMATS.bfloat16.maxFinite, nan, inf, 448, 57344],
  [BFLOAT16_OVERFLOW, inf, inf, nan, inf, 448, 57344],
  [3.39617752923046e38, inf, inf, nan, inf, 448, 57344],
];

describe("rounding vectors", () => {
  it.each(VECTORS)("%d", (input, float16, bfloat16, e4m3, e5m2, e4m3Saturated, e5m2Saturated) => {
    for (const sign of [1, -1]) {
      const x = sign * input;
      for (const [d, expected] of [
        ["float16", float16],
        ["bfloat16", bfloat16],
        ["float8_e4m3fn", e4m3],
        ["float8_e5m2", e5m2],
      ] as const) {
        expect(round(x, d)).toBe(sign * expected);
        expect(decode(encode(x, d), d)).toBe(sign * expected);
      }
      expect(decode(encode(x, "float8_e4m3fn", { saturate: true }), "float8_e4m3fn")).toBe(sign * e4m3Saturated);
      expect(decode(encode(x, "float8_e5m2", { saturate: true }), "float8_e5m2")).toBe(sign * e5m2Saturated);
    }
  });
});

describe.each(SMALL)("%s, every bit pattern", (d) => {
  it("decodes by the definition and encodes back to itself", () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < patternCount(d); bits++) {
      const value = decode(bits, d);
      const again = encode(value, d);
      const same = Number.isNaN(value) ? Number.isNaN(decode(again, d)) : again === bits;
      if (!Object.is(value, valueByDefinition(bits, d)) || !same || !Object.is(round(value, d), value))
        wrong.push(bits);
    }
    expect(wrong).toEqual([]);
  });

  it("rounds the midpoint of neighbours to the even one, and the float64 beside it to the nearer one", () => {
    const values = [...magnitudes(d), phantom(d)];
    const nearest = (index: number) => (index === values.length - 1 ? beyond(d) : (values[index] as number));
    const wrong: string[] = [];
    const check = (input: number, index: number) => {
      for (const sign of [1, -1]) {
        const expected = sign * nearest(index);
        const actual = [round(sign * input, d), decode(encode(sign * input, d), d)];
        if (!actual.every((value) => Object.is(value, expected)))
          wrong.push(`${sign * input}: ${actual} not ${expected}`);
      }
    };
    for (let i = 0; i + 1 < values.length; i++) {
      const midpoint = ((values[i] as number) + (values[i + 1] as number)) / 2;
      check(midpoint, i % 2 === 0 ? i : i + 1);
      check(below(midpoint), i);
      check(above(midpoint), i + 1);
    }
    expect(wrong.slice(0, 5)).toEqual([]);
  });

  it("rounds any float64 to the nearest number, found by search", () => {
    const values = [...magnitudes(d), phantom(d)];
    const between = fc.tuple(fc.nat(values.length - 2), fc.double({ min: 0, max: 1, noNaN: true })).map(([i, t]) => {
      const low = values[i] as number;
      return low + t * ((values[i + 1] as number) - low);
    });
    fc.assert(
      fc.property(
        fc.oneof(between, fc.double({ noNaN: true, min: 0, max: phantom(d) })),
        fc.boolean(),
        (x, negative) => {
          const value = negative ? -x : x;
          expect(round(value, d)).toBe(nearestBySearch(value, d, values.slice(0, -1)));
          expect(decode(encode(value, d), d)).toBe(round(value, d));
        },
      ),
      { numRuns: 1000, seed: 1 },
    );
  });
});

function nearestBySearch(x: number, d: SmallDType, values: readonly number[]): number {
  const magnitude = Math.abs(x);
  const index = indexAtOrBelow(values, magnitude);
  const low = values[index] as number;
  const high = values[index + 1] ?? phantom(d);
  const up = magnitude - low === high - magnitude ? index % 2 === 1 : magnitude - low > high - magnitude;
  const nearest = up ? (values[index + 1] ?? beyond(d)) : low;
  return x < 0 || Object.is(x, -0) ? -nearest : nearest;
}

describe("one rounding", () => {
  it("goes from float64 to float16 directly: by way of float32 the sum would land on a tie", () => {
    const x = 1 + 2 ** -11 + 2 ** -40;
    expect(round(x, "float16")).toBe(1.0009765625);
    expect(decode(encode(x, "float16"), "float16")).toBe(1.0009765625);
    expect(round(Math.fround(x), "float16")).toBe(1);
  });

  it("is the runtime's own for float32", () => {
    const view = new DataView(new ArrayBuffer(4));
    fc.assert(
      fc.property(fc.double(), (x) => {
        view.setFloat32(0, x);
        expect(round(x, "float32")).toBe(Math.fround(x));
        if (!Number.isNaN(x)) expect(encode(x, "float32")).toBe(view.getUint32(0));
        expect(decode(encode(x, "float32"), "float32")).toBe(Math.fround(x));
      }),
      { seed: 2 },
    );
  });

  it("leaves float64 alone", () => {
    for (const x of [0.1, -0, Number.MIN_VALUE, Number.MAX_VALUE, nan, -inf]) expect(round(x, "float64")).toBe(x);
  });

  it.each([
    ["float16", 2048],
    ["bfloat16", 256],
  ] as const)("%s: adding 1 again and again stops at %d", (d, expected) => {
    let sum = 0;
    for (let i = 0; i < 5000; i++) sum = round(sum + 1, d);
    expect(sum).toBe(expected);
  });

  it("loses updates asymmetrically around 1", () => {
    expect(round(1 + 2 ** -11, "float16")).toBe(1);
    expect(round(1 - 2 ** -11, "float16")).toBe(0.99951171875);
    expect(round(1 - 2 ** -12, "float16")).toBe(1);
  });

  it.each([
    [1e-8, 0],
    [3e-8, 2 ** -24],
    [-1e9, -inf],
    [Math.exp(11.09), 65504],
    [Math.exp(11.1), inf],
  ])("float16 of %d is %d", (x, expected) => {
    expect(round(x, "float16")).toBe(expected);
  });

  it.each([...SMALL, "float32"] as const)("%s: tiny and huge float64 numbers leave the range with their sign", (d) => {
    const top = FORMATS[d].infinities ? inf : nan;
    for (const [x, expected] of [
      [Number.MIN_VALUE, 0],
      [-Number.MIN_VALUE, -0],
      [2 ** -1022, 0],
      [-(2 ** -1022), -0],
      [Number.MAX_VALUE, top],
      [-Number.MAX_VALUE, -top],
      [inf, top],
      [-inf, -top],
      [nan, nan],
      [-0, -0],
    ] as const) {
      expect(round(x, d)).toBe(expected);
      expect(decode(encode(x, d), d)).toBe(expected);
    }
  });
});

describe("encode", () => {
  // biome-ignore format: a table is read by rows
  it.each([
    ["float32", 0x7fc00000, 0x7f800000, 0xff7fffff],
    ["float16", 0x7e00, 0x7c00, 0xfbff],
    ["bfloat16", 0x7fc0, 0x7f80, 0xff7f],
    ["float8_e4m3fn", 0x7f, 0x7f, 0xfe],
    ["float8_e5m2", 0x7e, 0x7c, 0xfb],
  ] as const)("%s: NaN, overflow, saturated overflow", (d, nanBits, overflow, saturated) => {
    expect(encode(nan, d)).toBe(nanBits);
    expect(encode(nan, d, { saturate: true })).toBe(nanBits);
    for (const x of [inf, 1e300, 1e39]) {
      expect(encode(x, d)).toBe(overflow);
      expect(encode(x, d, { saturate: false })).toBe(overflow);
      expect(encode(-x, d, { saturate: true })).toBe(saturated);
      expect(decode(encode(x, d, { saturate: true }), d)).toBe(FORMATS[d].maxFinite);
    }
    expect(encode(1, d, { saturate: true })).toBe(encode(1, d));
  });
});

describe("integers and truth values", () => {
  // biome-ignore format: a table is read by rows
  it.each([
    // input, int64, int32, uint32, uint8, bool, int16
    [0, 0, 0, 0, 0, 0, 0],
    [-0, 0, 0, 0, 0, 0, 0],
    [0.5, 0, 0, 0, 0, 1, 0],
    [-0.5, 0, 0, 0, 0, 1, 0],
    [1.999, 1, 1, 1, 1, 1, 1],
    [-1.999, -1, -1, 0, 0, 1, -1],
    [255.9, 255, 255, 255, 255, 1, 255],
    [256, 256, 256, 256, 255, 1, 256],
    [2 ** 31, 2 ** 31, 2 ** 31 - 1, 2 ** 31, 255, 1, 2 ** 15 - 1],
    [-(2 ** 31) - 1, -(2 ** 31) - 1, -(2 ** 31), 0, 0, 1, -(2 ** 15)],
    [2 ** 32, 2 ** 32, 2 ** 31 - 1, 2 ** 32 - 1, 255, 1, 2 ** 15 - 1],
    [1e30, 2 ** 63, 2 ** 31 - 1, 2 ** 32 - 1, 255, 1, 2 ** 15 - 1],
    [-1e30, -(2 ** 63), -(2 ** 31), 0, 0, 1, -(2 ** 15)],
    [inf, 2 ** 63, 2 ** 31 - 1, 2 ** 32 - 1, 255, 1, 2 ** 15 - 1],
    [-inf, -(2 ** 63), -(2 ** 31), 0, 0, 1, -(2 ** 15)],
    [nan, 0, 0, 0, 0, 1, 0],
  ])("%d truncates and saturates", (x, ...expected) => {
    expect((["int64", "int32", "uint32", "uint8", "bool", "int16"] as const).map((d) => round(x, d))).toEqual(expected);
  });
});

describe("round, any format", () => {
  it.each(DTYPES)("%s: is idempotent and monotone", (d) => {
    fc.assert(
      fc.property(fc.double({ noNaN: true }), fc.double({ noNaN: true }), (a, b) => {
        const [low, high] = [round(Math.min(a, b), d), round(Math.max(a, b), d)];
        expect(round(low, d)).toBe(low);
        const ordered = d === "bool" || Number.isNaN(low) || Number.isNaN(high) || low <= high;
        expect(ordered).toBe(true);
      }),
      { seed: 3 },
    );
  });
});
