/** Initial values of parameters: pure functions of a seed and a position, with the same bits on every machine. */
import { BinadeError, showValue } from "../errors.ts";
import { philox, philoxKey, type RandomSource, uniform as uniformOf } from "../formats/index.ts";
import { isNonNegative, requireKnownKeys, requireNumber, requireShape } from "../precision/options.ts";

/** Fills a parameter of `shape`, row-major; `random` gives 32 random bits a call. */
export type Initializer = (shape: readonly number[], random: RandomSource) => Float32Array;

/** Fourth word of the block counter, "INIT" in ASCII: apart from dropout and from the order of data under the same seed. */
const INIT_WORD = 0x494e4954;

/**
 * Numbers the parameters that a seed initialises: the values of a parameter are a function of the seed and of how many
 * parameters were made from it before.
 *
 * @example
 * const seeds = new SeedSequence(1);
 * const [a, b] = [new Linear(4, 8, { seed: seeds }), new Linear(8, 2, { seed: seeds })];
 */
export class SeedSequence {
  readonly seed: number;
  #position = 0;

  /** @param seed integer from 0 to 2^53 − 1; otherwise BinadeError `value.range`. */
  constructor(seed: number) {
    philoxKey(seed);
    this.seed = seed;
  }

  /** The random words of the next parameter. */
  next(): RandomSource {
    const key = philoxKey(this.seed);
    const position = this.#position++;
    const words = new Uint32Array(4);
    let drawn = 0;
    return () => {
      const block = Math.floor(drawn / 4);
      if (drawn % 4 === 0) philox([block >>> 0, Math.floor(block / 2 ** 32), position, INIT_WORD], key, words);
      return words[drawn++ % 4] ?? 0;
    };
  }
}

/** A seed of a layer's own (two layers of one shape and seed are equal), or a sequence shared by layers. */
export type Seed = number | SeedSequence;

let processSeeds = new SeedSequence(0);

/**
 * Restarts the sequence from which layers without a `seed` option are initialised; it begins with seed 0.
 *
 * @throws BinadeError `value.range` unless `seed` is an integer from 0 to 2^53 − 1.
 * @example
 * nn.manualSeed(1); // the layers made from here on are the same in every process
 */
export function manualSeed(seed: number): void {
  processSeeds = new SeedSequence(seed);
}

/** The sequence meant by a `seed` option; without one, the process's. */
export function seedsOf(seed: Seed | undefined): SeedSequence {
  if (seed === undefined) return processSeeds;
  return typeof seed === "number" ? new SeedSequence(seed) : seed;
}

function sizeOf(shape: readonly number[]): number {
  requireShape("initializer: shape", shape);
  return shape.reduce((a, b) => a * b, 1);
}

const filled =
  (value: number): Initializer =>
  (shape) =>
    new Float32Array(sizeOf(shape)).fill(value);

export const zeros: Initializer = filled(0);
export const ones: Initializer = filled(1);

/**
 * Uniform in [low, high). Default [−1, 1).
 *
 * @throws BinadeError `value.range` unless both are finite and low ≤ high.
 * @example
 * new nn.Linear(4, 8, { initialWeight: nn.uniform({ low: -0.1, high: 0.1 }) });
 */
export function uniform(options: { readonly low?: number; readonly high?: number } = {}): Initializer {
  requireKnownKeys("uniform", options, ["low", "high"]);
  const { low = -1, high = 1 } = options;
  if (!(Number.isFinite(low) && Number.isFinite(high) && low <= high)) {
    throw new BinadeError(
      "value.range",
      `uniform: expected finite low ≤ high, got ${showValue(low)} and ${showValue(high)}`,
    );
  }
  return (shape, random) =>
    Float32Array.from({ length: sizeOf(shape) }, () => low + (high - low) * uniformOf(random()));
}

/**
 * Normal with the given mean (default 0) and standard deviation (default 1).
 *
 * @throws BinadeError `value.range` for a number that is not finite, or a negative deviation.
 * @example
 * new nn.Embedding(256, 64, { initialWeight: nn.normal({ deviation: 0.02 }) });
 */
