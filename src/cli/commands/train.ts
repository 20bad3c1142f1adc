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
import { PRESETS } from "../../train/presets.ts";
import { computeDType } from "../../train/session.ts";
import { CHECKPOINT_FILE, type TrainOptions, train } from "../../train/trainer.ts";
import type { CommandContext } from "../command-line.ts";
import { printable } from "../format.ts";
import { outputFailure } from "../interruption.ts";
import { integer, oneOf } from "../options.ts";
import { JsonRenderer, ProgressRenderer, type Renderer, usesColor } from "../render.ts";
import {
  parsedOption,
  type RunSettings,
  readSavedRun,
  resolveSettings,
  type SavedRun,
  settingOptions,
} from "../run-settings.ts";

/** Exit status of an interrupted run. */
const INTERRUPTED = 130;
const VOCABULARY = 256;
/** Bytes of held-out text that the sample continues. */
const PROMPT_BYTES = 32;
const DEFAULT_SAMPLE = 300;
const STEPS = integer(1, 2 ** 31 - 1);

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
  .map(
    ([name, p]) =>
      `  ${name}  ${p.layers} layers, ${p.heads} heads, width ${p.width}, context ${p.context}, batch ${p.batch}, ${p.steps} steps, lr ${p.learningRate}`,
  )
  .join("\n");

export function trainCommand(context: CommandContext): Command {
  const command = new Command("train")
    .description("Train a byte-level GPT on text files: matrix products in 16 bits, weights in float32.")
    .option(
      "--data <path...>",
      "text files or folders (default: declarations of an installed TypeScript, or npm's Markdown)",
    );
  for (const option of settingOptions()) command.addOption(option);
  return command
    .addOption(
      parsedOption(
        "--device <name>",
        oneOf(["cpu", "reference"]),
        "where to compute",
        "cpu where there are native kernels",
      ),
    )
    .addOption(
      parsedOption(
        "--threads <n>",
        integer(1, 1024),
        "threads of the cpu device; results do not depend on it",
        "one per core",
      ),
    )
    .option("--out <folder>", "where checkpoint.safetensors and events.jsonl go (default: the first free runs/gpt-N)")
    .option("--resume", "continue the run in --out, with its settings and its text")
    .addOption(
      parsedOption(
        "--evaluate-every <n>",
        STEPS,
        "steps between evaluations",
        "a tenth of the run; rarer if it took over a tenth of the time",
      ),
    )
    .addOption(
      parsedOption(
        "--checkpoint-every <n>",
        STEPS,
        "steps between checkpoints",
        "a tenth of the run, within 10 seconds to 5 minutes",
      ),
    )
    .addOption(
      parsedOption(
        "--sample <n>",
        integer(0, 65536),
        "bytes of text that the model writes at the end",
        `${DEFAULT_SAMPLE}`,
      ),
    )
    .option("--json", "print events as JSON lines instead of progress")
    .addHelpText(
      "after",
      `\nPresets:\n${PRESET_TEXT}\n\nCtrl-C ends the run with a checkpoint; a second one ends it at once.`,
    )
    .allowExcessArguments()
    .action((flags: TrainFlags, self: Command) => {
      requireNoArguments(self.args);
      return runTrain(flags, self.optsWithGlobals().color === false, context);
    });
}

function requireNoArguments([first]: readonly string[]): void {
  if (first === undefined) return;
  throw new BinadeError(
    "option.unknown",
    `train: expected options only, got ${JSON.stringify(first)}; name text files with --data`,
  );
}

async function runTrain(flags: TrainFlags, isPlain: boolean, context: CommandContext): Promise<void> {
  const saved = flags.resume === true ? await readSavedRun(requireOut(flags)) : requireFresh(flags);
  const { preset, settings } = resolveSettings(flags, saved);
  const signal = context.interruption();
  const notices: string[] = [];
  onNotice((message) => notices.push(message));
  chooseDevice(flags);
  const corpus = await readCorpus(flags, saved, settings.context);
  const notes = { preset, dataPaths: dataPaths(flags, saved) };
  const { heldOut, ...options } = trainOptions(flags, settings, corpus);
  const out = flags.out ?? claimFolder();
  const renderer = makeRenderer(context, { isJson: flags.json === true, isPlain, out, corpus, signal });
  const { sample = DEFAULT_SAMPLE } = flags;
  const write = (): Promise<string> => {
    renderer.note(`writing ${sample} bytes of text`);
    return writeSample(options.model, settings, heldOut.subarray(0, PROMPT_BYTES), sample, signal);
  };
  const events = withWarnings(train({ ...options, notes, out, signal }), notices);
  await show(events, renderer, join(out, "events.jsonl"), sample > 0 ? write : null);
  const failure = outputFailure(signal);
  if (failure !== null) throw failure;
  if (signal.aborted) context.status = INTERRUPTED;
}

function requireOut({ out }: TrainFlags): string {
  if (out !== undefined) return out;
  throw new BinadeError(
    "option.invalid",
    "--resume: expected --out <folder> with it, got none; give the folder of the run to continue",
  );
}

