/** The native transcendental functions: error in ulps over all exponents against float64, and their special values. */
import { beforeAll, describe, expect, it } from "vitest";
import type { Opcode } from "../../src/backends/cpu/abi.ts";
import { addon, at, firstDifference, isas, pointwise, randomWords, runKernels, skipReason, sweep } from "./words.ts";

const view = (binding: number) => ({ binding, dtype: "float32", strides: [1] }) as const;

function apply(opcode: Opcode, operands: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(operands[0]?.length ?? 0);
  const kernel = pointwise([out.length], {
    registers: 3,
    loads: operands.map((_, i) => ({ reg: i, view: view(i + 1) })),
    code: [[opcode, 2, ...operands.keys()]],
    stores: [{ reg: 2, view: view(operands.length + 1) }],
  });
  expect(runKernels([kernel], [...operands, out])).toBeNull();
  return out;
}

/** erf in float64: Taylor series near 0, the continued fraction of erfc (backwards, 60 terms) beyond 2. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a > 2) {
    let fraction = 0;
    for (let k = 60; k >= 1; k--) fraction = k / 2 / (a + fraction);
    return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
  }
  let term = x;
  let sum = x;
  for (let n = 1; n < 60; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** Distance of `actual` from the exact `expected` in units of float32's last place at `expected`. */
function ulps(actual: number, expected: number): number {
  if (Number.isNaN(expected)) return Number.isNaN(actual) ? 0 : Number.POSITIVE_INFINITY;
  if (Object.is(actual, Math.fround(expected))) return 0;
  // A result that rounds to infinity or to zero has one right neighbour besides.
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(expected))), -126);
  if (Math.abs(actual) === Number.POSITIVE_INFINITY)
    return Math.abs(expected) > 3.4028233e38 ? 0.5 : Number.POSITIVE_INFINITY;
  if (actual === 0 && expected !== 0 && Math.sign(1 / actual) !== Math.sign(expected)) return Number.POSITIVE_INFINITY;
  return Math.abs(actual - expected) / 2 ** (exponent - 23);
}

const FUNCTIONS: readonly (readonly [Opcode, (x: number) => number, number])[] = [
  ["exp", Math.exp, 1],
  ["expm1", Math.expm1, 2],
  ["log", Math.log, 1],
  ["log1p", Math.log1p, 1],
  ["tanh", Math.tanh, 2],
  ["erf", erf, 2],
  ["sin", Math.sin, 1],
  ["cos", Math.cos, 1],
];

/** Where the functions bend: [-110, 110], densely. */
const bend = Float32Array.from(randomWords(1 << 15, 3), (word) => (word / 2 ** 32 - 0.5) * 220);
const near = Float32Array.from(randomWords(1 << 15, 5), (word) => (word / 2 ** 32 - 0.5) * 4);
const arguments32 = Float32Array.from([...sweep(1 << 16), ...bend, ...near]);

describe.skipIf(skipReason !== undefined).each(isas)("transcendental functions on %s", (isa) => {
  beforeAll(() => addon().setIsa(isa));

  it.each(FUNCTIONS)("%s", (opcode, meaning, bound) => {
    const actual = apply(opcode, [arguments32]);
    let worst = 0;
    let where = 0;
    for (let i = 0; i < actual.length; i++) {
      const distance = ulps(at(actual, i), meaning(at(arguments32, i)));
      if (distance > worst) [worst, where] = [distance, i];
    }
    expect(worst, `${opcode}(${arguments32[where]}) gave ${actual[where]}`).toBeLessThanOrEqual(bound);
  });

  it("pow", () => {
    const y = Float32Array.from(near, (v) => v * 20);
    const x = near.map(Math.abs);
    const actual = apply("pow", [x, y]);
    const worst = actual.reduce((most, v, i) => Math.max(most, ulps(v, at(x, i) ** at(y, i))), 0);
    expect(worst).toBeLessThanOrEqual(1);
  });

  const inf = Number.POSITIVE_INFINITY;
  const nan = Number.NaN;
  const least = 2 ** -149;
  it.each([
    ["exp", [-inf, inf, nan, 0, -0, -104, 88.72284, least, -1e30, 1e30], [0, inf, nan, 1, 1, 0, inf, 1, 0, inf]],
    [
      "expm1",
      [-inf, inf, nan, 0, -0, least, -least, -1e30, 2 ** -30],
      [-1, inf, nan, 0, -0, least, -least, -1, 2 ** -30],
    ],
    ["log", [0, -0, -1, -inf, inf, nan, 1, least], [-inf, -inf, nan, nan, inf, nan, 0, -103.27893]],
    ["log1p", [-1, -2, -inf, inf, nan, 0, -0, least, -least], [-inf, nan, nan, inf, nan, 0, -0, least, -least]],
    ["tanh", [inf, -inf, nan, 0, -0, least, -least, 20, -20], [1, -1, nan, 0, -0, least, -least, 1, -1]],
    ["erf", [inf, -inf, nan, 0, -0, 5, -5], [1, -1, nan, 0, -0, 1, -1]],
  ] as const)("%s at its special values", (opcode, x, expected) => {
    expect(apply(opcode, [Float32Array.from(x)])).toEqual(Float32Array.from(expected));
  });

  it.each(["tanh", "erf"] as const)("%s is odd", (opcode) => {
    const mirrored = apply(opcode, [arguments32.map((v) => -v)]);
    expect(
      firstDifference(
        mirrored,
        apply(opcode, [arguments32]).map((v) => -v),
      ),
    ).toBe(-1);
  });
});

describe.skipIf(skipReason !== undefined)("on every instruction set", () => {
  it.each(["exp", "expm1", "log", "log1p", "tanh", "erf"] as const)("%s has the same bits", (opcode) => {
    const results = isas.map((isa) => {
      addon().setIsa(isa);
      return apply(opcode, [arguments32]);
    });
    const [first] = results;
    for (const result of results) expect(firstDifference(result, first ?? result)).toBe(-1);
  });
});
