/** Every number format, one row each: layout, limits, names, specification, and the typed array that stores it. */

import { BinadeError } from "../errors.ts";

/** A binary floating-point format: sign, exponent field (with `bias`), mantissa field; value (-1)^s · 2^(e - bias) · 1.m. */
export interface FloatFormat {
  /** Position in the table; the code of the format in the native interface. */
  readonly code: number;
  readonly kind: "float";
  /** Width in storage, in bits. */
  readonly bits: number;
  readonly exponentBits: number;
  /** Stored mantissa bits, the implicit leading one not counted. */
  readonly mantissaBits: number;
  readonly bias: number;
  /** Whether ±infinity has an encoding; a format without it overflows to NaN. */
  readonly infinities: boolean;
  readonly maxFinite: number;
  readonly minNormal: number;
  readonly minSubnormal: number;
  /** Name of the format in safetensors headers. */
  readonly safetensors: string;
  /** Name for printing. */
  readonly short: string;
  /** Address or number of the document that defines the format. */
  readonly source: string;
}

/** An integer or truth-value format. Signed integers are two's complement. */
export interface IntegerFormat {
  readonly code: number;
  readonly kind: "int" | "uint" | "bool";
  /** Significant bits; a `bool` has one, stored in a byte. */
  readonly bits: number;
  readonly safetensors: string;
  readonly short: string;
  readonly source: string;
}

const IEEE_754 = "IEEE Std 754-2019, table 3.5 (doi:10.1109/IEEESTD.2019.8766229)";
const BFLOAT16 = "BFLOAT16 – Hardware Numerics Definition, Intel 338302-001US, 2018";
const OFP8 = "OCP 8-bit Floating Point Specification (OFP8) 1.0, 2023; arXiv:2209.05433";
const ECMA_INTEGERS = "ECMA-262, table of TypedArray constructors";

/**
 * The formats. The order is the order of `code`, which the native interface relies on.
 *
 * @example
 * FORMATS.float16.maxFinite; // 65504
 */
// biome-ignore format: a table is read by rows
export const FORMATS = {
  float64: {
    code: 0, kind: "float", bits: 64, exponentBits: 11, mantissaBits: 52, bias: 1023, infinities: true,
    maxFinite: Number.MAX_VALUE, minNormal: 2 ** -1022, minSubnormal: Number.MIN_VALUE,
    safetensors: "F64", short: "f64", source: IEEE_754,
  },
  float32: {
    code: 1, kind: "float", bits: 32, exponentBits: 8, mantissaBits: 23, bias: 127, infinities: true,
    maxFinite: (2 - 2 ** -23) * 2 ** 127, minNormal: 2 ** -126, minSubnormal: 2 ** -149,
    safetensors: "F32", short: "f32", source: IEEE_754,
  },
  float16: {
    code: 2, kind: "float", bits: 16, exponentBits: 5, mantissaBits: 10, bias: 15, infinities: true,
    maxFinite: 65504, minNormal: 2 ** -14, minSubnormal: 2 ** -24,
    safetensors: "F16", short: "f16", source: IEEE_754,
  },
  bfloat16: {
    code: 3, kind: "float", bits: 16, exponentBits: 8, mantissaBits: 7, bias: 127, infinities: true,
    maxFinite: (2 - 2 ** -7) * 2 ** 127, minNormal: 2 ** -126, minSubnormal: 2 ** -133,
    safetensors: "BF16", short: "bf16", source: BFLOAT16,
  },
  float8_e4m3fn: {
    code: 4, kind: "float", bits: 8, exponentBits: 4, mantissaBits: 3, bias: 7, infinities: false,
    maxFinite: 448, minNormal: 2 ** -6, minSubnormal: 2 ** -9,
    safetensors: "F8_E4M3", short: "f8e4m3", source: OFP8,
  },
  float8_e5m2: {
    code: 5, kind: "float", bits: 8, exponentBits: 5, mantissaBits: 2, bias: 15, infinities: true,
    maxFinite: 57344, minNormal: 2 ** -14, minSubnormal: 2 ** -16,
    safetensors: "F8_E5M2", short: "f8e5m2", source: OFP8,
  },
  int64: { code: 6, kind: "int", bits: 64, safetensors: "I64", short: "i64", source: ECMA_INTEGERS },
  int32: { code: 7, kind: "int", bits: 32, safetensors: "I32", short: "i32", source: ECMA_INTEGERS },
  uint32: { code: 8, kind: "uint", bits: 32, safetensors: "U32", short: "u32", source: ECMA_INTEGERS },
  uint8: { code: 9, kind: "uint", bits: 8, safetensors: "U8", short: "u8", source: ECMA_INTEGERS },
  bool: { code: 10, kind: "bool", bits: 1, safetensors: "BOOL", short: "bool", source: "one byte, 0 or 1" },
  int16: { code: 11, kind: "int", bits: 16, safetensors: "I16", short: "i16", source: ECMA_INTEGERS },
} as const satisfies Record<string, FloatFormat | IntegerFormat>;

