/** `binade train`: trains a model of the table on text or pictures. */
import { existsSync, mkdirSync, rmdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { Command } from "commander";
import { BinadeError } from "../../errors.ts";
import { defaultDevice, onNotice, useDevice } from "../../tensor/devices.ts";
import { formatMemoryPlan } from "../../tensor/plan.ts";
import { fileWriteError, systemCode } from "../../train/atomic.ts";
import type { SkippedFile } from "../../train/corpus.ts";
import type { TrainEvent } from "../../train/events.ts";
import { EventLog } from "../../train/jsonl.ts";
import { Session } from "../../train/session.ts";
import { CHECKPOINT_FILE, type TrainOptions, train } from "../../train/trainer.ts";
import type { CommandContext } from "../command-line.ts";
import { outputFailure } from "../interruption.ts";
import { withMemoryFlags } from "../memory-flags.ts";
import { MODELS } from "../models/index.ts";
import { otherData, type PreparedRun } from "../models/kind.ts";
import { byteCount, integer, oneOf } from "../options.ts";
import { JsonRenderer, ProgressRenderer, type Renderer, usesColor } from "../render.ts";
import { parsedOption, type ResolvedRun, readSavedRun, resolveSettings, settingOptions } from "../run-settings.ts";

/** Exit status of an interrupted run. */
const INTERRUPTED = 130;
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
  readonly meterEvery?: number;
  readonly checkpointEvery?: number;
  readonly sample?: number;
  readonly memoryBudget?: number;
  readonly plan?: true;
  readonly json?: true;
}

const PRESET_TEXT = MODELS.flatMap((kind) =>
  Object.entries(kind.presets).map(
    ([name, preset]) =>
      `  ${kind.name.padEnd(7)} ${name}  ${kind.describe(preset)}, batch ${preset.batch}, ${preset.steps} steps, lr ${preset.learningRate}`,
  ),
).join("\n");
const TITLES = MODELS.map(({ name, title }) => `${name}, ${title}`).join("; ");

export function trainCommand(context: CommandContext): Command {
  const command = new Command("train")
    .description(`Train a model: matrix products in 16 bits, weights in float32. Models: ${TITLES}.`)
    .option(
      "--data <path...>",
      "text, or a folder of pictures (default: declarations of an installed TypeScript, or npm's Markdown; resnet: generated shapes)",
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
    .option(
      "--out <folder>",
      "where checkpoint.safetensors and events.jsonl go (default: the first free runs/<model>-N)",
    )
    .option("--resume", "continue the run in --out, with its settings and its data")
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
        "--meter-every <n>",
        STEPS,
        "steps between reports on gradients in float16's range and updates that 16 bits would lose",
        "none",
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
        "bytes of text that a gpt writes at the end",
        `${DEFAULT_SAMPLE}`,
      ),
    )
    .addOption(
      parsedOption(
        "--memory-budget <bytes>",
        byteCount,
        "most memory of a step in all; blocks are recomputed to stay within it",
        "none",
      ),
    )
    .option("--plan", "print what a step takes in memory, by category, and train nothing")
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
    `train: expected options only, got ${JSON.stringify(first)}; name files with --data`,
  );
}

async function runTrain(flags: TrainFlags, isPlain: boolean, context: CommandContext): Promise<void> {
  if (flags.out === "") {
    throw new BinadeError("option.invalid", '--out: expected a folder, got ""; name one, or leave out --out');
  }
  const saved = flags.resume === true ? await readSavedRun(requireOut(flags)) : requireFresh(flags);
  const resolved = resolveSettings(flags, saved);
  const signal = context.interruption();
  const notices: string[] = [];
  onNotice((message) => notices.push(message));
  chooseDevice(flags);
  const paths = flags.data ?? saved?.dataPaths ?? null;
  const { kind, settings } = resolved;
  const prepared = await kind.prepare({ settings, paths, sample: flags.sample ?? DEFAULT_SAMPLE });
  const { task } = prepared;
  if (saved !== null && task.data.sha256 !== saved.dataSha256)
    throw otherData(saved.out, kind.dataNoun, saved.dataSha256, task.data);
  try {
    if (flags.plan === true) printPlan(new Session(task, trainOptions(flags, resolved, prepared)), flags, context);
    else await follow({ flags, resolved, prepared, paths, notices, isPlain, signal }, context);
  } catch (error) {
    throw withMemoryFlags(error, resolved, flags.memoryBudget);
  }
}

