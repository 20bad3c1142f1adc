/** `--model gpt`: a byte-level GPT on text files. */
import { ByteBatches, EvaluationBatches, split } from "../../data/index.ts";
import { BinadeError } from "../../errors.ts";
import { fp8 } from "../../nn/fp8.ts";
import { GPT } from "../../nn/gpt.ts";
import { evaluationBatchCount } from "../../train/cadence.ts";
import { type Corpus, readBytes } from "../../train/corpus.ts";
import { findDefaultCorpus } from "../../train/default-corpus.ts";
import { generate } from "../../train/generate.ts";
import { languageTask } from "../../train/language.ts";
import { PRESETS } from "../../train/presets.ts";
import { computeDType } from "../../train/session.ts";
import { printable } from "../format.ts";
import { integer, numberFrom } from "../options.ts";
import {
  COMMON_DEFAULTS,
  COMMON_ROWS,
  type CommonSettings,
  type ModelKind,
  type PreparedRun,
  type RunRequest,
  row,
} from "./kind.ts";

export interface GptSettings extends CommonSettings {
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly context: number;
  readonly dropout: number;
}

const VOCABULARY = 256;
/** Bytes of held-out text that the sample continues. */
const PROMPT_BYTES = 32;

const presetOf = (name: keyof typeof PRESETS): GptSettings => ({
  ...COMMON_DEFAULTS,
  optimizer: "adamw",
  dropout: 0,
  ...PRESETS[name],
});

export const gpt: ModelKind<GptSettings> = {
  name: "gpt",
  title: "a byte-level GPT on text files",
  dataNoun: "text",
  rows: {
    ...COMMON_ROWS,
    layers: row("--layers", "n", integer(1, 1000), "transformer blocks"),
    heads: row("--heads", "n", integer(1, 1000), "attention heads; they divide the width"),
    width: row("--width", "n", integer(1, 65536), "features per token"),
    context: row("--context", "n", integer(1, 65536), "tokens (bytes) that the model sees at once"),
    dropout: row("--dropout", "p", numberFrom(0, 0.99), "share of activations dropped while training"),
  },
  presets: { s: presetOf("s"), m: presetOf("m") },
  ownFlags: ["--sample"],
  batchFlags: ["--batch", "--context"],
  modelFlags: ["--width", "--layers"],
  describe: (p) => `${p.layers} layers, ${p.heads} heads, width ${p.width}, context ${p.context}`,
  check: ({ heads, width }) => {
    if (width % heads === 0) return;
    throw new BinadeError(
      "option.invalid",
      `--heads: expected a divisor of the width ${width}, got ${heads}; change --heads or --width`,
    );
  },
  prepare,
};

async function readCorpus(paths: readonly string[] | null, context: number): Promise<Corpus> {
  const corpus = paths === null ? await findDefaultCorpus({ context }) : await readBytes(paths, { context });
  const needed = 2 * (context + 1);
  if (corpus.bytes.length >= needed) return corpus;
  throw new BinadeError(
    "data.short",
    `${corpus.name}: expected at least ${needed} bytes, a window of context ${context} to train on and one to hold out, got ${corpus.bytes.length}; name more text or choose a smaller --context`,
  );
}

async function prepare({ settings, paths, sample }: RunRequest<GptSettings>): Promise<PreparedRun> {
  const { batch, precision, steps, seed, layers, heads, width, context, dropout, fp8: scaling } = settings;
  const dimensions = { layers, heads, width, context, dropout };
  const corpus = await readCorpus(paths, context);
  const { training, heldOut } = split(corpus.bytes, { context });
  const model = new GPT({ vocabulary: VOCABULARY, ...dimensions, seed });
  if (scaling !== "off") fp8(model, { scaling }, { except: "head" });
  const data = {
    name: corpus.name,
    byteLength: corpus.bytes.length,
    sha256: corpus.sha256,
    training: new ByteBatches(training, { batch, context, seed }),
    evaluation: new EvaluationBatches(heldOut, { batch, context, batches: evaluationBatchCount(steps) }),
  };
  const write = async (signal: AbortSignal): Promise<string> => {
    const options = { length: sample, seed, dtype: computeDType(precision) || null, signal };
    return printable(new TextDecoder().decode(await generate(model, heldOut.subarray(0, PROMPT_BYTES), options)), true);
  };
  return {
    task: languageTask({ model, data, settings: { kind: "gpt", vocabulary: VOCABULARY, ...dimensions, fp8: scaling } }),
    skipped: corpus.skipped,
    finale: sample > 0 ? { note: `writing ${sample} bytes of text`, write } : null,
  };
}
