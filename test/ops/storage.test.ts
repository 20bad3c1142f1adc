/** Rows that keep float32 in fewer bits, on every device: split words, stochastic rounding, 8-bit codes, exhaustively where there are few. */

import { beforeAll, describe, expect, it } from "vitest";
import { encode, encodeStochastic } from "../../src/formats/index.ts";
import { compile, fromBytes, Tensor, tensor, useDevice } from "../../src/index.ts";
import { build } from "../../src/ir/graph.ts";
import { dynamicMap } from "../../src/ops/dynamic-map.ts";
import { DEVICES } from "../support/devices.ts";

const WORDS = 2 ** 16;
/** Upper words around zero, subnormals, the boundaries of binades, one, the largest numbers and infinity, of both signs. */
const UPPER = [0, 1, 2, 126, 127, 128, 253, 254]
  .flatMap((exponent) => [0, 1, 2, 0x3f, 0x7e, 0x7f].map((mantissa) => (exponent << 7) | mantissa))
  .flatMap((word) => [word, word | 0x8000]);

/** The reference evaluates element by element: a part of them. */
const uppersOf = (device: string): readonly number[] =>
  device === "cpu" ? UPPER : UPPER.filter((_, i) => i % 13 === 0);

/** float32 numbers with this upper word and every lower one. */
const withUpper = (upper: number): Uint32Array =>
  Uint32Array.from({ length: WORDS }, (_, lower) => ((upper << 16) | lower) >>> 0);
const float32 = (bits: Uint32Array): Tensor =>
  fromBytes(new Uint8Array(bits.buffer), { shape: [bits.length], dtype: "float32" });
const wordsOf = async (x: Tensor): Promise<Uint16Array> => new Uint16Array((await x.bytes()).buffer);

/** The smallest difference at each i; a test that looks at millions of numbers asserts once. */
const firstDifference = (got: ArrayLike<number>, want: (i: number) => number): string | null => {
  for (let i = 0; i < got.length; i++) if (got[i] !== want(i)) return `[${i}]: ${got[i]}, expected ${want(i)}`;
  return null;
};

const split = (x: Tensor): [Tensor, Tensor] => [
  new Tensor(build.composite("splitUpper", [x.node])),
  new Tensor(build.composite("splitLower", [x.node])),
];
const join = (upper: Tensor, lower: Tensor): Tensor =>
  new Tensor(build.composite("splitJoin", [upper.node, lower.node]));

