/** Philox4x32-10, the counter-based random generator of every backend: a pure function of counter and key. */

import { BinadeError } from "../errors.ts";

/** Four 32-bit words: the position in the random sequence, lowest word first. */
export type PhiloxCounter = readonly [number, number, number, number];
/** Two 32-bit words: which sequence. */
export type PhiloxKey = readonly [number, number];
/** Gives 32 random bits at each call, as an integer from 0 to 2^32 - 1. */
export type RandomSource = () => number;

// Constants of J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011
// (doi:10.1145/2063384.2063405): the multipliers of Philox4x32 and the Weyl increments of its key schedule.
const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

/** High 32 bits of the 64-bit product of two 32-bit words, by halves: every sum stays below 2^32. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = (Math.imul(aHigh, bLow) >>> 0) + (Math.imul(aLow, bLow) >>> 16);
  const carry = (Math.imul(aLow, bHigh) >>> 0) + (middle & 0xffff);
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16)) | 0;
}

/**
 * Writes the four random words of block `counter` of sequence `key` into `out`.
 *
 * @param counter words of any sign; read modulo 2^32
 * @param key words of any sign; read modulo 2^32
 * @param out at least 4 words; elements 0 to 3 are written
 * @example
 * const out = new Uint32Array(4);
 * philox([0, 0, 0, 0], [0, 0], out); // 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8
 */
export function philox(counter: PhiloxCounter, key: PhiloxKey, out: Uint32Array): void {
  let c0 = counter[0] | 0;
  let c1 = counter[1] | 0;
  let c2 = counter[2] | 0;
  let c3 = counter[3] | 0;
  let k0 = key[0] | 0;
  let k1 = key[1] | 0;
  for (let i = 0; i < ROUNDS; i++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low0 = Math.imul(MULTIPLIER_0, c0);
    const low1 = Math.imul(MULTIPLIER_1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + WEYL_0) | 0;
    k1 = (k1 + WEYL_1) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/**
 * A uniform number in [0, 1) from 32 random bits: a multiple of 2^-24, hence exact in float32.
 *
 * @example
 * uniform(0xffffffff); // 1 - 2^-24
 */
export function uniform(word: number): number {
  return (word >>> 8) * 2 ** -24;
}

/**
 * The Philox key of a seed: its low and its high 32 bits.
 *
 * @throws BinadeError `value.range` unless `seed` is an integer from 0 to 2^53 - 1.
 */
export function philoxKey(seed: number): PhiloxKey {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new BinadeError(
      "value.range",
      `seed: expected an integer from 0 to 2^53 - 1, got ${seed}; pass such an integer.`,
    );
  }
  return [seed >>> 0, Math.floor(seed / 2 ** 32)];
}

/**
 * The words of sequence `seed`, one per call: blocks in the order of their counter, words 0 to 3 of each.
 *
 * @param seed an integer from 0 to 2^53 - 1
 * @param stream separates the sequences of one seed; 32 bits, default 0
 * @throws BinadeError `value.range` for another seed.
 * @example
 * const next = philoxSource(42);
 * roundStochastic(1.001, "bfloat16", next); // 1 or 1.0078125
 */
export function philoxSource(seed: number, stream = 0): RandomSource {
  const key = philoxKey(seed);
  const block = new Uint32Array(4);
  let position = 0;
  return () => {
    const word = position % 4;
    if (word === 0) philox(blockCounter(position, stream), key, block);
    position++;
    return block[word] as number;
  };
}

/** Counter of the block that holds word `position` of a stream: block number in words 0 and 1, stream in word 2. */
export function blockCounter(position: number, stream: number): PhiloxCounter {
  const block = Math.floor(position / 4);
  return [block >>> 0, Math.floor(block / 2 ** 32), stream >>> 0, 0];
}
