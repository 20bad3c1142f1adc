/** `binade train`: a byte-level GPT on text files. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { ByteBatches, EvaluationBatches, split } from "../../data/index.ts";
import { BinadeError } from "../../errors.ts";
import { GPT } from "../../nn/gpt.ts";
import { defaultDevice, onNotice, useDevice } from "../../tensor/devices.ts";
import { readCheckpoint } from "../../train/checkpoint.ts";
import { readBytes, type Corpus } from "../../train/corpus.ts";
import { findDefaultCorpus } from "../../train/default-corpus.ts";
import type { TrainEvent } from "../../train/events.ts";
import { generate } from "../../train/generate.ts";
import { EventLog } from "../../train/jsonl.ts";
import { PRECISIONS, PRESETS, type Precision, type PresetName } from "../../train/presets.ts";
import { computeDType } from "../../train/session.ts";
import { CHECKPOINT_FILE, train } from "../../train/trainer.ts";
import { formatBytes, printable } from "../format.ts";
import { integer, oneOf, real } from "../options.ts";
import { JsonRenderer, ProgressRenderer, type Renderer, usesColor } from "../render.ts";

/** Exit status of an interrupted run. */
const INTERRUPTED = 130;

/** Options as commander hands them over; what the user left out is undefined. */
interface TrainFlags {
  readonly data?: string[];
  readonly preset?: PresetName;
  readonly precision?: Precision;
  readonly steps?: number;
  readonly batch?: number;
  readonly lr?: number;
  readonly seed?: number;
  readonly threads?: number;
  readonly device?: "cpu" | "reference";
  readonly layers?: number;
  readonly heads?: number;
  readonly width?: number;
  readonly context?: number;
  readonly dropout?: number;
  readonly out?: string;
  readonly resume: boolean;
  readonly sample: number;
  readonly json: boolean;
}

export function trainCommand(): Command {
  return new Command("train")
    .description("Train a byte-level GPT on text files: matrix products in 16 bits, weights in float32.")
    .option("--data <path...>", "text files or folders (default: declarations of an installed TypeScript, or npm's Markdown)")
    .option("--preset <name>", "size of model, batch and run: s, m (default: s)", oneOf<PresetName>(["s", "m"]))
    .option("--precision <name>", "fp32, bf16-mixed, fp16-mixed (default: bf16-mixed)", oneOf(PRECISIONS))
    .option("--steps <n>", "attempted steps of the whole run (default: the preset's)", integer(1, 2 ** 31))
    .option("--batch <n>", "windows per step (default: the preset's)", integer(1, 65536))
    .option("--lr <rate>", "peak learning rate (default: the preset's)", real(0, 10))
    .option("--seed <n>", "seed of weights, data order and dropout (default: 0)", integer(0))
    .option("--threads <n>", "worker threads (default: one per core)", integer(1, 1024))
    .option("--device <name>", "cpu, reference (default: cpu)", oneOf(["cpu", "reference"] as const))
    .option("--layers <n>", "transformer blocks, over the preset", integer(1, 1000))
    .option("--heads <n>", "attention heads; they divide the width", integer(1, 1000))
    .option("--width <n>", "features per token", integer(1, 65536))
    .option("--context <n>", "tokens that the model sees at once", integer(1, 65536))
    .option("--dropout <p>", "share of activations dropped while training (default: 0)", real(0, 0.99, { inclusive: true }))
    .option("--out <folder>", "where checkpoint and events go (default: the first free runs/gpt-N)")
    .option("--resume", "continue the run in --out, with its settings", false)
    .option("--sample <n>", "bytes of text that the model writes at the end", integer(0, 65536), 300)
    .option("--json", "print events as JSON lines on standard output", false)
    .action(runTrain);
}

interface Settings {
  readonly preset: PresetName;
  readonly precision: Precision;
  readonly steps: number;
  readonly batch: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly model: { readonly layers: number; readonly heads: number; readonly width: number; readonly context: number; readonly dropout: number };
}