describe.each(DEVICES)("storage rows on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("case 54: every lower word of a split float32 comes back, and the upper part is the nearest bfloat16", async () => {
    const step = compile((x: Tensor) => {
      const [upper, lower] = split(x);
      return { upper, lower, joined: join(upper, lower) };
    });
    for (const upper of uppersOf(device)) {
      const bits = withUpper(upper);
      const parts = await step(float32(bits));
      const joined = new Uint32Array((await parts.joined.bytes()).buffer);
      expect(
        firstDifference(joined, (i) => bits[i] ?? -1),
        `joined, upper word ${upper.toString(16)}`,
      ).toBeNull();
      // Ties away from zero: half a step and more goes up.
      expect(
        firstDifference(await wordsOf(parts.upper), (i) => upper + (i >= WORDS / 2 ? 1 : 0)),
        `upper part of ${upper.toString(16)}`,
      ).toBeNull();
      const lower = new Int16Array((await parts.lower.bytes()).buffer);
      expect(
        firstDifference(lower, (i) => (i >= WORDS / 2 ? i - WORDS : i)),
        `lower part of ${upper.toString(16)}`,
      ).toBeNull();
    }
  });

  it("a split keeps infinities, and NaN as NaN", async () => {
    const [upper, lower] = split(tensor([Infinity, -Infinity, Number.NaN]));
    const joined = compile(() => join(upper, lower));
    expect([...(await (await joined()).data())]).toEqual([Infinity, -Infinity, Number.NaN]);
  });

  it("case 55: stochastic rounding as formats/stochastic.ts, bit for bit: only neighbours, exact values at rest", async () => {
    const round = compile((x: Tensor, u: Tensor) => new Tensor(build.composite("roundStochastic", [x.node, u.node])));
    // Words of 24 bits: the uniform number is a multiple of 2^-24.
    const words = Uint32Array.from({ length: WORDS }, (_, i) => (Math.imul(i, 0x9e3779b1) >>> 8) * 256);
    const uniform = tensor(Float32Array.from(words, (word) => (word >>> 8) * 2 ** -24));
    for (const upper of uppersOf(device)) {
      const bits = withUpper(upper);
      const values = new Float32Array(bits.buffer);
      const got = await wordsOf(await round(float32(bits), uniform));
      const want = (i: number): number => encodeStochastic(values[i] ?? 0, "bfloat16", words[i] ?? 0);
      expect(firstDifference(got, want), `upper word ${upper.toString(16)}`).toBeNull();
    }
    const special = [0, -0, Infinity, -Infinity, Number.NaN, 2 ** -133, (2 - 2 ** -7) * 2 ** 127, 3.4e38];
    const got = await wordsOf(await round(tensor(special), tensor(special.map(() => 1 - 2 ** -24))));
    expect([...got]).toEqual(special.map((v) => encode(v, "bfloat16")));
  });

  it.each([true, false])("case 57: codes of the dynamic map (signed: %s) and its numbers, all 256", async (signed) => {
    const map = dynamicMap(signed);
    const decode = compile((code: Tensor) => new Tensor(build.composite("dequantizeDynamic", [code.node], { signed })));
    const code = compile((x: Tensor) => new Tensor(build.composite("quantizeDynamic", [x.node], { signed })));
    const all = Uint8Array.from({ length: 256 }, (_, i) => i);
    const values = (await (await decode(tensor(all))).data()) as Float32Array;
    expect(firstDifference(values, (i) => map[i] ?? Number.NaN)).toBeNull();
    expect([...(await (await code(tensor(map))).data())]).toEqual([...all]);
  });

  it.each([true, false])("case 57: the code is that of the nearest number (signed: %s)", async (signed) => {
    const map = dynamicMap(signed);
    const code = compile((x: Tensor) => new Tensor(build.composite("quantizeDynamic", [x.node], { signed })));
    // Every bfloat16 from 2^-40 to 1, and the float32 numbers around every midpoint.
    const grid = Array.from({ length: 40 * 128 + 1 }, (_, i) => (127 - 40) * 128 + i).map((word) => word << 16);
    const middles = [...map.slice(1)].flatMap((high, i) => {
      const bits = new Int32Array(Float32Array.of(Math.abs((high + (map[i] ?? 0)) / 2)).buffer)[0] ?? 0;
      return [-3, -2, 2, 3].map((d) => Math.max(0, bits + d));
    });
    const positive = new Float32Array(Int32Array.from([0, ...grid, ...middles]).buffer);
    const x = signed ? Float32Array.from([...positive, ...positive.map((v) => -v)]) : positive;
    const codes = await (await code(tensor(x))).data();
    const nearest = (v: number): number => map.reduce((best, w) => Math.min(best, Math.abs(w - v)), Infinity);
    // Two spacings of float32 from a midpoint: the distances to its neighbours differ by four.
    const excess = Float64Array.from(codes, (c, i) => {
      const value = x[i] ?? 0;
      return (Math.abs((map[c] ?? Number.NaN) - value) - nearest(value)) / Math.max(Math.abs(value), 2 ** -126);
    });
    expect(excess.every((e) => e <= 4 * 2 ** -23)).toBe(true);
    expect(excess.filter((e) => e > 0).length).toBeLessThan(10);
  });

  it("case 57: zero stays zero; beyond the ends are the ends; NaN is a code, which only its block's scale makes NaN again", async () => {
    const x = tensor([0, -0, 2, -2, Infinity, -Infinity, Number.NaN]);
    const of = async (signed: boolean): Promise<number[]> => [
      ...(await new Tensor(build.composite("quantizeDynamic", [x.node], { signed })).data()),
    ];
    expect(await of(true)).toEqual([127, 127, 255, 0, 255, 0, 0]);
    expect(await of(false)).toEqual([0, 0, 255, 0, 255, 0, 0]);
  });

  it("int16 saturates, truncates, and reads and writes contiguous and strided memory", async () => {
    const values = [0, 1.9, -1.9, 32767, 32768, -32768, -32769, 1e30, -1e30, Number.NaN];
    const want = [0, 1, -1, 32767, 32767, -32768, -32768, 32767, -32768, 0];
    const whole = tensor(values).cast("int16");
    expect([...(await whole.data())]).toEqual(want);
    expect([...(await whole.cast("int32").mul(2).data())]).toEqual(want.map((v) => 2 * v));
    const stored = fromBytes(await whole.bytes(), { shape: [2, 5], dtype: "int16" });
    expect([...(await stored.transpose().cast("float32").data())]).toEqual(
      [0, 1, 2, 3, 4].flatMap((i) => [want[i], want[i + 5]]),
    );
    expect([
      ...(await tensor([2 ** 31 - 1, -(2 ** 31)], { dtype: "int32" })
        .cast("int16")
        .data()),
    ]).toEqual([32767, -32768]);
    expect([
      ...(await tensor([2 ** 32 - 1, 5], { dtype: "uint32" })
        .cast("int16")
        .data()),
    ]).toEqual([32767, 5]);
  });

  it("bitcast reads the bits of float32, int32 and uint32 as each other", async () => {
    const bits = [0, 0x80000000, 0x3f800000, 0xff7ffffe, 1, 0x80000001, 0x7f7fffff, 0x007fffff];
    const x = fromBytes(new Uint8Array(Uint32Array.from(bits).buffer), { shape: [bits.length], dtype: "float32" });
    const as = (dtype: "int32" | "uint32"): Tensor => new Tensor(build.bitcast(x.node, dtype));
    expect([...(await as("uint32").data())]).toEqual(bits);
    expect([...(await as("int32").data())]).toEqual(bits.map((b) => b | 0));
    const back = new Tensor(build.bitcast(as("int32").add(1).node, "float32"));
    expect([...new Uint32Array((await back.bytes()).buffer)]).toEqual(bits.map((b) => b + 1));
  });
});

