/**
 * Scaling into 8 bits, on numbers: the exact rules. The graph form in `tensor/fp8.ts` computes the same bits, and tests hold
 * the two against each other.
 */
import { BinadeError, showValue } from "../errors.ts";
import { decode, encode, FORMATS, round } from "../formats/index.ts";
import { quantumExponent } from "../formats/quantum.ts";
import {
  BLOCK_EXPONENTS,
  type BlockExponent,
  type CurrentScaling,
  type DelayedScaling,
  FLOAT8_DTYPES,
  type Float8DType,
  requireScaling,
} from "./fp8-recipe.ts";
import { isPositive, requireChoice, requireFields, requireNumber } from "./options.ts";

/** Elements that share one exponent in block scaling. Source: OCP Microscaling Formats (MX) 1.0, section 5. */
export const BLOCK = 32;

const LARGEST_FLOAT32 = FORMATS.float32.maxFinite;
/** The smallest and the greatest power of two that E8M0 has. */
const SMALLEST_SCALE = 2 ** -127;
const GREATEST_SCALE = 2 ** 127;

const isNumber = (): boolean => true;

function requireFormat(subject: string, format: Float8DType): void {
  requireChoice(`${subject}: format`, format, FLOAT8_DTYPES);
}

function requireNumbers(subject: string, values: ArrayLike<number>): void {
  const isArray = Array.isArray(values) || ArrayBuffer.isView(values);
  if (isArray && Array.from(values).every((value) => typeof value === "number")) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected an array of numbers, got ${showValue(values)}; pass one`,
  );
}

/** Anything else would be taken for no values, or not be rounded to float32. */
function requireFloats(subject: string, values: unknown): void {
  if (values instanceof Float32Array) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected a Float32Array, got ${showValue(values)}; make one of it`,
  );
}

/** Exponent of the binade of a positive finite number. */
const binadeOf = (value: number): number => quantumExponent(value, FORMATS.float64) + FORMATS.float64.mantissaBits;

/**
 * Greatest magnitude of float32 values, 0 for none; NaN if one is.
 *
 * @throws BinadeError `option.invalid` unless it is an array of numbers.
 * @example
 * amaxOf(Float32Array.of(-3, 2)); // 3
 */
export function amaxOf(values: ArrayLike<number>): number {
  requireNumbers("amaxOf", values);
  return Array.from(values, Math.abs).reduce((a, b) => Math.max(a, b), 0);
}

/** largest / amax, as a finite float32. (float64's quotient of float32 numbers, rounded to float32, is float32's own.) */
const quotient = (largest: number, amax: number): number => Math.min(Math.fround(largest / amax), LARGEST_FLOAT32);

/**
 * Scale of a tensor by its own amax: 1 where that is 0, infinite or NaN. The greatest float32 if the quotient overflows.
 * Source: Transformer Engine, `compute_scale_from_amax`; with `minimumAmax` 1e-12 torchao's `amax_to_scale` for finite amaxes.
 *
 * @throws BinadeError `value.range` or `option.invalid` for another amax, format or options.
 * @example
 * currentScale(2, "float8_e4m3fn", { powerOfTwo: false, minimumAmax: 0 }); // 224
 */
export function currentScale(
  amax: number,
  format: Float8DType,
  options: Pick<CurrentScaling, "powerOfTwo" | "minimumAmax">,
): number {
  requireNumber("currentScale: amax", amax, isNumber, "a number");
  requireFormat("currentScale", format);
  requireFields("currentScale: options", options, ["powerOfTwo", "minimumAmax"], "fp8Recipe");
  const { powerOfTwo, minimumAmax } = options;
  requireScaling({ kind: "current", powerOfTwo, minimumAmax });
  const magnitude = Math.max(amax, minimumAmax);
  if (!(magnitude > 0 && magnitude < Infinity)) return 1;
  const scale = quotient(FORMATS[format].maxFinite, magnitude);
  return powerOfTwo ? 2 ** binadeOf(scale) : scale;
}

