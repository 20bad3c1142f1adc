/** Promotion: every pair of formats, written out. */
import { describe, expect, it } from "vitest";
import { promote } from "../../src/formats/promote.ts";
import { DTYPES, type DType, parseDType, shortName } from "../../src/formats/table.ts";

/** Row and column in the order of DTYPES; `-` is a refusal. */
// biome-ignore format: a table is read by rows
const TABLE = `
          f64    f32    f16    bf16   f8e4m3 f8e5m2 i64    i32    u32    u8     bool   i16
  f64     f64    f64    f64    f64    -      -      f64    f64    f64    f64    f64    f64
  f32     f64    f32    f32    f32    -      -      f32    f32    f32    f32    f32    f32
  f16     f64    f32    f16    -      -      -      f16    f16    f16    f16    f16    f16
  bf16    f64    f32    -      bf16   -      -      bf16   bf16   bf16   bf16   bf16   bf16
  f8e4m3  -      -      -      -      f8e4m3 -      -      -      -      -      -      -
  f8e5m2  -      -      -      -      -      f8e5m2 -      -      -      -      -      -
  i64     f64    f32    f16    bf16   -      -      i64    i64    i64    i64    i64    i64
  i32     f64    f32    f16    bf16   -      -      i64    i32    -      i32    i32    i32
  u32     f64    f32    f16    bf16   -      -      i64    -      u32    u32    u32    -
  u8      f64    f32    f16    bf16   -      -      i64    i32    u32    u8     u8     i16
  bool    f64    f32    f16    bf16   -      -      i64    i32    u32    u8     bool   i16
  i16     f64    f32    f16    bf16   -      -      i64    i32    -      i16    i16    i16`;

const [header = [], ...rows] = TABLE.trim()
  .split("\n")
  .map((line) => line.trim().split(/\s+/));

const PAIRS = rows.flatMap(([a = "", ...cells]) =>
  cells.map((cell, i): [DType, DType, string] => [parseDType(a), parseDType(header[i] ?? ""), cell]),
);

describe("promote", () => {
  it("is tabulated for all pairs", () => {
    expect(PAIRS.map(([a, b]) => [a, b])).toEqual(DTYPES.flatMap((a) => DTYPES.map((b) => [a, b])));
  });

  it.each(PAIRS.filter(([, , cell]) => cell !== "-"))("%s with %s is %s", (a, b, cell) => {
    expect(shortName(promote(a, b))).toBe(cell);
  });

  it.each(PAIRS.filter(([, , cell]) => cell === "-"))("%s with %s is refused by name", (a, b) => {
    const mix = () => promote(a, b);
    expect(mix).toThrow(expect.objectContaining({ code: "dtype.mismatch" }));
    expect(mix).toThrow(`got ${a} and ${b};`);
  });

  it.each([
    ["float16", "bfloat16", '.cast("float32")'],
    ["int32", "uint32", '.cast("int64")'],
    ["float8_e4m3fn", "float16", '.cast("float32")'],
    ["float8_e5m2", "int32", '.cast("float32")'],
  ] as const)("%s with %s: the message gives the fix", (a, b, fix) => {
    expect(() => promote(a, b)).toThrow(fix);
    expect(() => promote(b, a)).toThrow(fix);
  });
});