describe("the dynamic map", () => {
  /** As bitsandbytes and torchao make it: parts of decades between float32 boundaries, and their middles. */
  function fieldMap(signed: boolean): number[] {
    const numbers = [0, 1];
    for (let i = 0; i < 7; i++) {
      const items = 2 ** (signed ? i : i + 1);
      const boundary = (j: number): number => 0.1 + (0.9 * j) / items;
      for (let j = 0; j < items; j++) {
        const middle = 10 ** (i - 6) * ((boundary(j) + boundary(j + 1)) / 2);
        numbers.push(middle);
        if (signed) numbers.push(-middle);
      }
    }
    return numbers.sort((a, b) => a - b);
  }

  it.each([true, false])("is that of bitsandbytes and torchao (signed: %s)", (signed) => {
    const [map, field] = [dynamicMap(signed), fieldMap(signed)];
    expect(map.length).toBe(256);
    expect(field.length).toBe(256);
    map.forEach((value, i) => {
      expect(Math.abs(value - (field[i] ?? Number.NaN))).toBeLessThanOrEqual(2 ** -24 * Math.abs(value));
    });
  });

  it("is symmetric but for 1, where it is signed", () => {
    const map = dynamicMap(true);
    expect([map[0], map[127], map[255]]).toEqual([Math.fround(-1271 / 1280), 0, 1]);
    for (let i = 1; i <= 127; i++) expect(map[127 - i]).toBe(-(map[127 + i] ?? 0));
  });
});