/** What delayed scaling remembers of one role of one layer. */
export interface DelayedState {
  /** Of the coming cast. 1 at first. */
  readonly scale: number;
  /** amaxes; slot 0 is the coming step's, 0 until it is known, then the oldest follows. All 0 at first. */
  readonly history: readonly number[];
}

/** @throws BinadeError `option.invalid` or `value.range` for another history length. */
export function initialDelayedState(options: Pick<DelayedScaling, "historyLength">): DelayedState {
  requireFields("initialDelayedState: options", options, ["historyLength"], "fp8Recipe");
  const { historyLength } = options;
  requireScaling({ kind: "delayed", historyLength, margin: 0, amax: "max" });
  return { scale: 1, history: Array<number>(historyLength).fill(0) };
}

/**
 * The state after a cast that saw `amax`: the scale of the next one, and the history rolled, its newest slot cleared. A chosen
 * amax of 0, infinity or NaN leaves the scale as it was; a quotient that overflows gives the greatest float32. Source: Transformer
 * Engine, `delayed_scaling.cu`.
 *
 * @throws BinadeError `value.range` or `option.invalid` for another state, amax, format or options.
 * @example
 * nextDelayedState({ scale: 1, history: [0, 3] }, 2, "float8_e4m3fn", { margin: 0, amax: "max" }); // 149.33, [0, 2]
 */
export function nextDelayedState(
  state: DelayedState,
  amax: number,
  format: Float8DType,
  options: Pick<DelayedScaling, "margin" | "amax">,
): DelayedState {
  requireFields("nextDelayedState: state", state, ["scale", "history"], "initialDelayedState");
  requireNumber("nextDelayedState: scale", state.scale, isPositive, "a finite number > 0");
  requireNumbers("nextDelayedState: history", state.history);
  requireNumber("nextDelayedState: amax", amax, isNumber, "a number");
  requireFormat("nextDelayedState", format);
  requireFields("nextDelayedState: options", options, ["margin", "amax"], "fp8Recipe");
  const { scale, history } = state;
  const { margin, amax: algorithm } = options;
  requireScaling({ kind: "delayed", historyLength: history.length, margin, amax: algorithm });
  const [, ...earlier] = history;
  const chosen = algorithm === "max" ? Math.max(amax, ...earlier) : amax;
  const isUsable = chosen > 0 && chosen < Infinity;
  return {
    scale: isUsable ? quotient(FORMATS[format].maxFinite * 2 ** -margin, chosen) : scale,
    history: [0, ...earlier.slice(1), amax].slice(0, history.length),
  };
}

/**
 * The power of two by which a block is divided: NaN for an amax of NaN, 2^127 for infinity, else at least 2^−127, which is
 * also the scale of a block of zeros. Sources: OCP MX 1.0, section 6.3 (`floor`); torchao's `ScaleCalculationMode`; the code
 * points of the special cases are Transformer Engine's.
 *
 * @throws BinadeError `value.range` or `option.invalid` for another amax, format or exponent.
 * @example
 * blockScale(449, "float8_e4m3fn", "floor"); // 1: 449 saturates to 448
 * blockScale(449, "float8_e4m3fn", "rceil"); // 2
 */
export function blockScale(amax: number, format: Float8DType, exponent: BlockExponent): number {
  requireNumber("blockScale: amax", amax, (v) => !(v < 0), "a magnitude ≥ 0, or NaN");
  requireFormat("blockScale", format);
  requireChoice("blockScale: exponent", exponent, BLOCK_EXPONENTS);
  if (Number.isNaN(amax)) return Number.NaN;
  if (amax === Infinity) return GREATEST_SCALE;
  if (amax === 0) return SMALLEST_SCALE;
  return Math.max(2 ** blockExponent(amax, format, exponent), SMALLEST_SCALE);
}