function requireFresh({ out }: TrainFlags): null {
  if (out === undefined || !existsSync(join(out, CHECKPOINT_FILE))) return null;
  throw new BinadeError(
    "option.invalid",
    `--out: ${out} holds a checkpoint already; add --resume to continue that run, or name another folder`,
  );
}

/** Without --device, a machine without native kernels computes on the reference device and says so. */
function chooseDevice({ device, threads }: TrainFlags): void {
  const kind = device ?? defaultDevice().kind;
  if (kind === "reference" && threads !== undefined && threads > 1) {
    throw new BinadeError(
      "option.invalid",
      `--threads: the reference device has one, got ${threads}; leave out --threads`,
    );
  }
  useDevice(kind, kind === "cpu" && threads !== undefined ? { threads } : {});
}

/** As the user named them, so that the same command leaves the same checkpoint in any folder; null for the default text. */
const dataPaths = ({ data }: TrainFlags, saved: SavedRun | null): readonly string[] | null =>
  data ?? saved?.dataPaths ?? null;

async function readCorpus(flags: TrainFlags, saved: SavedRun | null, context: number): Promise<Corpus> {
  const paths = dataPaths(flags, saved);
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

function trainOptions(flags: TrainFlags, settings: RunSettings, corpus: Corpus) {
  const { batch, precision, steps, learningRate, seed, ...dimensions } = settings;
  const { context } = dimensions;
  const { training, heldOut } = split(corpus.bytes, { context });
  const model = new GPT({ vocabulary: VOCABULARY, ...dimensions, seed });
  const { evaluateEvery, checkpointEvery } = flags;
  return {
    model,
    settings: { vocabulary: VOCABULARY, ...dimensions },
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

/** Makes the first free runs/gpt-N. Not before everything else is known to be right: a mistake leaves no empty folder. */
function claimFolder(): string {
  for (let n = 1; ; n++) {
    const folder = join("runs", `gpt-${n}`);
    try {
      mkdirSync("runs", { recursive: true });
      // Fails where it exists: two runs that begin at once get two folders.
      mkdirSync(folder);
      return folder;
    } catch (error) {
      if (systemCode(error) !== "EEXIST" || !existsSync(folder)) throw fileWriteError(folder, error);
    }
  }
}

interface RendererOptions {
  readonly isJson: boolean;
  readonly isPlain: boolean;
  readonly out: string;
  readonly corpus: Corpus;
  readonly signal: AbortSignal;
}

function makeRenderer({ stdout, environment }: CommandContext, options: RendererOptions): Renderer {
  if (options.isJson) return new JsonRenderer(stdout);
  const { out, corpus, isPlain, signal } = options;
  const [left] = corpus.skipped;
  const others = corpus.skipped.length > 1 ? ` and ${corpus.skipped.length - 1} more` : "";
  const renderer = new ProgressRenderer(stdout, () => performance.now(), {
    color: !isPlain && usesColor(stdout, environment),
    facts: [
      ["output", out],
      ...(left === undefined ? [] : [["left out", `${left.path} (${left.reason})${others}`] as const]),
    ],
    resumeCommand: `binade train --resume --out ${quote(out)}`,
  });
  const stopping = "ending after this step; Ctrl-C again ends at once";
  signal.addEventListener("abort", () => {
    if (!(signal.reason instanceof Error) || systemCode(signal.reason) === "") renderer.note(stopping);
  });
  return renderer;
}

/** A path for a POSIX shell. */
const quote = (path: string): string =>
  /^[\w./:@%+=-]+$/.test(path) && !path.startsWith("-") ? path : `'${path.replaceAll("'", "'\\''")}'`;

/** Notices about the device, as warnings behind the event that begins the run. */
async function* withWarnings(
  events: AsyncIterable<TrainEvent>,
  notices: readonly string[],
): AsyncGenerator<TrainEvent> {
  for await (const event of events) {
    yield event;
    if (event.type !== "started") continue;
    for (const message of notices) yield { type: "warning", step: event.step, code: "device.reference", message };
  }
}

/** Renders and logs every event; the last one carries what the model wrote. */
async function show(
  events: AsyncIterable<TrainEvent>,
  renderer: Renderer,
  path: string,
  write: (() => Promise<string>) | null,
): Promise<void> {
  let log: EventLog | null = null;
  try {
    for await (const event of events) {
      log ??= new EventLog(path);
      const hasSample = event.type === "done" && event.reason === "finished" && write !== null;
      const last = hasSample ? { ...event, sample: await write() } : event;
      log.write(last);
      renderer.render(last);
    }
  } finally {
    renderer.close();
    log?.close();
  }
}

async function writeSample(
  model: GPT,
  { seed, precision }: RunSettings,
  prompt: Uint8Array,
  length: number,
  signal: AbortSignal,
): Promise<string> {
  const dtype = computeDType(precision) || null;
  const bytes = await generate(model, prompt, { length, seed, dtype, signal });
  return printable(new TextDecoder().decode(bytes), true);
}
