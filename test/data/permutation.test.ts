/** The computed permutation: a bijection for every length, different for every seed and epoch, and without bias. */

import { describe, expect, it } from "vitest";
import { epochOffset, permutedIndex } from "../../src/data/permutation.ts";

const order = (length: number, seed: number, epoch: number): number[] =>
  Array.from({ length }, (_, index) => permutedIndex(index, length, seed, epoch));

/** Pearson's statistic of `counts` against equal frequencies. */
function chiSquare(counts: readonly number[]): number {
  const expected = counts.reduce((sum, count) => sum + count, 0) / counts.length;
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
}

describe("permutedIndex", () => {
  it("is a bijection for every length to 200, around powers of two and beyond", () => {
    const lengths = [...Array.from({ length: 200 }, (_, i) => i + 1), 255, 256, 257, 1023, 1024, 1025, 4097, 30_011];
    for (const length of lengths) {
      const seen = new Set(order(length, 7, 3));
      expect(seen.size).toBe(length);
      expect(Math.min(...seen)).toBe(0);
      expect(Math.max(...seen)).toBe(length - 1);
    }
  });

  it("is the same order each time, pinned", () => {
    expect(order(10, 1, 0)).toEqual(order(10, 1, 0));
    expect(order(10, 1, 0)).toMatchInlineSnapshot(`
      [
        6,
        3,
        9,
        8,
        1,
        4,
        7,
        5,
        0,
        2,
      ]
    `);
  });

  it.each([
    ["the seed", 2, 0],
    ["the epoch", 1, 1],
    ["the seed's high word", 1 + 2 ** 32, 0],
    ["the epoch's high word", 1, 2 ** 32],
  ])("changes with %s", (_, seed, epoch) => {
    const [base, other] = [order(1000, 1, 0), order(1000, seed, epoch)];
    // Two independent orders agree at one place on average; 10 would be a chance of about 1 in 10^7.
    expect(base.filter((value, index) => value === other[index]).length).toBeLessThan(10);
  });

  it("gives every order of four elements equally often", () => {
    const counts = new Map<string, number>();
    for (let seed = 0; seed < 4800; seed++) {
      const key = order(4, seed, 0).join();
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(24);
    // 23 degrees of freedom: 62 is exceeded with a chance of 2e-5.
    expect(chiSquare([...counts.values()])).toBeLessThan(62);
  });

  it("sends an element to every place equally often, and its neighbour independently of it", () => {
    const length = 13;
    const places = new Array<number>(length).fill(0);
    const distances = new Array<number>(length).fill(0);
    for (let epoch = 0; epoch < 6500; epoch++) {
      const place = permutedIndex(5, length, 9, epoch);
      const distance = (permutedIndex(6, length, 9, epoch) - place + length) % length;
      places[place] = (places[place] ?? 0) + 1;
      distances[distance] = (distances[distance] ?? 0) + 1;
    }
    // 12 and 11 degrees of freedom: 45 is exceeded with a chance of 1e-5.
    expect(chiSquare(places)).toBeLessThan(45);
    expect(distances[0]).toBe(0);
    expect(chiSquare(distances.slice(1))).toBeLessThan(45);
  });

  it("stays in range for lengths beyond 32 bits", () => {
    const length = 2 ** 45 + 3;
    const values = Array.from({ length: 50 }, (_, index) => permutedIndex(length - 1 - index, length, 1, 0));
    expect(new Set(values).size).toBe(50);
    for (const value of values) expect(value >= 0 && value < length).toBe(true);
    expect(Math.max(...values)).toBeGreaterThan(2 ** 42);
  });
});

describe("epochOffset", () => {
  it("covers the whole range evenly", () => {
    const counts = new Array<number>(8).fill(0);
    for (let epoch = 0; epoch < 4000; epoch++) {
      const offset = epochOffset(8, 3, epoch);
      counts[offset] = (counts[offset] ?? 0) + 1;
    }
    expect(counts.length).toBe(8);
    // 7 degrees of freedom: 35 is exceeded with a chance of 1e-5.
    expect(chiSquare(counts)).toBeLessThan(35);
    expect(epochOffset(1, 3, 0)).toBe(0);
  });
});