async function runTrain(flags: TrainFlags): Promise<void> {
  const out = flags.out ?? freeFolder(flags.resume);
  const settings = resolve(flags, flags.resume ? await savedSettings(out) : {});
  onNotice((message) => process.stderr.write(`binade: ${message}\n`));
  const device = flags.device === undefined && flags.threads === undefined ? defaultDevice() : useDevice(flags.device ?? "cpu", flags.threads === undefined ? {} : { threads: flags.threads });
  const { context } = settings.model;
  const corpus = flags.data === undefined ? await findDefaultCorpus({ context }) : await readBytes(flags.data, { context });
  const parts = split(corpus.bytes, { context });
  const model = new GPT({ vocabulary: 256, ...settings.model, seed: settings.seed });
  const options = { batch: settings.batch, context };
  const renderer = flags.json ? new JsonRenderer(process.stdout) : new ProgressRenderer(process.stderr, () => performance.now(), { color: usesColor(process.stderr, process.env) });
  if (!flags.json) process.stderr.write(introduction(corpus, model.parameterCount, settings, device.backend.description, out));
  const interrupt = new AbortController();
  const stop = (): void => interrupt.abort();
  process.once("SIGINT", stop).once("SIGTERM", stop);
  const events = train({
    ...settings,
    model,
    settings: { vocabulary: 256, ...settings.model },
    data: { name: corpus.name, byteLength: corpus.bytes.length, sha256: corpus.sha256, training: new ByteBatches(parts.training, { ...options, seed: settings.seed }), evaluation: new EvaluationBatches(parts.heldOut, options) },
    out,
    resume: flags.resume,
    signal: interrupt.signal,
  });
  const sample = async (): Promise<string> => decodeText(await generate(model, prompt(parts.heldOut, context), { length: flags.sample, seed: settings.seed, dtype: computeDType(settings.precision) || null }));
  await show(events, renderer, join(out, "events.jsonl"), flags.sample > 0 ? sample : null);
}

/** Renders and logs every event; the last one carries what the model wrote. */
async function show(events: AsyncIterable<TrainEvent>, renderer: Renderer, path: string, sample: (() => Promise<string>) | null): Promise<void> {
  let log: EventLog | null = null;
  try {
    for await (const event of events) {
      log ??= new EventLog(path);
      const last = event.type === "done" && event.reason === "finished" && sample !== null ? { ...event, sample: await sample() } : event;
      log.write(last);
      renderer.render(last);
      if (event.type === "done" && event.reason === "interrupted") process.exitCode = INTERRUPTED;
    }
  } finally {
    renderer.close();
    log?.close();
  }
}

function resolve(flags: TrainFlags, saved: Readonly<Record<string, unknown>>): Settings {
  const pick = <T>(flag: T | undefined, key: string, fallback: T): T => flag ?? (saved[key] as T | undefined) ?? fallback;
  const preset = flags.preset ?? "s";
  const size = PRESETS[preset];
  return {
    preset,
    precision: pick(flags.precision, "precision", "bf16-mixed"),
    steps: pick(flags.steps, "steps", size.steps),
    batch: pick(flags.batch, "batch", size.batch),
    learningRate: pick(flags.lr, "learningRate", size.learningRate),
    seed: pick(flags.seed, "seed", 0),
    model: {
      layers: pick(flags.layers, "layers", size.layers),
      heads: pick(flags.heads, "heads", size.heads),
      width: pick(flags.width, "width", size.width),
      context: pick(flags.context, "context", size.context),
      dropout: pick(flags.dropout, "dropout", 0),
    },
  };
}

async function savedSettings(out: string): Promise<Readonly<Record<string, unknown>>> {
  return (await readCheckpoint(join(out, CHECKPOINT_FILE))).settings;
}

function freeFolder(resume: boolean): string {
  if (resume) throw new BinadeError("option.invalid", "train: --resume needs --out <folder>, the folder of the run to continue");
  for (let n = 1; ; n++) if (!existsSync(`runs/gpt-${n}`)) return `runs/gpt-${n}`;
}

function introduction(corpus: Corpus, parameters: number, { precision, steps, batch, model }: Settings, device: string, out: string): string {
  const skipped = corpus.skipped.length > 0 ? `, ${corpus.skipped.length} files left out (${corpus.skipped[0]?.reason})` : "";
  return [
    `data       ${corpus.name}: ${corpus.files.length} files, ${formatBytes(corpus.bytes.length)}${skipped}, sha256 ${corpus.sha256.slice(0, 16)}…`,
    `model      GPT ${model.layers} layers, ${model.heads} heads, width ${model.width}, context ${model.context}: ${(parameters / 1e6).toFixed(2)} M parameters`,
    `run        ${precision}, ${steps} steps of ${batch} × ${model.context} tokens on ${device}`,
    `output     ${out}`,
    "",
  ].join("\n");
}

/** The first bytes of the held-out text, cut at a line end where there is one. */
function prompt(heldOut: Uint8Array, context: number): Uint8Array {
  const head = heldOut.subarray(0, Math.max(1, Math.min(context >> 1, 32)));
  return head.slice();
}

const decodeText = (bytes: Uint8Array): string => printable(new TextDecoder().decode(bytes), true);
