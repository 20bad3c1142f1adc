/** `binade train`: a byte-level GPT on text files. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { ByteBatches, EvaluationBatches, split } from "../../data/index.ts";
import { BinadeError } from "../../errors.ts";
import { GPT } from "../../nn/gpt.ts";
import { defaultDevice, onNotice, useDevice } from "../../tensor/devices.ts";
import { fileWriteError, systemCode } from "../../train/atomic.ts";
import { evaluationBatchCount } from "../../train/cadence.ts";
import { type Corpus, readBytes } from "../../train/corpus.ts";
import { findDefaultCorpus } from "../../train/default-corpus.ts";
import type { TrainEvent } from "../../train/events.ts";
import { generate } from "../../train/generate.ts";
import { EventLog } from "../../train/jsonl.ts";
import { PRESETS, type PresetName } from "../../train/presets.ts";
import { computeDType } from "../../train/session.ts";
import { type TrainOptions, train } from "../../train/trainer.ts";
import type { CommandContext } from "../command-line.ts";
import { printable } from "../format.ts";
import { outputFailure } from "../interruption.ts";
import { integer, oneOf } from "../options.ts";
import { JsonRenderer, ProgressRenderer, type Renderer, usesColor } from "../render.ts";
import { parsedOption, type RunSettings, readSavedRun, resolveSettings, type SavedRun, settingOptions } from "../run-settings.ts";

/** Exit status of an interrupted run. */
const INTERRUPTED = 130;
const VOCABULARY = 256;
/** Bytes of held-out text that the sample continues. */
const PROMPT_BYTES = 32;
const DEFAULT_SAMPLE = 300;

/** Options that are no setting of the run; what the user left out is undefined. */
interface TrainFlags {
  readonly [flag: string]: unknown;
  readonly data?: readonly string[];
  readonly device?: "cpu" | "reference";
  readonly threads?: number;
  readonly out?: string;
  readonly resume?: true;
  readonly evaluateEvery?: number;
  readonly checkpointEvery?: number;
  readonly sample: number;
  readonly json?: true;
}

const PRESET_TEXT = Object.entries(PRESETS)
  .map(([name, p]) => `  ${name}  ${p.layers} layers, ${p.heads} heads, width ${p.width}, context ${p.context}, batch ${p.batch}, ${p.steps} steps, lr ${p.learningRate}`)
  .join("\n");

export function trainCommand(context: CommandContext): Command {
  const command = new Command("train")
    .description("Train a byte-level GPT on text files: matrix products in 16 bits, weights in float32.")
    .option("--data <path...>", "text files or folders (default: declarations of an installed TypeScript, or npm's Markdown)");
  for (const option of settingOptions()) command.addOption(option);
  return command
    .addOption(parsedOption("--device <name>", "where to compute (default: cpu, or reference without native kernels)", oneOf(["cpu", "reference"])))
    .addOption(parsedOption("--threads <n>", "worker threads of the cpu device; the results do not depend on it (default: one per core)", integer(1, 1024)))
    .option("--out <folder>", "where checkpoint.safetensors and events.jsonl go (default: the first free runs/gpt-N)")
    .option("--resume", "continue the run in --out, with its settings and its text")
    .addOption(parsedOption("--evaluate-every <n>", "steps between evaluations (default: a tenth of the run, or more where they would take over a tenth of its time)", integer(1, 2 ** 31 - 1)))
    .addOption(parsedOption("--checkpoint-every <n>", "steps between checkpoints (default: a tenth of the run, but at least 10 seconds and at most 5 minutes)", integer(1, 2 ** 31 - 1)))
    .addOption(parsedOption("--sample <n>", `bytes of text that the model writes at the end (default: ${DEFAULT_SAMPLE})`, integer(0, 65536)))
    .option("--json", "print events as JSON lines instead of progress")
    .addHelpText("after", `\nPresets:\n${PRESET_TEXT}\n\nCtrl-C ends the run with a checkpoint; a second one ends it at once.`)
    .action((flags: TrainFlags, self: Command) => runTrain(flags, self.optsWithGlobals().color === false, context));
}

