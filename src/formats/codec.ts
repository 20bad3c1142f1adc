/** Values to bits and back: one rounding, to nearest, ties to even, directly from float64. */

import { bfloat16FromFloat32, float16FromFloat32, float32FromBfloat16, float32FromFloat16 } from "./half.ts";
import { powerOfTwo, quantumExponent } from "./quantum.ts";
import {
  type DType,
  type EncodedDType,
  type FloatFormat,
  FORMATS,
  type HalfDType,
  type StorageArray,
  type StorageOf,
  storageArray,
} from "./table.ts";

/** How `encode` treats numbers beyond the largest finite one. */
export interface EncodeOptions {
  /**
   * false (default): they become infinity, or NaN where the format has none.
   * true: they, and infinities, become the largest finite number of their sign. NaN stays NaN either way.
   */
  readonly saturate?: boolean;
}

const FLOAT32 = new Float32Array(1);
const FLOAT32_BITS = new Uint32Array(FLOAT32.buffer);
/** 2^52: at this magnitude float64 has no fraction bits, so adding and subtracting it rounds to an integer, ties to even. */
const INTEGER_GRID = 2 ** 52;
const INT64_END = 2 ** 63;

/** Bits of +infinity, or of the first magnitude above the largest finite number where the format has no infinity. */
function overflowBits(format: FloatFormat): number {
  return format.infinities ? ((1 << format.exponentBits) - 1) << format.mantissaBits : (1 << (format.bits - 1)) - 1;
}

/** Bits of the positive quiet NaN. Without infinities, all exponent and mantissa bits set is the only NaN. */
function nanBits(format: FloatFormat): number {
  return format.infinities ? overflowBits(format) | (1 << (format.mantissaBits - 1)) : overflowBits(format);
}

function encodeFloat32(value: number, saturate: boolean): number {
  FLOAT32[0] = value;
  const bits = FLOAT32_BITS[0] as number;
  return saturate && (bits & 0x7fffffff) === 0x7f800000 ? bits - 1 : bits;
}

/**
 * Bits of the number of format `d` nearest to `value`, ties to the even one; rounded once, from float64.
 * NaN becomes the positive quiet NaN. Zero keeps its sign.
 *
 * @param value any number
 * @param d a float format of at most 32 bits (float64 bits do not fit a number)
 * @param options `saturate`: default false
 * @returns an unsigned integer of as many bits as the format has
 * @example
 * encode(1 / 3, "bfloat16"); // 0x3eab
 * encode(500, "float8_e4m3fn"); // 0x7f, NaN
 * encode(500, "float8_e4m3fn", { saturate: true }); // 0x7e, 448
 */
export function encode(value: number, d: EncodedDType, options?: EncodeOptions): number {
  const format: FloatFormat = FORMATS[d];
  if (Number.isNaN(value)) return nanBits(format);
  const saturate = options?.saturate === true;
  if (d === "float32") return encodeFloat32(value, saturate);
  const sign = value < 0 || Object.is(value, -0) ? 1 << (format.bits - 1) : 0;
  if (value === 0) return sign;
  const overflow = overflowBits(format);
  const limit = saturate ? overflow - 1 : overflow;
  const magnitude = Math.abs(value);
  if (magnitude === Infinity) return sign | limit;
  const q = quantumExponent(magnitude, format);
  const steps = magnitude * powerOfTwo(-q) + INTEGER_GRID - INTEGER_GRID;
  // `steps` counts quanta, the implicit one included, so a carry moves on to the next binade by itself, and a
  // subnormal that rounds up to the smallest normal number likewise.
  const bits = (q + format.mantissaBits + format.bias - 1) * (1 << format.mantissaBits) + steps;
  return sign | Math.min(bits, limit);
}

/**
 * Value of the bits of a number of format `d`; exact. Only the low bits that the format has are read.
 *
 * @example
 * decode(0x3eab, "bfloat16"); // 0.333984375
 */
export function decode(bits: number, d: EncodedDType): number {
  if (d === "float32") {
    FLOAT32_BITS[0] = bits;
    return FLOAT32[0] as number;
  }
  const format: FloatFormat = FORMATS[d];
  const { mantissaBits, bias } = format;
  const magnitude = bits & ((1 << (format.bits - 1)) - 1);
  const sign = (bits >>> (format.bits - 1)) & 1 ? -1 : 1;
  const overflow = overflowBits(format);
  if (magnitude >= overflow) return magnitude === overflow && format.infinities ? sign * Infinity : Number.NaN;
  const exponent = magnitude >>> mantissaBits;
  const mantissa = magnitude & ((1 << mantissaBits) - 1);
  const steps = exponent === 0 ? mantissa : mantissa + (1 << mantissaBits);
  return sign * steps * powerOfTwo(Math.max(exponent, 1) - bias - mantissaBits);
}

