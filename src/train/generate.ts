/** Sampling text from a byte-level model: one shape, one program, one byte per run. */
import { setImmediate as nextTurn } from "node:timers/promises";
import { BinadeError } from "../errors.ts";
import { philox, uniform } from "../formats/philox.ts";
import type { HalfDType } from "../formats/table.ts";
import { autocast } from "../precision/autocast.ts";
import { isNonNegative, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { compile } from "../tensor/compile.ts";
import { tensor } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** A causal model over integer tokens: (1, context) → (1, context, vocabulary). */
export interface CausalModel {
  readonly context: number;
  forward(tokens: Tensor): Tensor;
  /** With the next two, as in a `Module`: dropout is off while text is written. */
  readonly training?: boolean;
  train?(): unknown;
  evaluate?(): unknown;
}

export interface GenerateOptions {
  /** Bytes to write. Default 256. */
  readonly length?: number;
  /** Logits are divided by it; 0 takes the most likely byte. Default 0.8. */
  readonly temperature?: number;
  /** Seed of the draws. Default 0. */
  readonly seed?: number;
  /** Compute dtype of autocast; null for float32. Default null. */
  readonly dtype?: HalfDType | null;
  /** Ends the writing after the current byte. */
  readonly signal?: AbortSignal;
}

/** Stream number of sampling, so that its draws are independent of data, initialisation and dropout under one seed. */
const SAMPLING_STREAM = 0x53414d50;

/**
 * Continues `prompt` byte by byte, each drawn from the model's distribution. A pure function of weights, prompt and options.
 *
 * @returns the prompt followed by what the model wrote.
 * @throws BinadeError `value.range` for a bad option; `data.short` for an empty prompt.
 * @example
 * const bytes = await generate(model, new TextEncoder().encode("const "), { length: 100 });
 */
export async function generate(
  model: CausalModel,
  prompt: Uint8Array,
  options: GenerateOptions = {},
): Promise<Uint8Array> {
  requireKnownKeys("generate", options, ["length", "temperature", "seed", "dtype", "signal"]);
  requireNumber("generate: length", options.length ?? 0, isCount, "an integer ≥ 0");
  requireNumber("generate: temperature", options.temperature ?? 0, isNonNegative, "a finite number ≥ 0");
  if (prompt.length === 0) {
    throw new BinadeError("data.short", "generate: expected a prompt of at least one byte, got none; give it a space");
  }
  const wasTraining = model.training === true;
  model.evaluate?.();
  try {
    return await write(model, prompt, options);
  } finally {
    if (wasTraining) model.train?.();
  }
}

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;

async function write(model: CausalModel, prompt: Uint8Array, options: GenerateOptions): Promise<Uint8Array> {
  const { length = 256, temperature = 0.8, seed = 0, dtype = null, signal } = options;
  const { context } = model;
  const logitsAt = compile((tokens: Tensor, position: Tensor) => {
    const logits = autocast(dtype ?? false, () => model.forward(tokens));
    return logits.reshape([context, -1]).gather(position).cast("float32");
  });
  const text = [...prompt];
  const end = text.length + length;
  while (text.length < end && signal?.aborted !== true) {
    const begin = Math.max(0, text.length - context);
    const window = Int32Array.from({ length: context }, (_, at) => text[begin + at] ?? 0);
    const last = Math.min(text.length, context) - 1;
    const inputs = [tensor(window, { shape: [1, context] }), tensor(Int32Array.of(last))] as const;
    const logits = await logitsAt(...inputs);
    text.push(draw(await logits.data(), temperature, seed, text.length));
    for (const used of [...inputs, logits]) used.dispose();
    await nextTurn();
  }
  return Uint8Array.from(text);
}

/** One draw from softmax(logits / temperature), by inversion. */
function draw(logits: ArrayLike<number>, temperature: number, seed: number, position: number): number {
  const scores = Array.from(logits);
  const top = Math.max(...scores);
  if (temperature === 0) return scores.indexOf(top);
  const weights = scores.map((s) => Math.exp((s - top) / temperature));
  const words = new Uint32Array(4);
  philox([position, 0, 0, SAMPLING_STREAM], [seed >>> 0, Math.floor(seed / 2 ** 32)], words);
  let left = uniform(words[0] ?? 0) * weights.reduce((a, b) => a + b, 0);
  for (const [byte, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return byte;
  }
  return scores.indexOf(top);
}