export function normal(options: { readonly mean?: number; readonly deviation?: number } = {}): Initializer {
  requireKnownKeys("normal", options, ["mean", "deviation"]);
  const { mean = 0, deviation = 1 } = options;
  requireNumber("normal: mean", mean, Number.isFinite, "a finite number");
  requireNumber("normal: deviation", deviation, isNonNegative, "a finite number ≥ 0");
  return (shape, random) => {
    const out = new Float32Array(sizeOf(shape));
    for (let i = 0; i < out.length; i += 2) {
      const [a, b] = normalPair(random);
      out[i] = mean + deviation * a;
      if (i + 1 < out.length) out[i + 1] = mean + deviation * b;
    }
    return out;
  };
}

/**
 * Two independent standard normal numbers by the polar method (Marsaglia, Bray 1964): it needs a logarithm and no cosine,
 * and the logarithm below is arithmetic, whose bits no engine changes.
 */
function normalPair(random: RandomSource): readonly [number, number] {
  for (;;) {
    const [x, y] = [2 * uniformOf(random()) - 1, 2 * uniformOf(random()) - 1];
    const square = x * x + y * y;
    if (square >= 1 || square === 0) continue;
    const factor = Math.sqrt((-2 * logarithm(square)) / square);
    return [x * factor, y * factor];
  }
}

/** Natural logarithm of a number from 2⁻⁶⁰ to 1: 2 artanh((m − 1)/(m + 1)) for m in (½, 1], and a multiple of log 2. */
function logarithm(x: number): number {
  let [m, exponent] = [x, 0];
  while (m <= 0.5) {
    m *= 2;
    exponent--;
  }
  const s = (m - 1) / (m + 1);
  let sum = 0;
  // |s| ≤ ⅓: the first term left out is below 2⁻⁵⁵ of the sum.
  for (let k = 35; k >= 1; k -= 2) sum = sum * s * s + 1 / k;
  return 2 * s * sum + exponent * Math.LN2;
}

/** fan-in and fan-out of a weight (out, in, …rest). */
function fans(shape: readonly number[], subject: string): { readonly fanIn: number; readonly fanOut: number } {
  const [out = 0, input = 0, ...rest] = shape;
  if (shape.length < 2) {
    throw new BinadeError(
      "shape.invalid",
      `${subject}: expected a weight of at least 2 axes, (out, in), got shape [${shape.join(", ")}]`,
    );
  }
  return { fanIn: input * sizeOf(rest), fanOut: out * sizeOf(rest) };
}

/**
 * Uniform in ±gain · √(3 / fan-in). Default gain √(1/3): bounds of 1/√fan-in, as PyTorch initialises linear layers; √2
 * keeps the variance of relu layers. Source: He et al. 2015, arXiv:1502.01852.
 */
export function kaimingUniform(options: { readonly gain?: number } = {}): Initializer {
  requireKnownKeys("kaimingUniform", options, ["gain"]);
  const { gain = Math.sqrt(1 / 3) } = options;
  requireNumber("kaimingUniform: gain", gain, isNonNegative, "a finite number ≥ 0");
  return (shape, random) => {
    const bound = gain * Math.sqrt(3 / Math.max(1, fans(shape, "kaimingUniform").fanIn));
    return uniform({ low: -bound, high: bound })(shape, random);
  };
}

/** Uniform in ±gain · √(6 / (fan-in + fan-out)). Default gain 1. Source: Glorot, Bengio 2010. */
export function xavierUniform(options: { readonly gain?: number } = {}): Initializer {
  requireKnownKeys("xavierUniform", options, ["gain"]);
  const { gain = 1 } = options;
  requireNumber("xavierUniform: gain", gain, isNonNegative, "a finite number ≥ 0");
  return (shape, random) => {
    const { fanIn, fanOut } = fans(shape, "xavierUniform");
    const bound = gain * Math.sqrt(6 / Math.max(1, fanIn + fanOut));
    return uniform({ low: -bound, high: bound })(shape, random);
  };
}
