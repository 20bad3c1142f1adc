/** Neighbours and distances: every pair of neighbours in the small formats, and the edges of all. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { round } from "../../src/formats/codec.ts";
import { DTYPES, FORMATS, isFloat } from "../../src/formats/table.ts";
import { defaultTolerance, nextDown, nextUp, ulp, ulpDistance } from "../../src/formats/ulp.ts";
import { beyond, magnitudes, SMALL } from "./enumerate.ts";

const FLOATS = DTYPES.filter(isFloat);

describe.each(SMALL)("%s", (d) => {
  const values = magnitudes(d);

  it("steps through all numbers in both directions", () => {
    const wrong: number[] = [];
    for (let i = 0; i < values.length; i++) {
      const value = values[i] as number;
      const next = values[i + 1] ?? beyond(d);
      const up = Object.is(nextUp(value, d), next) && Object.is(nextDown(-value, d), -next);
      const gap = Number.isFinite(next) ? next - value : value - (values[i - 1] as number);
      const down =
        i === 0 || (Object.is(nextDown(next, d), value) && nextUp(-next, d) === -value) || !Number.isFinite(next);
      const distance = Number.isNaN(next) || (ulpDistance(value, next, d) === 1 && ulpDistance(-next, -value, d) === 1);
      if (!up || !down || !distance || ulp(value, d) !== gap || ulp(-value, d) !== gap) wrong.push(value);
    }
    expect(wrong).toEqual([]);
  });

  it("counts numbers: from the lowest to the highest", () => {
    const { maxFinite } = FORMATS[d];
    expect(ulpDistance(-maxFinite, maxFinite, d)).toBe(2 * (values.length - 1));
    expect(ulpDistance(0, maxFinite, d)).toBe(values.length - 1);
  });
});

describe.each(FLOATS)("%s", (d) => {
  const { maxFinite, minSubnormal, minNormal, mantissaBits, infinities } = FORMATS[d];
  const top = infinities ? Infinity : Number.NaN;

  it("knows the edges", () => {
    expect(nextUp(maxFinite, d)).toBe(top);
    expect(nextDown(-maxFinite, d)).toBe(-top);
    expect(nextUp(-Infinity, d)).toBe(-maxFinite);
    expect(nextDown(Infinity, d)).toBe(maxFinite);
    expect(nextUp(Infinity, d)).toBe(top);
    expect(nextUp(0, d)).toBe(minSubnormal);
    expect(nextUp(-0, d)).toBe(minSubnormal);
    expect(nextDown(0, d)).toBe(-minSubnormal);
    expect(nextUp(-minSubnormal, d)).toBe(-0);
    expect(nextUp(Number.NaN, d)).toBe(Number.NaN);
    expect(nextUp(1, d)).toBe(1 + 2 ** -mantissaBits);
    expect(nextDown(1, d)).toBe(1 - 2 ** -mantissaBits / 2);
  });

  it("measures spacing", () => {
    expect(ulp(1, d)).toBe(2 ** -mantissaBits);
    expect(ulp(-1.99, d)).toBe(2 ** -mantissaBits);
    expect(ulp(0, d)).toBe(minSubnormal);
    expect(ulp(minNormal, d)).toBe(minSubnormal);
    expect(ulp(minNormal * 2, d)).toBe(minSubnormal * 2);
    expect(ulp(maxFinite, d)).toBe(maxFinite - nextDown(maxFinite, d));
    expect(ulp(Infinity, d)).toBe(Infinity);
    expect(ulp(-Infinity, d)).toBe(Infinity);
    expect(ulp(Number.NaN, d)).toBe(Number.NaN);
  });

  it("measures distance", () => {
    expect(ulpDistance(0, -0, d)).toBe(0);
    expect(ulpDistance(-minSubnormal, minSubnormal, d)).toBe(2);
    expect(ulpDistance(1, 2, d)).toBe(2 ** mantissaBits);
    expect(ulpDistance(-2, -1, d)).toBe(2 ** mantissaBits);
    expect(ulpDistance(maxFinite, Infinity, d)).toBe(infinities ? 1 : Infinity);
    expect(ulpDistance(Infinity, Infinity, d)).toBe(0);
    expect(ulpDistance(Number.NaN, Number.NaN, d)).toBe(0);
    expect(ulpDistance(Number.NaN, 1, d)).toBe(Infinity);
    expect(ulpDistance(1, Number.NaN, d)).toBe(Infinity);
  });

  it("finds the nearest number strictly above and below any value", () => {
    fc.assert(
      fc.property(
        fc.double({ min: -maxFinite, max: maxFinite, noNaN: true, maxExcluded: true, minExcluded: true }),
        (x) => {
          const up = nextUp(x, d);
          const down = nextDown(x, d);
          expect(up > x && down < x && round(up, d) === up && round(down, d) === down).toBe(true);
          expect(ulpDistance(down, up, d)).toBe(round(x, d) === x ? 2 : 1);
        },
      ),
      { numRuns: 500, seed: 1 },
    );
  });

  it("tolerates two ulps of 1", () => {
    expect(defaultTolerance(d)).toBe(2 * ulp(1, d));
  });
});

it("beyond the largest number, the spacing stays that of the last binade", () => {
  expect(ulp(1e6, "float16")).toBe(32);
  expect(nextUp(1e6, "float16")).toBe(Infinity);
  expect(nextUp(-1e6, "float16")).toBe(-65504);
  expect(nextDown(1e6, "float16")).toBe(65504);
});

it("rounds both sides to the format before it counts", () => {
  expect(ulpDistance(0.1, 0.10009765625, "bfloat16")).toBe(0);
  expect(ulpDistance(1.003, 1.005, "bfloat16")).toBe(1);
});

it.each([
  "int64",
  "int32",
  "uint32",
  "int16",
  "uint8",
  "bool",
] as const)("%s: counts in ones and tolerates nothing", (d) => {
  expect(ulpDistance(0, 1, d)).toBe(1);
  expect(ulpDistance(1.2, 1.7, d)).toBe(0);
  expect(ulp(100, d)).toBe(1);
  expect(defaultTolerance(d)).toBe(0);
});