function roundFloat(value: number, format: FloatFormat): number {
  if (value === 0 || Number.isNaN(value)) return value;
  const magnitude = Math.abs(value);
  let rounded = magnitude;
  if (magnitude < 2 * format.maxFinite) {
    // At this size float64's own spacing is the format's, so the sum rounds to it, and the difference is exact.
    const grid = powerOfTwo(quantumExponent(magnitude, format) + 52);
    rounded = magnitude + grid - grid;
  }
  if (rounded > format.maxFinite) rounded = format.infinities ? Infinity : Number.NaN;
  return value < 0 ? -rounded : rounded;
}

/** Truncates toward zero into [low, high]; NaN and -0 become 0. */
function truncate(value: number, low: number, high: number): number {
  return Number.isNaN(value) ? 0 : Math.trunc(Math.min(Math.max(value, low), high)) + 0;
}

/**
 * The value that comes back after `value` was stored in format `d`.
 *
 * Floats: the nearest number of the format, ties to even, overflow to infinity (NaN in `float8_e4m3fn`).
 * Integers: truncated toward zero, saturated at the ends of the range, NaN to 0. The upper end of int64, 2^63 - 1, is
 * no float64 number and reads as 2^63. `bool`: 0 for ±0, else 1, NaN included.
 *
 * @example
 * round(2049, "float16"); // 2048
 * round(-1.9, "uint8"); // 0
 */
export function round(value: number, d: DType): number {
  switch (d) {
    case "float64":
      return value;
    case "float32":
      return Math.fround(value);
    case "float16":
    case "bfloat16":
    case "float8_e4m3fn":
    case "float8_e5m2":
      return roundFloat(value, FORMATS[d]);
    case "int64":
      return truncate(value, -INT64_END, INT64_END);
    case "int32":
      return truncate(value, -(2 ** 31), 2 ** 31 - 1);
    case "uint32":
      return truncate(value, 0, 2 ** 32 - 1);
    case "uint8":
      return truncate(value, 0, 255);
    case "int16":
      return truncate(value, -(2 ** 15), 2 ** 15 - 1);
    case "bool":
      return value !== 0 ? 1 : 0;
  }
}

/** What Binade needs of a `Float16Array`, which not every runtime has. */
export interface Float16View extends ArrayLike<number> {
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly byteLength: number;
  [index: number]: number;
}

type Float16Constructor = new (buffer: ArrayBufferLike, byteOffset: number, length: number) => Float16View;

function isFloat16View(values: ArrayLike<number>): values is Float16View {
  return Object.prototype.toString.call(values) === "[object Float16Array]";
}

/**
 * A `Float16Array` on the same memory as the float16 bits `storage`, or `storage` itself where the runtime has none.
 *
 * @example
 * toFloat16Array(encodeArray([1.5], "float16")); // Float16Array [1.5] in Node 24, Uint16Array [0x3e00] in Node 20
 */
export function toFloat16Array(storage: Uint16Array): Float16View | Uint16Array {
  const float16Array: unknown = Reflect.get(globalThis, "Float16Array");
  if (typeof float16Array !== "function") return storage;
  return new (float16Array as Float16Constructor)(storage.buffer, storage.byteOffset, storage.length);
}

/** Bits of halves; integer code where the values are float32, the scalar codec where they may be float64. */
function encodeHalves(values: ArrayLike<number>, d: HalfDType): Uint16Array {
  if (isFloat16View(values)) {
    const bits = new Uint16Array(values.buffer, values.byteOffset, values.length);
    return d === "float16" ? bits.slice() : bfloat16FromFloat32(float32FromFloat16(bits));
  }
  if (values instanceof Float32Array) return d === "float16" ? float16FromFloat32(values) : bfloat16FromFloat32(values);
  return encodeEach(values, d, new Uint16Array(values.length));
}

function encodeEach<A extends Uint8Array | Uint16Array>(values: ArrayLike<number>, d: EncodedDType, out: A): A {
  for (let i = 0; i < values.length; i++) out[i] = encode(values[i] as number, d);
  return out;
}

/** Saturates: `BigInt64Array` alone would wrap 2^63 around to -2^63. */
function encodeInt64(values: ArrayLike<number>): BigInt64Array {
  const out = new BigInt64Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const value = round(values[i] as number, "int64");
    out[i] = value === INT64_END ? 2n ** 63n - 1n : BigInt(value);
  }
  return out;
}

function encodeWords(values: ArrayLike<number>, d: "int32" | "uint32" | "int16" | "uint8" | "bool"): StorageArray {
  const out: Int32Array | Uint32Array | Int16Array | Uint8Array = new (storageArray(d))(values.length);
  for (let i = 0; i < out.length; i++) out[i] = round(values[i] as number, d);
  return out;
}

