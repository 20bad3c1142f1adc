/** Sampling text from a byte-level model: one shape, one program, one byte per run. */
import { uniform, philox } from "../formats/philox.ts";
import type { HalfDType } from "../formats/table.ts";
import { autocast } from "../precision/autocast.ts";
import { compile } from "../tensor/compile.ts";
import { tensor } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** A causal model over integer tokens: (1, context) → (1, context, vocabulary). */
export interface CausalModel {
  readonly context: number;
  forward(tokens: Tensor): Tensor;
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
}

/** Stream number of sampling, so that its draws are independent of data, initialisation and dropout under one seed. */
const SAMPLING_STREAM = 0x53414d50;

/**
 * Continues `prompt` byte by byte, each drawn from the model's distribution. A pure function of weights, prompt and options.
 *
 * @returns the prompt followed by what the model wrote.
 */
export async function generate(model: CausalModel, prompt: Uint8Array, options: GenerateOptions = {}): Promise<Uint8Array> {
  const { length = 256, temperature = 0.8, seed = 0, dtype = null } = options;
  const { context } = model;
  const logitsAt = compile((tokens: Tensor, position: Tensor) => {
    const logits = autocast(dtype ?? false, () => model.forward(tokens));
    return logits.reshape([context, -1]).gather(position).cast("float32");
  });
  const text = [...prompt];
  const start = text.length;
  for (let i = 0; i < length; i++) {
    const window = Int32Array.from({ length: context }, (_, at) => text[Math.max(0, text.length - context) + at] ?? 0);
    const last = Math.min(text.length, context) - 1;
    const logits = await (await logitsAt(tensor(window, { shape: [1, context] }), tensor(Int32Array.of(last)))).data();
    text.push(draw(logits, temperature, seed, start + i));
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
