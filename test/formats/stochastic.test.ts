/** Stochastic rounding: only neighbours, exact values at rest, no bias, no spurious infinity, no dependence on workers. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decode, decodeArray, encode, round } from "../../src/formats/codec.ts";
import { philoxSource } from "../../src/formats/philox.ts";
import { encodeArrayStochastic, encodeStochastic, roundStochastic } from "../../src/formats/stochastic.ts";
import { DTYPES, FORMATS, isFloat } from "../../src/formats/table.ts";
import { beside, indexAtOrBelow, magnitudes, patternCount, SMALL } from "./enumerate.ts";

const WORDS = [0, 1, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];
const FLOATS = DTYPES.filter(isFloat);

describe("mean of 100 000 roundings", () => {
  it.each([
    ["bfloat16", 1.001],
    ["bfloat16", 1.0039],
    ["bfloat16", -3.007],
    ["float16", 1.0003],
  ] as const)("%s: is %d within 3e-5 relative", (d, value) => {
    const next = philoxSource(2024);
    let sum = 0;
    for (let i = 0; i < 100_000; i++) sum += roundStochastic(value, d, next);
    expect(Math.abs(sum / 100_000 / value - 1)).toBeLessThan(3e-5);
  });

  it.each([
    0x0001, 0x4000, 0x8000, 0xfffe, 0xffff,
  ])("bfloat16 moves up in exactly %i of 2^16 equally spaced words", (low) => {
    const value = decode(0x3f810000 + low, "float32");
    let ups = 0;
    for (let high = 0; high < 0x10000; high++)
      ups += encodeStochastic(value, "bfloat16", high * 0x10000) === 0x3f82 ? 1 : 0;
    expect(ups).toBe(low);
  });

  it("keeps updates that rounding to nearest loses", () => {
    const next = philoxSource(1);
    let weight = 1;
    let stuck = 1;
    for (let i = 0; i < 10_000; i++) {
      weight = roundStochastic(weight + 0.001, "bfloat16", next);
      stuck = round(stuck + 0.001, "bfloat16");
    }
    expect(stuck).toBe(1);
    // A step's variance is at most gap · 0.001, with gaps of 2^-7 up to 2^-4 on the way: 0.59 is one standard deviation.
    expect(Math.abs(weight - 11)).toBeLessThan(5 * 0.59);
  });
});

describe.each(SMALL)("%s", (d) => {
  const values = magnitudes(d);

  it("never moves a number of the format", () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < patternCount(d); bits++) {
      const value = decode(bits, d);
      for (const word of WORDS) if (!Object.is(roundStochastic(value, d, word), value)) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
  });

  it("gives one of the two neighbours, the upper one for large words", () => {
    const wrong: string[] = [];
    for (let i = 0; i + 1 < values.length; i++) {
      const [low, high] = [values[i] as number, values[i + 1] as number];
      for (const [inside, word, expected] of [
        [beside(high, -1n), 0, low],
        [low + (high - low) * 2 ** -32, 0xfffffffe, low],
        [low + (high - low) * 2 ** -32, 0xffffffff, high],
        [(low + high) / 2, 0x7fffffff, low],
        [(low + high) / 2, 0x80000000, high],
      ] as const) {
        for (const sign of [1, -1]) {
          const actual = roundStochastic(sign * inside, d, word);
          if (!Object.is(actual, sign * expected)) wrong.push(`${sign * inside}, ${word}: ${actual}`);
        }
      }
    }
    expect(wrong.slice(0, 5)).toEqual([]);
  });

  it("stays between the neighbours of any value, for any word", () => {
    const word = fc.integer({ min: 0, max: 0xffffffff });
    fc.assert(
      fc.property(fc.double({ min: 0, max: FORMATS[d].maxFinite, noNaN: true }), word, (x, random) => {
        const index = indexAtOrBelow(values, x);
        expect([values[index], values[index + 1]]).toContain(Math.abs(roundStochastic(x, d, random)));
      }),
      { numRuns: 1000, seed: 1 },
    );
  });

  it("does not go to infinity below the largest number, and beyond it follows rounding to nearest", () => {
    const { maxFinite } = FORMATS[d];
    for (const word of WORDS) {
      expect(roundStochastic(maxFinite, d, word)).toBe(maxFinite);
      expect(roundStochastic(-beside(maxFinite, -1n), d, word)).toBeGreaterThanOrEqual(-maxFinite);
      for (const x of [beside(maxFinite, 1n), 1.02 * maxFinite, 2 * maxFinite, 1e300, Infinity]) {
        expect(roundStochastic(x, d, word)).toBe(round(x, d));
        expect(roundStochastic(-x, d, word)).toBe(round(-x, d));
      }
    }
  });
});

describe("words and sources", () => {
  it("equals adding random bits below the mantissa of a float32 and cutting them off", () => {
    const word = fc.integer({ min: 0, max: 0xffffffff });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0x7f7f0000 }), fc.boolean(), word, (magnitude, negative, random) => {
        const bits = magnitude + (negative ? 0x80000000 : 0);
        const added = Math.floor((bits + (random >>> 16)) / 0x10000);
        expect(encodeStochastic(decode(bits, "float32"), "bfloat16", random)).toBe(added);
      }),
      { numRuns: 2000, seed: 2 },
    );
  });

  it.each(FLOATS)("%s: keeps NaN, zeros and the sign of what vanishes", (d) => {
    for (const word of WORDS) {
      expect(roundStochastic(Number.NaN, d, word)).toBe(Number.NaN);
      expect(roundStochastic(0, d, word)).toBe(0);
      expect(roundStochastic(-0, d, word)).toBe(-0);
    }
    if (d !== "float64") expect(roundStochastic(-Number.MIN_VALUE, d, 0xffffffff)).toBe(-0);
  });

  it("moves float32 between its own neighbours, and float64 not at all", () => {
    expect(roundStochastic(1 + 2 ** -25, "float32", 0xc0000000)).toBe(1 + 2 ** -23);
    expect(roundStochastic(1 + 2 ** -25, "float32", 0xbfffffff)).toBe(1);
    expect(roundStochastic(0.1, "float64", 0xffffffff)).toBe(0.1);
  });

  it("reads a word modulo 2^32, so that a signed one serves as well", () => {
    expect(roundStochastic(1.001, "bfloat16", -1)).toBe(1.0078125);
    expect(roundStochastic(1.001, "bfloat16", 0x7fffffff)).toBe(1);
  });

  it("asks a source for one word, and only where the value must move", () => {
    let calls = 0;
    const source = () => {
      calls++;
      return 0xffffffff;
    };
    roundStochastic(1, "bfloat16", source);
    expect(calls).toBe(0);
    expect(roundStochastic(1.001, "bfloat16", source)).toBe(1.0078125);
    expect(calls).toBe(1);
  });
});

describe("encodeArrayStochastic", () => {
  const values = Float64Array.from({ length: 103 }, (_, i) => (i - 50) * 1.2345);

  it.each(["float32", ...SMALL] as const)("%s: uses word i of the seed's sequence for element i", (d) => {
    const next = philoxSource(9, 4);
    const words = Array.from(values, () => next());
    const expected = Array.from(values, (value, i) => decode(encodeStochastic(value, d, words[i] as number), d));
    expect([...decodeArray(encodeArrayStochastic(values, d, { seed: 9, stream: 4 }), d)]).toEqual(expected);
  });

  it.each([1, 2, 3, 5, 8])("gives the same bits from %i workers", (workers) => {
    const whole = encodeArrayStochastic(values, "bfloat16", { seed: 3 });
    const share = Math.ceil(values.length / workers);
    const parts = Array.from({ length: workers }, (_, i) => {
      const part = values.subarray(i * share, (i + 1) * share);
      return [...encodeArrayStochastic(part, "bfloat16", { seed: 3, offset: i * share })];
    });
    expect(parts.flat()).toEqual([...whole]);
  });

  it("repeats with the seed and changes with it", () => {
    const bits = (seed: number) => [...encodeArrayStochastic(values, "bfloat16", { seed })];
    expect(bits(1)).toEqual(bits(1));
    expect(bits(1)).not.toEqual(bits(2));
    expect(bits(1)).not.toEqual([...values].map((value) => encode(value, "bfloat16")));
  });
});