function encodeAny(values: ArrayLike<number>, d: DType): StorageArray {
  switch (d) {
    case "float64":
      return new Float64Array(values);
    case "float32":
      return new Float32Array(values);
    case "float16":
    case "bfloat16":
      return encodeHalves(values, d);
    case "float8_e4m3fn":
    case "float8_e5m2":
      return encodeEach(values, d, new Uint8Array(values.length));
    case "int64":
      return encodeInt64(values);
    default:
      return encodeWords(values, d);
  }
}

/**
 * Storage of `values` in format `d`: a new array, each element stored as `round` says (float bits as `encode`).
 * From a `Float32Array` to 16 bits, NaN keeps its sign and upper payload, and becomes quiet where that is 0.
 *
 * @param values numbers: an array, any number typed array, or a `Float16Array`
 * @example
 * encodeArray([1, 1 / 3], "float16"); // Uint16Array [0x3c00, 0x3555]
 */
export function encodeArray<D extends DType>(values: ArrayLike<number>, d: D): StorageOf<D> {
  return encodeAny(values, d) as StorageOf<D>;
}

/** Values of all 256 bit patterns of the two 8-bit formats. */
const FLOAT8_VALUES = {
  float8_e4m3fn: Float32Array.from({ length: 256 }, (_, bits) => decode(bits, "float8_e4m3fn")),
  float8_e5m2: Float32Array.from({ length: 256 }, (_, bits) => decode(bits, "float8_e5m2")),
} as const;

/**
 * float64 numbers that stand for int64 ones. Those beyond 2^53 are rounded to odd: the low 11 bits are dropped and, if
 * any was set, the last kept bit becomes 1. Rounding again to any narrower format then equals one rounding, where
 * `Number(n)` could have landed on a tie: 2^60 + 2^36 + 1 would become 2^60 in float32 instead of 2^60 + 2^37.
 */
function numbersOfInt64(storage: BigInt64Array): Float64Array {
  const out = new Float64Array(storage.length);
  for (let i = 0; i < out.length; i++) {
    const value = storage[i] as bigint;
    const exact = BigInt.asIntN(54, value) === value;
    out[i] = exact ? Number(value) : Number((value >> 11n) | ((value & 0x7ffn) === 0n ? 0n : 1n)) * 2048;
  }
  return out;
}

/** The numbers that `storage` holds, exactly (int64 beyond 2^53: rounded to odd). May be `storage` itself. */
function numbersOf(
  storage: StorageArray,
  d: DType,
): Float64Array | Float32Array | Int32Array | Uint32Array | Int16Array | Uint8Array {
  if (storage instanceof BigInt64Array) return numbersOfInt64(storage);
  if (storage instanceof Uint16Array)
    return d === "float16" ? float32FromFloat16(storage) : float32FromBfloat16(storage);
  if (d !== "float8_e4m3fn" && d !== "float8_e5m2") return storage;
  const values = FLOAT8_VALUES[d];
  const out = new Float32Array(storage.length);
  for (let i = 0; i < out.length; i++) out[i] = values[storage[i] as number] as number;
  return out;
}

/**
 * The values of `storage`, which holds format `d`: a new `Float32Array`, or a `Float64Array` for float64. Exact for
 * float formats; int32, uint32 and int64 values beyond 2^24 round to the nearest float32.
 *
 * @example
 * decodeArray(Uint16Array.of(0x3c00, 0x3555), "float16"); // Float32Array [1, 0.333251953125]
 */
export function decodeArray(storage: StorageArray, d: "float64"): Float64Array;
export function decodeArray(storage: StorageArray, d: Exclude<DType, "float64">): Float32Array;
export function decodeArray(storage: StorageArray, d: DType): Float32Array | Float64Array;
export function decodeArray(storage: StorageArray, d: DType): Float32Array | Float64Array {
  const values = numbersOf(storage, d);
  if (d === "float64") return new Float64Array(values);
  return values instanceof Float32Array && values !== storage ? values : new Float32Array(values);
}

/**
 * Storage of format `to` with the values of `storage`, which holds format `from`: always a new array, each value
 * rounded once. Between float32 and the 16-bit floats this is integer code, and NaN payloads survive as far as they fit.
 *
 * @example
 * convertArray(Float32Array.of(1), "float32", "bfloat16"); // Uint16Array [0x3f80]
 */
export function convertArray<D extends DType>(storage: StorageArray, from: DType, to: D): StorageOf<D> {
  const target: DType = to;
  if (target === from) return storage.slice() as StorageOf<D>;
  if (target === "float64" && storage instanceof BigInt64Array)
    return Float64Array.from(storage, Number) as StorageOf<D>;
  return encodeArray(numbersOf(storage, from), to);
}
