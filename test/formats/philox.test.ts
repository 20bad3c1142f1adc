/** Philox4x32-10 against its published vectors and against the same algorithm in exact integers. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  blockCounter,
  type PhiloxCounter,
  type PhiloxKey,
  philox,
  philoxSource,
  uniform,
} from "../../src/formats/philox.ts";

const words = (counter: PhiloxCounter, key: PhiloxKey): number[] => {
  const out = new Uint32Array(4);
  philox(counter, key, out);
  return [...out];
};

/** The definition of the paper, in integers of any size. */
function philoxByDefinition(counter: PhiloxCounter, key: PhiloxKey): number[] {
  const mask = 0xffffffffn;
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  for (let i = 0; i < 10; i++) {
    const product0 = 0xd2511f53n * c0;
    const product1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(product1 >> 32n) ^ c1 ^ k0, product1 & mask, (product0 >> 32n) ^ c3 ^ k1, product0 & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [c0, c1, c2, c3].map(Number);
}

describe("philox", () => {
  const ones = 0xffffffff;
  // The vectors of philox4x32, 10 rounds, in the file kat_vectors of the Random123 distribution.
  // biome-ignore format: a table is read by rows
  it.each<[string, PhiloxCounter, PhiloxKey, number[]]>([
    ["zeros", [0, 0, 0, 0], [0, 0], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]],
    ["ones", [ones, ones, ones, ones], [ones, ones], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]],
    ["digits of pi", [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]],
  ])("gives the published words for %s", (_, counter, key, expected) => {
    expect(words(counter, key)).toEqual(expected);
  });

  it("agrees with the definition for any counter and key", () => {
    const word = fc.integer({ min: 0, max: ones });
    fc.assert(
      fc.property(fc.tuple(word, word, word, word), fc.tuple(word, word), (counter, key) => {
        expect(words(counter, key)).toEqual(philoxByDefinition(counter, key));
      }),
      { numRuns: 2000, seed: 1 },
    );
  });

  it("reads words modulo 2^32", () => {
    expect(words([-1, -1, -1, -1], [-1, -1])).toEqual(words([ones, ones, ones, ones], [ones, ones]));
  });
});

describe("philoxSource", () => {
  const take = (count: number, seed: number, stream?: number) => {
    const next = philoxSource(seed, stream);
    return Array.from({ length: count }, next);
  };

  it("walks the blocks of the seed's key in order", () => {
    expect(take(9, 42)).toEqual([
      ...words([0, 0, 0, 0], [42, 0]),
      ...words([1, 0, 0, 0], [42, 0]),
      ...words([2, 0, 0, 0], [42, 0]).slice(0, 1),
    ]);
  });

  it("uses all bits of the seed, and the stream", () => {
    expect(take(4, 5 * 2 ** 32 + 7, 3)).toEqual(words([0, 0, 3, 0], [7, 5]));
  });

  it("counts blocks beyond 2^32", () => {
    expect(blockCounter(2 ** 36 + 7, -1)).toEqual([1, 4, 0xffffffff, 0]);
  });

  it.each([-1, 0.5, 2 ** 53, Number.NaN])("refuses the seed %d", (seed) => {
    expect(() => philoxSource(seed)).toThrow(expect.objectContaining({ code: "value.range" }));
    expect(() => philoxSource(seed)).toThrow(`got ${seed}`);
  });
});

describe("uniform", () => {
  it.each([
    [0, 0],
    [255, 0],
    [256, 2 ** -24],
    [0x80000000, 0.5],
    [-1, 1 - 2 ** -24],
    [0xffffffff, 1 - 2 ** -24],
  ])("%d gives %d", (word, expected) => {
    expect(uniform(word)).toBe(expected);
  });

  it("fills [0, 1) evenly", () => {
    const next = philoxSource(7);
    const counts = new Array<number>(16).fill(0);
    for (let i = 0; i < 160_000; i++) {
      const cell = Math.floor(uniform(next()) * 16);
      counts[cell] = (counts[cell] as number) + 1;
    }
    // 10 000 expected in each cell; 5 standard deviations are 484.
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(484);
  });
});
