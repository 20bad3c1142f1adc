/** Recipes of 8 bits as data, and the exact rules of scaling on numbers. */
import { describe, expect, it } from "vitest";
import {
  amaxOf,
  blockScale,
  currentScale,
  decodeE8M0,
  encodeE8M0,
  type Fp8RecipeOptions,
  fp8Recipe,
  quantizeByBlock,
  quantizeByTensor,
} from "../../src/index.ts";
import { expectRefusal } from "../support/refusal.ts";

const HYBRID = { input: "float8_e4m3fn", weight: "float8_e4m3fn", gradient: "float8_e5m2" };

describe("a recipe", () => {
  it.each([
    [{}, { kind: "current", powerOfTwo: false, minimumAmax: 0 }],
    [{ scaling: "delayed" }, { kind: "delayed", margin: 0, historyLength: 1024, amax: "max" }],
    [
      { scaling: { kind: "delayed", margin: 1, amax: "mostRecent" } },
      { kind: "delayed", margin: 1, historyLength: 1024, amax: "mostRecent" },
    ],
    [{ scaling: "block" }, { kind: "block", exponent: "rceil" }],
  ] as const satisfies readonly (readonly [Fp8RecipeOptions, object])[])("%j is completed", (options, scaling) => {
    const recipe = fp8Recipe(options);
    expect(recipe).toEqual({ formats: HYBRID, scaling });
    expect(fp8Recipe(recipe)).toEqual(recipe);
  });

  it("takes a format for one role", () => {
    expect(fp8Recipe({ formats: { gradient: "float8_e4m3fn" } }).formats).toEqual({
      ...HYBRID,
      gradient: "float8_e4m3fn",
    });
  });

  it.each([
    [null, "option.invalid", ["options", "null"]],
    [{ scale: "current" }, "option.unknown", ['"scale"', "scaling"]],
    [{ scaling: "tensor" }, "option.invalid", ['"tensor"', "current or delayed or block"]],
    [{ scaling: null }, "option.invalid", ["scaling"]],
    [{ scaling: { kind: "current", margin: 1 } }, "option.unknown", ["current scaling", '"margin"']],
    [{ scaling: { kind: "current", powerOfTwo: 1 } }, "option.invalid", ["powerOfTwo", "1"]],
    [{ scaling: { kind: "current", minimumAmax: -1 } }, "value.range", ["minimumAmax", "-1"]],
    [{ scaling: { kind: "delayed", margin: 0.5 } }, "value.range", ["margin", "0.5"]],
    [{ scaling: { kind: "delayed", margin: 65 } }, "value.range", ["margin", "65"]],
    [{ scaling: { kind: "delayed", historyLength: 0 } }, "value.range", ["historyLength", "0"]],
    [{ scaling: { kind: "delayed", amax: "mean" } }, "option.invalid", ["amax", '"mean"']],
    [{ scaling: { kind: "block", exponent: "round" } }, "option.invalid", ["exponent", '"round"', "rceil"]],
    [{ formats: { output: "float8_e4m3fn" } }, "option.unknown", ['"output"', "gradient"]],
    [{ formats: { input: "float16" } }, "option.invalid", ["input", '"float16"', "float8_e4m3fn"]],
    [
      { formats: { input: "float8_e5m2", weight: "float8_e5m2" } },
      "option.invalid",
      ["float8_e5m2 in every role", "leave input and weight"],
    ],
  ] as const)("%j is refused", (options, code, parts) => {
    expectRefusal(() => fp8Recipe(options as unknown as Fp8RecipeOptions), code, parts);
  });
});

describe("scales", () => {
  const plain = { powerOfTwo: false, minimumAmax: 0 };

  it.each([
    [2, 224, 28672],
    [3, Math.fround(448 / 3), Math.fround(57344 / 3)],
    [0, 1, 1],
    [Infinity, 1, 1],
    [Number.NaN, 1, 1],
    [2 ** -149, (2 - 2 ** -23) * 2 ** 127, (2 - 2 ** -23) * 2 ** 127],
  ])("of an amax of %d", (amax, e4m3, e5m2) => {
    expect([currentScale(amax, "float8_e4m3fn", plain), currentScale(amax, "float8_e5m2", plain)]).toEqual([
      e4m3,
      e5m2,
    ]);
  });

  it("stop at the least amax that counts, which float64 divides by", () => {
    const clamped = { ...plain, minimumAmax: 1e-12 };
    const at = (amax: number): number => currentScale(amax, "float8_e4m3fn", clamped);
    expect([0, 1e-30].map(at)).toEqual(Array(2).fill(Math.fround(448 / 1e-12)));
    expect(at(1)).toBe(448);
  });

  it("of blocks are the powers of two that their mode asks for", () => {
    const scales = (amax: number): readonly number[] =>
      (["floor", "ceil", "even", "rceil"] as const).map((mode) => blockScale(amax, "float8_e4m3fn", mode));
    expect(scales(256)).toEqual([1, 1, 1, 1]);
    expect(scales(448)).toEqual([1, 2, 1, 1]);
    expect(scales(449)).toEqual([1, 2, 1, 2]);
    expect(scales(496)).toEqual([1, 2, 2, 2]);
    expect(scales(512)).toEqual([2, 2, 2, 2]);
  });

  it("have codes that come back", () => {
    for (let code = 0; code < 256; code++) expect(encodeE8M0(decodeE8M0(code))).toBe(code);
  });
});

describe("values", () => {
  it("under one scale", () => {
    const values = Float32Array.of(-448, 0.5, 1e9, -Infinity, Number.NaN, -0);
    expect([...quantizeByTensor(values, 1, "float8_e4m3fn")]).toEqual([-448, 0.5, 448, Number.NaN, Number.NaN, -0]);
    expect([...quantizeByTensor(values, 2, "float8_e5m2")]).toEqual([-448, 0.5, 28672, -Infinity, Number.NaN, -0]);
  });

  it("in blocks of 32, each with its own scale", () => {
    const row = new Float32Array(40).fill(2 ** -20);
    row[3] = 896;
    const { values, codes } = quantizeByBlock(row, "float8_e4m3fn", "rceil");
    expect([...codes]).toEqual([128, 127 - 28]);
    expect([values[0], values[3], values[39]]).toEqual([0, 896, 2 ** -20]);
    expect(amaxOf(row)).toBe(896);
  });
});
