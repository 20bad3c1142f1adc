/** Policies as text: jmp's grammar (case 48) and Keras's names (case 51). */
import { describe, expect, it } from "vitest";
import { FORMATS, isFloat } from "../../src/formats/index.ts";
import { formatPolicy, parsePolicy } from "../../src/precision/policy.ts";

const READ: readonly (readonly [string, string])[] = [
  ["p=f32,c=bf16,o=f32", "p=f32,c=bf16,o=f32"],
  ["params=float32, compute=float16, output=float32", "p=f32,c=f16,o=f32"],
  ["p=f32", "p=f32,c=f32,o=f32"],
  ["p=f32,c=f16", "p=f32,c=f16,o=f16"],
  ["o=f32,p=bf16", "p=bf16,c=bf16,o=f32"],
  ["bf16-mixed", "p=f32,c=bf16,o=f32"],
  ["fp16-mixed", "p=f32,c=f16,o=f32"],
  ["fp32", "p=f32,c=f32,o=f32"],
  ["mixed_float16", "p=f32,c=f16,o=f16"],
  ["mixed_bfloat16", "p=f32,c=bf16,o=bf16"],
  ["float32", "p=f32,c=f32,o=f32"],
];

const REFUSED = [
  "",
  "mixed_float8",
  "c=f16",
  "p=f32,p=f16",
  "p=f32,x=f16",
  "p=f33",
  "p=i32",
  "p=f32;c=f16",
  "p=f32,",
  "p==f32",
  "p",
  "constructor",
  "p=f32,toString=f16",
];

describe("policies", () => {
  const isByKey = ([text]: readonly [string, string]): boolean => text.includes("=");

  it.each(READ.filter(isByKey))('case 48: "%s" is %s', (text, canonical) => {
    expect(formatPolicy(parsePolicy(text))).toBe(canonical);
    expect(parsePolicy(canonical)).toEqual(parsePolicy(text));
  });

  it.each(READ.filter((row) => !isByKey(row)))('case 51: "%s" is %s', (text, canonical) => {
    expect(formatPolicy(parsePolicy(text))).toBe(canonical);
    expect(parsePolicy(canonical)).toEqual(parsePolicy(text));
  });

  it.each(REFUSED)('"%s" is refused', (text) => {
    expect(() => parsePolicy(text)).toThrow(expect.objectContaining({ code: "option.invalid" }));
  });

  it("every combination of floats survives a round trip", () => {
    const floats = (Object.keys(FORMATS) as (keyof typeof FORMATS)[]).filter(isFloat);
    for (const parameter of floats) {
      for (const compute of floats) {
        for (const output of floats) {
          const policy = { parameter, compute, output };
          expect(parsePolicy(formatPolicy(policy))).toEqual(policy);
        }
      }
    }
  });
});