function printPlan(session: Session, { json }: TrainFlags, { stdout }: CommandContext): void {
  const plan = session.plan();
  stdout.write(`${json === true ? JSON.stringify(plan) : formatMemoryPlan(plan)}\n`);
}

interface Following {
  readonly flags: TrainFlags;
  readonly resolved: ResolvedRun;
  readonly prepared: PreparedRun;
  readonly paths: readonly string[] | null;
  readonly notices: readonly string[];
  readonly isPlain: boolean;
  readonly signal: AbortSignal;
}

/** Trains, and shows what happens. */
async function follow(
  { flags, resolved, prepared, paths, notices, isPlain, signal }: Following,
  context: CommandContext,
): Promise<void> {
  const { kind, preset } = resolved;
  const { skipped, finale } = prepared;
  const out = flags.out ?? claimFolder(kind.name);
  // Paths as the user named them, so that the same command leaves the same checkpoint in any folder.
  const options = { ...trainOptions(flags, resolved, prepared), notes: { preset, dataPaths: paths }, out, signal };
  const renderer = makeRenderer(context, { isJson: flags.json === true, isPlain, out, skipped, signal });
  const write = async (): Promise<string | null> => {
    if (finale === null) return null;
    renderer.note(finale.note);
    return finale.write(signal);
  };
  await show(withWarnings(train(options), notices), renderer, join(out, "events.jsonl"), write).catch(
    (error: unknown) => {
      if (flags.out === undefined) giveBack(out);
      throw error;
    },
  );
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

function trainOptions(flags: TrainFlags, { settings }: ResolvedRun, { task }: PreparedRun): TrainOptions {
  const { precision, optimizer, steps, learningRate, seed, masterWeights, stateDType } = settings;
  const { evaluateEvery, meterEvery, checkpointEvery, memoryBudget } = flags;
  return {
    task,
    precision,
    optimizer,
    steps,
    learningRate,
    seed,
    masterWeights,
    stateDType,
    resume: flags.resume === true,
    ...(evaluateEvery === undefined ? {} : { evaluateEvery }),
    ...(meterEvery === undefined ? {} : { meterEvery }),
    ...(checkpointEvery === undefined ? {} : { checkpointEvery }),
    ...(memoryBudget === undefined ? {} : { memoryBudget }),
  };
}

/** Makes the first free runs/<model>-N. Not before everything else is known to be right: a mistake leaves no empty folder. */
function claimFolder(model: string): string {
  for (let n = 1; ; n++) {
    const folder = join("runs", `${model}-${n}`);
    try {
      if (!existsSync("runs")) mkdirSync("runs");
      // Fails where it exists: two runs that begin at once get two folders.
      mkdirSync(folder);
      return folder;
    } catch (error) {
      if (systemCode(error) !== "EEXIST" || !existsSync(folder)) throw fileWriteError(folder, error);
    }
  }
}

/** Removes a folder that was claimed and that nothing was written to: a run that was refused leaves none. */
function giveBack(folder: string): void {
  for (const path of [folder, dirname(folder)]) {
    try {
      rmdirSync(path);
    } catch {
      return;
    }
  }
}

interface RendererOptions {
  readonly isJson: boolean;
  readonly isPlain: boolean;
  readonly out: string;
  readonly skipped: readonly SkippedFile[];
  readonly signal: AbortSignal;
}

function makeRenderer({ stdout, environment }: CommandContext, options: RendererOptions): Renderer {
  if (options.isJson) return new JsonRenderer(stdout);
  const { out, skipped, isPlain, signal } = options;
  const [left] = skipped;
  const others = skipped.length > 1 ? ` and ${skipped.length - 1} more` : "";
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
  write: () => Promise<string | null>,
): Promise<void> {
  let log: EventLog | null = null;
  try {
    for await (const event of events) {
      log ??= new EventLog(path);
      const sample = event.type === "done" && event.reason === "finished" ? await write() : null;
      const whole = sample === null ? event : { ...event, sample };
      log.write(whole);
      renderer.render(whole);
    }
  } finally {
    renderer.close();
    log?.close();
  }
}
