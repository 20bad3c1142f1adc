/** The format table against its own arithmetic, names, and storage. */
import { describe, expect, it } from "vitest";
import { BinadeError } from "../../src/errors.ts";
import {
  byteSize,
  DTYPES,
  type FloatFormat,
  FORMATS,
  isFloat,
  isInteger,
  parseDType,
  shortName,
  storageArray,
} from "../../src/formats/table.ts";

describe("FORMATS", () => {
  it("lists the formats in the order of the native codes", () => {
    // biome-ignore format: a list of names
    expect(DTYPES).toEqual(["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "uint32", "uint8", "bool", "int16"]);
    expect(DTYPES.map((d) => FORMATS[d].code)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  });

  it.each(DTYPES.filter(isFloat))("%s: the limits follow from the widths of the fields", (d) => {
    const format: FloatFormat = FORMATS[d];
    const { exponentBits, mantissaBits, bias } = format;
    expect(1 + exponentBits + mantissaBits).toBe(format.bits);
    expect(bias).toBe(2 ** (exponentBits - 1) - 1);
    expect(format.minNormal).toBe(2 ** (1 - bias));
    expect(format.minSubnormal).toBe(2 ** (1 - bias - mantissaBits));
    // Without infinities the top exponent holds numbers, all but the one mantissa that means NaN.
    const topExponent = 2 ** exponentBits - (format.infinities ? 2 : 1) - bias;
    const topMantissa = 2 - 2 ** -mantissaBits * (format.infinities ? 1 : 2);
    expect(format.maxFinite).toBe(topMantissa * 2 ** topExponent);
  });

  it("has distinct names for printing and for files", () => {
    expect(DTYPES.map(shortName)).toEqual([
      "f64",
      "f32",
      "f16",
      "bf16",
      "f8e4m3",
      "f8e5m2",
      "i64",
      "i32",
      "u32",
      "u8",
      "bool",
      "i16",
    ]);
    expect(DTYPES.map((d) => FORMATS[d].safetensors)).toEqual([
      "F64",
      "F32",
      "F16",
      "BF16",
      "F8_E4M3",
      "F8_E5M2",
      "I64",
      "I32",
      "U32",
      "U8",
      "BOOL",
      "I16",
    ]);
  });
});

describe("kinds, sizes and storage", () => {
  it("tells floats and integers apart, and bool from both", () => {
    expect(DTYPES.filter(isFloat)).toEqual(DTYPES.slice(0, 6));
    expect(DTYPES.filter(isInteger)).toEqual(["int64", "int32", "uint32", "uint8", "int16"]);
  });

  it.each(DTYPES)("%s: the storage array has the element size of the format", (d) => {
    expect(storageArray(d).BYTES_PER_ELEMENT).toBe(byteSize(d));
    expect(new (storageArray(d))(3).length).toBe(3);
  });

  it("stores each format in the array of its kind", () => {
    expect(DTYPES.map((d) => storageArray(d))).toEqual([
      Float64Array,
      Float32Array,
      Uint16Array,
      Uint16Array,
      Uint8Array,
      Uint8Array,
      BigInt64Array,
      Int32Array,
      Uint32Array,
      Uint8Array,
      Uint8Array,
      Int16Array,
    ]);
  });
});

describe("parseDType", () => {
  it.each(DTYPES)("%s: accepts the full and the short name", (d) => {
    expect(parseDType(d)).toBe(d);
    expect(parseDType(shortName(d))).toBe(d);
  });

  it("accepts the customary fp names", () => {
    expect(["fp32", "fp16", "f16", "bf16"].map(parseDType)).toEqual(["float32", "float16", "float16", "bfloat16"]);
  });

  it.each(["", "Float16", "half", "constructor", "float8"])("refuses %j and lists the choices", (text) => {
    const parse = () => parseDType(text);
    expect(parse).toThrow(BinadeError);
    expect(parse).toThrow(expect.objectContaining({ code: "option.invalid" }));
    expect(parse).toThrow(`got "${text}"`);
    for (const d of DTYPES) expect(parse).toThrow(d);
  });
});
