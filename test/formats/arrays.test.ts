/** Arrays: the integer fast paths against the scalar codec, and conversion between any two formats. */
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  convertArray,
  decode,
  decodeArray,
  encode,
  encodeArray,
  round,
  toFloat16Array,
} from "../../src/formats/codec.ts";
import { DTYPES, type DType, type HalfDType, storageArray } from "../../src/formats/table.ts";
import { nextDown, nextUp } from "../../src/formats/ulp.ts";
import { patternCount, SMALL } from "./enumerate.ts";

const HALVES = ["float16", "bfloat16"] as const;

/** Low halves of float32 that lie on, beside and off the ties of float16 (13 bits cut off) and bfloat16 (16 bits). */
const LOW_HALVES = [0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0xb000, 0xffff];

/** Float32 values of all 2^16 upper halves with one lower half: every sign, exponent, subnormal, infinity and NaN. */
function allUpperHalves(low: number): Float32Array {
  return new Float32Array(Uint32Array.from({ length: 0x10000 }, (_, high) => ((high << 16) | low) >>> 0).buffer);
}

/** Sign, exponent and upper payload survive; a payload of which nothing is left becomes the quiet bit. */
function narrowNaN(bits: number, d: HalfDType): number {
  const [infinity, payload, quiet] =
    d === "bfloat16" ? [0x7f80, (bits >>> 16) & 0x7f, 0x40] : [0x7c00, (bits >>> 13) & 0x3ff, 0x200];
  return ((bits >>> 16) & 0x8000) | infinity | (payload === 0 ? quiet : payload);
}

describe.each(HALVES)("%s from float32", (d) => {
  it("equals the scalar codec for all upper halves, and keeps sign and upper payload of NaN", () => {
    const wrong: string[] = [];
    for (const low of LOW_HALVES) {
      const values = allUpperHalves(low);
      const bits = new Uint32Array(values.buffer);
      const fast = encodeArray(values, d);
      for (let i = 0; i < fast.length; i++) {
        const value = values[i] as number;
        const expected = Number.isNaN(value) ? narrowNaN(bits[i] as number, d) : encode(value, d);
        if (fast[i] !== expected) wrong.push(`${bits[i]?.toString(16)}: ${fast[i]} not ${expected}`);
      }
    }
    expect(wrong.slice(0, 5)).toEqual([]);
  });

  it("equals the scalar codec for random float32 bits", () => {
    fc.assert(
      fc.property(fc.uint32Array({ minLength: 1, maxLength: 64 }), (words) => {
        const values = new Float32Array(words.buffer, words.byteOffset, words.length);
        const fast = decodeArray(convertArray(values, "float32", d), d);
        expect([...fast]).toEqual([...values].map((value) => round(value, d)));
      }),
      { numRuns: 1000, seed: 1 },
    );
  });

  it("reads a view at its own offset", () => {
    const values = Float32Array.of(9, 1, 2, 9).subarray(1, 3);
    expect([...decodeArray(encodeArray(values, d), d)]).toEqual([1, 2]);
  });

  it("rounds float64 input once", () => {
    const tie = d === "float16" ? 2 ** -11 : 2 ** -8;
    const up = 1 + 2 * tie;
    expect([...decodeArray(encodeArray([1 + tie, 1 + tie + 2 ** -40], d), d)]).toEqual([1, up]);
    expect([...decodeArray(encodeArray(Float64Array.of(1 + tie + 2 ** -40), d), d)]).toEqual([up]);
  });
});

describe.each(SMALL)("%s to float32", (d) => {
  const every = new (storageArray(d))(patternCount(d)).map((_, i) => i);

  it("equals the scalar codec for every bit pattern", () => {
    const values = decodeArray(every, d);
    const wrong = [...every].filter((bits) => !Object.is(values[bits], decode(bits, d)));
    expect(values).toBeInstanceOf(Float32Array);
    expect(wrong).toEqual([]);
  });

  it("comes back unchanged: 16 bits with the payloads of NaN, 8 bits with NaN as NaN", () => {
    const again = encodeArray(decodeArray(every, d), d);
    const isSame = (bits: number): boolean =>
      again[bits] === bits ||
      (d.startsWith("float8") && Number.isNaN(decode(bits, d)) && Number.isNaN(decode(again[bits] as number, d)));
    expect([...every].filter((bits) => !isSame(bits))).toEqual([]);
  });
});

it.each([
  ["bfloat16", 0x7fc12345, 0x7fc1, 0x7fc10000],
  ["bfloat16", 0xff800001, 0xffc0, 0xffc00000],
  ["float16", 0x7fc12345, 0x7e09, 0x7fc12000],
  ["bfloat16", 0x7f810000, 0x7f81, 0x7f810000],
  ["float16", 0xff800001, 0xfe00, 0xffc00000],
  ["float16", 0xff802001, 0xfc01, 0xff802000],
] as const)("%s: the NaN %i keeps what fits of its payload, and the way back keeps it all", (d, bits, half, back) => {
  const halves = convertArray(new Float32Array(Uint32Array.of(bits).buffer), "float32", d);
  expect(halves[0]).toBe(half);
  expect(new Uint32Array(convertArray(halves, d, "float32").buffer)[0]).toBe(back);
});

