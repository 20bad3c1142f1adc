/** Pseudo-random permutations that are computed, not stored: any element of any order can be asked for. */

import { philox } from "../formats/philox.ts";

// Keeps these draws apart from dropout and initialisation, which use the same seed with other counters: "DATA" in
// ASCII.
const STREAM = 0x44415441;
const FEISTEL_ROUNDS = 8;
/** A round number which the network never uses. */
const OFFSET_ROUND = 0xff;

/** One word of the data stream of (seed, epoch), uniform over 32 bits. */
function drawWord(seed: number, epoch: number, round: number, input: number, out: Uint32Array): number {
  const high = (Math.floor(epoch / 2 ** 32) << 8) | round;
  philox([input >>> 0, high >>> 0, epoch >>> 0, STREAM], [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0], out);
  return out[0] ?? 0;
}

/** A uniform integer from 0 to `length - 1`, a function of (seed, epoch) only; `length` is at most 2^32. */
export function epochOffset(length: number, seed: number, epoch: number): number {
  const word = drawWord(seed, epoch, OFFSET_ROUND, 0, new Uint32Array(4));
  // word × length < 2^53 would be exact for length ≤ 2^21; above, the floor is off by at most one draw in 2^21: no
  // matter.
  return Math.min(length - 1, Math.floor((word / 2 ** 32) * length));
}

/**
 * Position `index` of epoch `epoch`'s permutation of 0 … `length` − 1; for fixed length, seed and epoch it is a
 * bijection.
 *
 * A Feistel network on the bits of `length − 1` (halves may differ by one bit: each round changes one half by a
 * function of the other, so it is invertible whatever that function is) permutes a power of two below 2 × length;
 * results outside the range walk on along their cycle until they fall inside (Black and Rogaway, "Ciphers with
 * Arbitrary Finite Domains", 2002), on average less than two walks.
 *
 * @param length Number of elements, 1 to 2^53. @param seed Integer, 0 to 2^53 − 1.
 */
export function permutedIndex(index: number, length: number, seed: number, epoch: number): number {
  if (length === 1) return 0;
  const bits = bitLength(length - 1);
  const lowSize = 2 ** (bits >>> 1);
  const highSize = 2 ** (bits - (bits >>> 1));
  const words = new Uint32Array(4);
  let position = index;
  do {
    let low = position % lowSize;
    let high = Math.floor(position / lowSize);
    for (let round = 0; round < FEISTEL_ROUNDS; round += 2) {
      high ^= drawWord(seed, epoch, round, low, words) & (highSize - 1);
      low ^= drawWord(seed, epoch, round + 1, high, words) & (lowSize - 1);
    }
    position = high * lowSize + low;
  } while (position >= length);
  return position;
}

/** Bits of a positive integer below 2^53; `Math.clz32` sees only 32 of them. */
function bitLength(value: number): number {
  const high = Math.floor(value / 2 ** 32);
  return high > 0 ? 64 - Math.clz32(high) : 32 - Math.clz32(value);
}
