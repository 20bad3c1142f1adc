/**
 * Scaling into 8 bits, on numbers: the exact rules. The graph form in `tensor/fp8.ts` computes the same bits, and tests hold
 * the two against each other.
 */
import { decode, encode, FORMATS, round } from "../formats/index.ts";
import { quantumExponent } from "../formats/quantum.ts";
import type { BlockExponent, CurrentScaling, DelayedScaling, Float8DType } from "./fp8-recipe.ts";

/** Elements that share one exponent in block scaling. Source: OCP Microscaling Formats (MX) 1.0, section 5. */
export const BLOCK = 32;

const LARGEST_FLOAT32 = FORMATS.float32.maxFinite;
/** The smallest and the greatest power of two that E8M0 has. */
const SMALLEST_SCALE = 2 ** -127;
const GREATEST_SCALE = 2 ** 127;

/** Exponent of the binade of a positive finite number. */
const binadeOf = (value: number): number => quantumExponent(value, FORMATS.float64) + FORMATS.float64.mantissaBits;

/**
 * Greatest magnitude of float32 values, 0 for none; NaN if one is.
 *
 * @example
 * amaxOf(Float32Array.of(-3, 2)); // 3
 */
export const amaxOf = (values: ArrayLike<number>): number =>
  Array.from(values, Math.abs).reduce((a, b) => Math.max(a, b), 0);

/** largest / amax, as a finite float32. (float64's quotient of float32 numbers, rounded to float32, is float32's own.) */
const quotient = (largest: number, amax: number): number => Math.min(Math.fround(largest / amax), LARGEST_FLOAT32);

/**
 * Scale of a tensor by its own amax: 1 where that is 0, infinite or NaN. The greatest float32 if the quotient overflows.
 * Source: Transformer Engine, `compute_scale_from_amax`; with `minimumAmax` 1e-12 torchao's `amax_to_scale` for finite amaxes.
 *
 * @example
 * currentScale(2, "float8_e4m3fn", { powerOfTwo: false, minimumAmax: 0 }); // 224
 */
export function currentScale(
  amax: number,
  format: Float8DType,
  { powerOfTwo, minimumAmax }: Pick<CurrentScaling, "powerOfTwo" | "minimumAmax">,
): number {
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

export const initialDelayedState = ({ historyLength }: Pick<DelayedScaling, "historyLength">): DelayedState => ({
  scale: 1,
  history: Array<number>(historyLength).fill(0),
});

/**
 * The state after a cast that saw `amax`: the scale of the next one, and the history rolled, its newest slot cleared. A chosen
 * amax of 0, infinity or NaN leaves the scale as it was; a quotient that overflows gives the greatest float32. Source: Transformer
 * Engine, `delayed_scaling.cu`.
 *
 * @example
 * nextDelayedState({ scale: 1, history: [0, 3] }, 2, "float8_e4m3fn", { margin: 0, amax: "max" }); // 149.33, [0, 2]
 */
export function nextDelayedState(
  { scale, history }: DelayedState,
  amax: number,
  format: Float8DType,
  { margin, amax: algorithm }: Pick<DelayedScaling, "margin" | "amax">,
): DelayedState {
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
 * @example
 * blockScale(449, "float8_e4m3fn", "floor"); // 1: 449 saturates to 448
 * blockScale(449, "float8_e4m3fn", "rceil"); // 2
 */
export function blockScale(amax: number, format: Float8DType, exponent: BlockExponent): number {
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
 * @example
 * encodeE8M0(0.5); // 126
 */
export const encodeE8M0 = (scale: number): number => (Number.isNaN(scale) ? 0xff : binadeOf(scale) + 127);
/** The scale of a code from 0 to 255. */
export const decodeE8M0 = (code: number): number => (code === 0xff ? Number.NaN : 2 ** (code - 127));

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
 * @example
 * quantizeByTensor(Float32Array.of(1.1, 1e9), 1, "float8_e4m3fn"); // [1.125, 448]
 */
export const quantizeByTensor = (values: Float32Array, scale: number, format: Float8DType): Float32Array =>
  values.map((value) => quantize(value, scale, format) * Math.fround(1 / scale));

/**
 * A row of float32 values as blocks hold it, and the code of each block's scale; the last block may be shorter than 32.
 *
 * @example
 * quantizeByBlock(Float32Array.of(448, 1000), "float8_e4m3fn", "rceil"); // values [448, 1024], codes [129]
 */
export function quantizeByBlock(
  row: Float32Array,
  format: Float8DType,
  exponent: BlockExponent,
): { readonly values: Float32Array; readonly codes: Uint8Array } {
  const scales = Float64Array.from({ length: Math.ceil(row.length / BLOCK) }, (_, i) =>
    blockScale(amaxOf(row.subarray(i * BLOCK, (i + 1) * BLOCK)), format, exponent),
  );
  const scaleAt = (i: number): number => scales[Math.floor(i / BLOCK)] as number;
  return {
    values: row.map((value, i) => quantize(value, 1 / scaleAt(i), format) * scaleAt(i)),
    codes: Uint8Array.from(scales, encodeE8M0),
  };
}
