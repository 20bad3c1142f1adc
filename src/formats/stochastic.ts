/** Stochastic rounding: up or down at random, so that the mean of many roundings is the value itself. */

import { encode, round } from "./codec.ts";
import { blockCounter, philox, philoxKey, type RandomSource } from "./philox.ts";
import { powerOfTwo, quantumExponent } from "./quantum.ts";
import {
  type EncodedDType,
  type FloatDType,
  type FloatFormat,
  FORMATS,
  type StorageOf,
  storageArray,
} from "./table.ts";

/** Which random words `encodeArrayStochastic` uses. */
export interface StochasticOptions {
  /** An integer from 0 to 2^53 - 1: the same seed gives the same bits. */
  readonly seed: number;
  /** Separates the sequences of one seed; 32 bits, default 0. */
  readonly stream?: number;
  /** Position of `values[0]` in the whole array, default 0: parts rounded apart then equal the whole rounded at once. */
  readonly offset?: number;
}

/**
 * Rounds `value` to one of its two neighbours in format `d`: away from zero with probability equal to the fraction of
 * the gap that lies below it, to a resolution of 2^-32, toward zero otherwise. Numbers of the format (±0, infinities
 * and NaN among them) never move. Beyond the largest finite number there is no upper neighbour at a finite distance,
 * and rounding to nearest decides, as in `round` (so an infinity is NaN in `float8_e4m3fn`). float64 is the identity.
 *
 * With a float32 `value` this is the well-known integer form: add random bits below the last kept mantissa bit (the
 * highest bits of the word), then cut them off.
 *
 * @param value any number
 * @param d a float format
 * @param random 32 random bits as an integer, or a source of them, called at most once
 * @example
 * roundStochastic(1.001, "bfloat16", philoxSource(42)); // 1 in 87.2 % of the cases, else 1.0078125
 */
export function roundStochastic(value: number, d: FloatDType, random: number | RandomSource): number {
  if (d === "float64" || value === 0 || Number.isNaN(value)) return value;
  const format: FloatFormat = FORMATS[d];
  const magnitude = Math.abs(value);
  if (magnitude >= format.maxFinite) return round(value, d);
  const q = quantumExponent(magnitude, format);
  const steps = magnitude * powerOfTwo(-q);
  const below = Math.floor(steps);
  const fraction = steps - below;
  if (fraction === 0) return value;
  const word = typeof random === "number" ? random : random();
  // fraction + word · 2^-32 >= 1, with the word moved to the right-hand side, where the subtraction is exact.
  const up = fraction >= 1 - (word >>> 0) * 2 ** -32 ? 1 : 0;
  const rounded = (below + up) * powerOfTwo(q);
  return value < 0 ? -rounded : rounded;
}

/**
 * Bits of `roundStochastic(value, d, random)`.
 *
 * @example
 * encodeStochastic(1.001, "bfloat16", 0xffffffff); // 0x3f81
 */
export function encodeStochastic(value: number, d: EncodedDType, random: number | RandomSource): number {
  return encode(roundStochastic(value, d, random), d);
}

/**
 * Storage of `values` rounded stochastically to format `d`. Element i uses word `offset + i` of the Philox sequence of
 * `seed` and `stream`, so the result does not depend on how the array is divided among workers.
 *
 * @throws BinadeError `value.range` for a seed that is no integer from 0 to 2^53 - 1.
 * @example
 * encodeArrayStochastic(Float32Array.of(1.001, 2.003), "bfloat16", { seed: 42 }); // Uint16Array of 2
 */
export function encodeArrayStochastic<D extends EncodedDType>(
  values: ArrayLike<number>,
  d: D,
  options: StochasticOptions,
): StorageOf<D> {
  const { seed, stream = 0, offset = 0 } = options;
  const key = philoxKey(seed);
  const block = new Uint32Array(4);
  const bits = new Uint32Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = (offset + i) % 4;
    if (word === 0 || i === 0) philox(blockCounter(offset + i, stream), key, block);
    bits[i] = encodeStochastic(values[i] as number, d, block[word] as number);
  }
  return fromBits(bits, d);
}

function fromBits<D extends EncodedDType>(bits: Uint32Array, d: D): StorageOf<D> {
  if (d === "float32") return new Float32Array(bits.buffer) as StorageOf<D>;
  const out = new (storageArray<EncodedDType>(d))(bits.length);
  out.set(bits);
  return out as StorageOf<D>;
}