function blockExponent(amax: number, format: Float8DType, exponent: BlockExponent): number {
  const { maxFinite, mantissaBits } = FORMATS[format];
  const binade = binadeOf(amax);
  const mantissa = amax / 2 ** binade;
  const toFormat = binade - binadeOf(maxFinite);
  switch (exponent) {
    case "floor":
      return toFormat;
    case "ceil":
      return mantissa > 1 ? toFormat + 1 : toFormat;
    case "even":
      return mantissa >= 2 - 2 ** -(mantissaBits + 1) ? toFormat + 1 : toFormat;
    case "rceil": {
      const ratio = Math.max(Math.fround(amax / maxFinite), SMALLEST_SCALE);
      return 2 ** binadeOf(ratio) < ratio ? binadeOf(ratio) + 1 : binadeOf(ratio);
    }
  }
}

/**
 * Code of a block's scale, as `blockScale` gives it: exponent + 127, and 0xFF for NaN. Source: OCP MX 1.0, section 5.4.
 *
 * @throws BinadeError `value.range` for a number that is no such scale.
 * @example
 * encodeE8M0(0.5); // 126
 */
export function encodeE8M0(scale: number): number {
  const isScale = (value: number): boolean =>
    Number.isNaN(value) || (value >= SMALLEST_SCALE && value <= GREATEST_SCALE && 2 ** binadeOf(value) === value);
  requireNumber("encodeE8M0: scale", scale, isScale, "a power of two from 2^-127 to 2^127, or NaN");
  return Number.isNaN(scale) ? 0xff : binadeOf(scale) + 127;
}
/**
 * The scale of a code from 0 to 255.
 *
 * @throws BinadeError `value.range` for another code.
 */
export function decodeE8M0(code: number): number {
  requireNumber(
    "decodeE8M0: code",
    code,
    (v) => Number.isInteger(v) && v >= 0 && v <= 0xff,
    "an integer from 0 to 255",
  );
  return code === 0xff ? Number.NaN : 2 ** (code - 127);
}

/**
 * Value of the format nearest to value · scale, the product rounded to float32. Finite values saturate; an infinity stays
 * visible (in e4m3 as NaN): it is an overflow that happened before, and that loss scaling must see.
 */
export function quantize(value: number, scale: number, format: Float8DType): number {
  if (!Number.isFinite(value)) return round(value, format);
  return decode(encode(Math.fround(value * scale), format, { saturate: true }), format);
}

/**
 * Float32 values as 8 bits under one scale hold them: quantised, and divided by the scale again.
 *
 * @throws BinadeError `option.invalid` for other values than float32 or another format; `value.range` for another scale than a finite one > 0.
 * @example
 * quantizeByTensor(Float32Array.of(1.1, 1e9), 1, "float8_e4m3fn"); // [1.125, 448]
 */
export function quantizeByTensor(values: Float32Array, scale: number, format: Float8DType): Float32Array {
  requireFloats("quantizeByTensor: values", values);
  requireNumber("quantizeByTensor: scale", scale, isPositive, "a finite number > 0");
  requireFormat("quantizeByTensor", format);
  return values.map((value) => quantize(value, scale, format) * Math.fround(1 / scale));
}

/**
 * A row of float32 values as blocks hold it, and the code of each block's scale; the last block may be shorter than 32.
 *
 * @throws BinadeError `option.invalid` for other values than float32, another format or exponent.
 * @example
 * quantizeByBlock(Float32Array.of(448, 1000), "float8_e4m3fn", "rceil"); // values [448, 1024], codes [129]
 */
export function quantizeByBlock(
  row: Float32Array,
  format: Float8DType,
  exponent: BlockExponent,
): { readonly values: Float32Array; readonly codes: Uint8Array } {
  requireFloats("quantizeByBlock: row", row);
  requireFormat("quantizeByBlock", format);
  requireChoice("quantizeByBlock: exponent", exponent, BLOCK_EXPONENTS);
  const scales = Float64Array.from({ length: Math.ceil(row.length / BLOCK) }, (_, i) =>
    blockScale(amaxOf(row.subarray(i * BLOCK, (i + 1) * BLOCK)), format, exponent),
  );
  const scaleAt = (i: number): number => scales[Math.floor(i / BLOCK)] as number;
  return {
    values: row.map((value, i) => quantize(value, 1 / scaleAt(i), format) * scaleAt(i)),
    codes: Uint8Array.from(scales, encodeE8M0),
  };
}