/** Values inside, on the edge of, and outside every format. */
// biome-ignore format: a list of numbers
const PROBES = [
  0, -0, 1, -1, 0.1, 1 / 3, 2.5, -2.5, 127, 200.7, 255, 256, 448, 449, 464, 465, 2049, 65504, 65519, 65520,
  2 ** -9, 2 ** -24, 2 ** -133, 2 ** -149, 2 ** 31, -(2 ** 31), 2 ** 32, 2 ** 53, 2 ** 63, -(2 ** 63),
  3.4e38, 1e300, -1e300, Number.MIN_VALUE, Infinity, -Infinity, Number.NaN,
];

/** The numbers of a storage array, without rounding. */
function numbers(storage: ReturnType<typeof encodeArray>, d: DType): number[] {
  if (storage instanceof BigInt64Array) return Array.from(storage, Number);
  if (d === "int32" || d === "uint32" || d === "float64") return Array.from(storage);
  return Array.from(decodeArray(storage, d));
}

describe.each(DTYPES)("%s", (from) => {
  it("encodes what round says", () => {
    expect(numbers(encodeArray(PROBES, from), from)).toEqual(PROBES.map((value) => round(value, from)));
  });

  it.each(DTYPES)("converts to %s as if value by value, into new memory", (to) => {
    const storage = encodeArray(PROBES, from);
    const converted = convertArray(storage, from, to);
    expect(converted).toBeInstanceOf(storageArray(to));
    expect(numbers(converted, to)).toEqual(numbers(storage, from).map((value) => round(value, to)));
    expect(converted.buffer).not.toBe(storage.buffer);
  });

  it("decodes to the nearest float32 (float64: exactly), into new memory", () => {
    const storage = encodeArray(PROBES, from);
    const values = decodeArray(storage, from);
    expect(values).toBeInstanceOf(from === "float64" ? Float64Array : Float32Array);
    expect([...values]).toEqual(
      numbers(storage, from).map((value) => (from === "float64" ? value : Math.fround(value))),
    );
    expect(values.buffer).not.toBe(storage.buffer);
  });
});

describe("int64", () => {
  it("saturates at both ends instead of wrapping around", () => {
    expect([...encodeArray([1e30, -1e30, 2 ** 63, -(2 ** 63), -1.9], "int64")]).toEqual([
      2n ** 63n - 1n,
      -(2n ** 63n),
      2n ** 63n - 1n,
      -(2n ** 63n),
      -1n,
    ]);
  });

  it("rounds once to float32, where the way through float64 would land on a tie", () => {
    const value = 2n ** 60n + 2n ** 36n + 1n;
    expect(Math.fround(Number(value))).toBe(2 ** 60);
    expect(convertArray(BigInt64Array.of(value, -value), "int64", "float32")).toEqual(
      Float32Array.of(2 ** 60 + 2 ** 37, -(2 ** 60) - 2 ** 37),
    );
  });

  it("rounds any value to the nearest float32 and float64", () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
        fc.integer({ min: 0, max: 62 }),
        (wide, shift) => {
          const value = wide >> BigInt(shift);
          const single = decodeArray(BigInt64Array.of(value), "int64")[0] as number;
          const distance = (x: number) => (BigInt(x) > value ? BigInt(x) - value : value - BigInt(x));
          const neighbours = [nextDown(single, "float32"), nextUp(single, "float32")].filter(Number.isInteger);
          for (const neighbour of neighbours) expect(distance(neighbour) >= distance(single)).toBe(true);
          expect(convertArray(BigInt64Array.of(value), "int64", "float64")[0]).toBe(Number(value));
        },
      ),
      { numRuns: 1000, seed: 2 },
    );
  });
});

/** Stands in for the runtime's Float16Array: values read from the bits. */
class Float16Array {
  readonly [index: number]: number;
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly length: number;

  constructor(buffer: ArrayBuffer, byteOffset: number, length: number) {
    this.buffer = buffer;
    this.byteOffset = byteOffset;
    this.byteLength = length * 2;
    this.length = length;
    const bits = new Uint16Array(buffer, byteOffset, length);
    Object.assign(this, decodeArray(bits, "float16"));
  }

  get [Symbol.toStringTag](): string {
    return "Float16Array";
  }
}

describe("Float16Array", () => {
  afterEach(() => {
    vi.unstubAllGlobals();
  });

  it("is accepted: its bits are copied, or widened to the other format", () => {
    const bits = Uint16Array.of(0x1234, 0x3c00, 0x7e55, 0x0001);
    const values = new Float16Array(bits.buffer, 2, 3);
    expect([...encodeArray(values, "float16")]).toEqual([0x3c00, 0x7e55, 0x0001]);
    expect(encodeArray(values, "float16").buffer).not.toBe(bits.buffer);
    expect([...encodeArray(values, "bfloat16")]).toEqual([0x3f80, 0x7fca, encode(2 ** -24, "bfloat16")]);
    expect([...encodeArray(values, "float32")]).toEqual([1, Number.NaN, 2 ** -24]);
  });

  it("is offered on the same memory where the runtime has it", () => {
    vi.stubGlobal("Float16Array", Float16Array);
    const bits = Uint16Array.of(0, 0x3e00).subarray(1);
    const view = toFloat16Array(bits);
    expect(view).toBeInstanceOf(Float16Array);
    expect([view.buffer, view.byteOffset, view.length, view[0]]).toEqual([bits.buffer, 2, 1, 1.5]);
  });

  it("gives way to the bits where the runtime has none", () => {
    vi.stubGlobal("Float16Array", undefined);
    const bits = Uint16Array.of(0x3e00);
    expect(toFloat16Array(bits)).toBe(bits);
  });
});