/** Name of a number format. */
export type DType = keyof typeof FORMATS;
/** The floating-point formats. */
export type FloatDType = { [D in DType]: (typeof FORMATS)[D]["kind"] extends "float" ? D : never }[DType];
/** The floating-point formats whose bits fit a JavaScript integer of 32 bits: all but float64. */
export type EncodedDType = Exclude<FloatDType, "float64">;
/** The two 16-bit floating-point formats. */
export type HalfDType = "float16" | "bfloat16";
/** The integer formats, truth values not counted. */
export type IntegerDType = Exclude<DType, FloatDType | "bool">;

/** All formats, by code. */
export const DTYPES: readonly DType[] = Object.freeze(Object.keys(FORMATS) as DType[]);

/** The floating-point formats. */
export const FLOAT_DTYPES: readonly FloatDType[] = Object.freeze(
  DTYPES.filter((d): d is FloatDType => FORMATS[d].kind === "float"),
);

/** Whether `d` is a floating-point format. */
export function isFloat(d: DType): d is FloatDType {
  return FORMATS[d].kind === "float";
}

/** Whether `d` is a signed or unsigned integer format; `bool` is not. */
export function isInteger(d: DType): d is IntegerDType {
  const kind = FORMATS[d].kind;
  return kind === "int" || kind === "uint";
}

/** Bytes that one element takes in storage; a `bool` takes one. */
export function byteSize(d: DType): number {
  return Math.ceil(FORMATS[d].bits / 8);
}

/** Name of `d` for printing, as in `f32[2, 3]`. */
export function shortName(d: DType): string {
  return FORMATS[d].short;
}

const ALIASES: Readonly<Record<string, DType>> = { fp32: "float32", fp16: "float16" };

const BY_NAME: ReadonlyMap<string, DType> = new Map([
  ...DTYPES.map((d): [string, DType] => [d, d]),
  ...DTYPES.map((d): [string, DType] => [FORMATS[d].short, d]),
  ...Object.entries(ALIASES),
]);

/**
 * The format called `text`: a full name (`"bfloat16"`), a short one (`"bf16"`), or `"fp32"`, `"fp16"`.
 *
 * @throws BinadeError `option.invalid` for any other text; the message lists the names.
 * @example
 * parseDType("bf16"); // "bfloat16"
 */
export function parseDType(text: string): DType {
  const d = BY_NAME.get(text);
  if (d !== undefined) return d;
  const choices = DTYPES.map((name) => (name === shortName(name) ? name : `${name} (${shortName(name)})`)).join(", ");
  throw new BinadeError("option.invalid", `dtype: expected a known format, got "${text}"; choose one of ${choices}.`);
}

/** The typed array that stores each format: 16-bit and 8-bit floats as their bits, truth values as bytes 0 and 1. */
export interface StorageByDType {
  readonly float64: Float64Array;
  readonly float32: Float32Array;
  readonly float16: Uint16Array;
  readonly bfloat16: Uint16Array;
  readonly float8_e4m3fn: Uint8Array;
  readonly float8_e5m2: Uint8Array;
  readonly int64: BigInt64Array;
  readonly int32: Int32Array;
  readonly uint32: Uint32Array;
  readonly uint8: Uint8Array;
  readonly bool: Uint8Array;
  readonly int16: Int16Array;
}

/** The typed array that stores `D`. */
export type StorageOf<D extends DType> = StorageByDType[D];
/** Any typed array that stores a format. */
export type StorageArray = StorageOf<DType>;

/** The part of a typed array's constructor that makes storage: zeros, or a view of a buffer (offset in bytes). */
export interface StorageConstructor<A extends StorageArray> {
  new (length: number): A;
  new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): A;
  readonly BYTES_PER_ELEMENT: number;
}

const STORAGE: { readonly [D in DType]: StorageConstructor<StorageOf<D>> } = {
  float64: Float64Array,
  float32: Float32Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  float8_e4m3fn: Uint8Array,
  float8_e5m2: Uint8Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint32: Uint32Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  int16: Int16Array,
};

/**
 * Constructor of the typed array that stores `d`.
 *
 * @example
 * const zeros = new (storageArray("bfloat16"))(4); // Uint16Array of 4 bit patterns
 */
export function storageArray<D extends DType>(d: D): StorageConstructor<StorageOf<D>> {
  return STORAGE[d];
}