async function runTrain(flags: TrainFlags, isPlain: boolean, context: CommandContext): Promise<void> {
  const saved = flags.resume === true ? await readSavedRun(requireOut(flags)) : null;
  const { preset, settings } = resolveSettings(flags, saved);
  const signal = context.interruption();
  const notices: string[] = [];
  onNotice((message) => notices.push(message));
  chooseDevice(flags);
  const corpus = await readCorpus(flags, saved, settings.context);
  const { heldOut, ...options } = trainOptions(flags, preset, settings, corpus);
  const out = flags.out ?? claimFolder();
  const renderer = makeRenderer(context, { isJson: flags.json === true, isPlain, out, corpus, signal });
  const { sample = DEFAULT_SAMPLE } = flags;
  const write = (): Promise<string> => {
    renderer.note(`writing ${sample} bytes of text`);
    return writeSample(options.model, settings, heldOut.subarray(0, PROMPT_BYTES), sample, signal);
  };
  const events = withWarnings(train({ ...options, out, signal }), notices);
  await show(events, renderer, join(out, "events.jsonl"), sample > 0 ? write : null);
  const failure = outputFailure(signal);
  if (failure !== null) throw failure;
  if (signal.aborted) context.status = INTERRUPTED;
}

function requireOut({ out }: TrainFlags): string {
  if (out !== undefined) return out;
  throw new BinadeError("option.invalid", "--resume: expected --out <folder> with it, got none; give the folder of the run to continue");
}

/** Without --device, a machine without native kernels computes on the reference device and says so. */
function chooseDevice({ device, threads }: TrainFlags): void {
  const kind = device ?? defaultDevice().kind;
  if (kind === "reference" && threads !== undefined && threads > 1) {
    throw new BinadeError("option.invalid", `--threads: the reference device has one, got ${threads}; leave out --threads`);
  }
  useDevice(kind, kind === "cpu" && threads !== undefined ? { threads } : {});
}

async function readCorpus({ data }: TrainFlags, saved: SavedRun | null, context: number): Promise<Corpus> {
  const paths = data ?? saved?.dataPaths ?? null;
  const corpus = paths === null ? await findDefaultCorpus({ context }) : await readBytes(paths, { context });
  if (saved !== null && corpus.sha256 !== saved.dataSha256) {
    throw new BinadeError(
      "checkpoint.mismatch",
      `${saved.out}: the run was trained on text with SHA-256 ${saved.dataSha256}, ${corpus.name} has ${corpus.sha256}; name the same text with --data`,
    );
  }
  const needed = 2 * (context + 1);
  if (corpus.bytes.length >= needed) return corpus;
  throw new BinadeError(
    "data.short",
    `${corpus.name}: expected at least ${needed} bytes, a window of context ${context} to train on and one to hold out, got ${corpus.bytes.length}; name more text or choose a smaller --context`,
  );
}

function trainOptions(flags: TrainFlags, preset: PresetName, settings: RunSettings, corpus: Corpus) {
  const { batch, precision, steps, learningRate, seed, ...dimensions } = settings;
  const { context } = dimensions;
  const { training, heldOut } = split(corpus.bytes, { context });
  const model = new GPT({ vocabulary: VOCABULARY, ...dimensions, seed });
  const { evaluateEvery, checkpointEvery } = flags;
  return {
    model,
    settings: { vocabulary: VOCABULARY, ...dimensions },
    notes: { preset, dataPaths: flags.data ?? null },
    data: {
      name: corpus.name,
      byteLength: corpus.bytes.length,
      sha256: corpus.sha256,
      training: new ByteBatches(training, { batch, context, seed }),
      evaluation: new EvaluationBatches(heldOut, { batch, context, batches: evaluationBatchCount(steps) }),
    },
    precision,
    steps,
    learningRate,
    seed,
    resume: flags.resume === true,
    ...(evaluateEvery === undefined ? {} : { evaluateEvery }),
    ...(checkpointEvery === undefined ? {} : { checkpointEvery }),
    heldOut,
  } satisfies TrainOptions & { heldOut: Uint8Array };
}
