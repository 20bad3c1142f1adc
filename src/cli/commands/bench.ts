/** `binade bench`: kernels and whole training steps, beside the peak that this machine reaches in the same run. */
import { availableParallelism } from "node:os";
import { Argument, Command } from "commander";
import { CpuBackend } from "../../backends/cpu/backend.ts";
import { type BenchResult, type Limits, measure } from "../../bench/measure.ts";
import { PeakMeter } from "../../bench/peaks.ts";
import { DEFAULT_PRESET, SUITE_NAMES, SUITES, type SuiteName, workloadsOf } from "../../bench/suites.ts";
import { BinadeError } from "../../errors.ts";
import { useDevice } from "../../tensor/devices.ts";
import { PRECISIONS, PRESETS, type Precision, type PresetName } from "../../train/presets.ts";
import { BenchTable } from "../bench-table.ts";
import type { CommandContext } from "../command-line.ts";
import { outputFailure } from "../interruption.ts";
import { integer, numberAbove, oneOf, type Parser } from "../options.ts";
import type { OutputStream } from "../render.ts";
import { parsedOption } from "../run-settings.ts";

/** Exit status of an interrupted run. */
const INTERRUPTED = 130;
const DEFAULT_SECONDS = 0.3;
const DEFAULT_PRECISIONS: readonly Precision[] = ["fp32", "bf16-mixed"];

interface BenchFlags {
  readonly preset?: PresetName;
  readonly precision?: Precision;
  readonly threads?: number;
  readonly rounds?: number;
  readonly seconds?: number;
  readonly json?: true;
}

const SHORT_NAMES: Readonly<Record<string, Precision>> = { bf16: "bf16-mixed", fp16: "fp16-mixed" };
const LONG = oneOf(PRECISIONS);

/** Kernels by themselves have nothing mixed, so the short names stand for the same. */
const PRECISION: Parser<Precision> = {
  range: `${LONG.range}, or bf16, fp16 for short`,
  parse: (flag, text) => SHORT_NAMES[text] ?? LONG.parse(flag, text),
};

const SUITE_TEXT = Object.entries(SUITES)
  .map(([name, { summary }]) => `  ${name.padEnd(11)}${summary}`)
  .join("\n");

export function benchCommand(context: CommandContext): Command {
  return new Command("bench")
    .description("Time kernels and training steps beside the peak of this machine, measured in the same run.")
    .addArgument(new Argument("[what...]", "what to time (default: everything)").argParser(readSuite))
    .addOption(
      parsedOption("--preset <name>", oneOf(Object.keys(PRESETS) as PresetName[]), "size of the GPT", DEFAULT_PRESET),
    )
    .addOption(
      parsedOption(
        "--precision <name>",
        PRECISION,
        "what the products see",
        "fp32 and bf16-mixed, one after the other",
      ),
    )
    .addOption(parsedOption("--threads <n>", integer(1, 1024), "threads of the cpu device", "one per core"))
    .addOption(parsedOption("--rounds <n>", integer(1, 1_000_000), "timed runs of each", "as many as --seconds allows"))
    .addOption(
      parsedOption(
        "--seconds <s>",
        numberAbove(0, 3600),
        "time for each, in seconds; at least 5 runs",
        `${DEFAULT_SECONDS}`,
      ),
    )
    .option("--json", "print a JSON array instead of a table: times in ms, rates in 10^9 per second, sizes in bytes")
    .addHelpText("after", `\nWhat to time:\n${SUITE_TEXT}\n\nCtrl-C ends it with the results so far.`)
    .action((names: readonly SuiteName[] | undefined, flags: BenchFlags) => runBench(names ?? [], flags, context));
}

/** Commander hands over one word at a time, with what was read so far. */
function readSuite(word: string, before: readonly SuiteName[] | undefined): readonly SuiteName[] {
  const found = SUITE_NAMES.find((name) => name === word);
  if (found !== undefined) return [...(before ?? []), found];
  throw new BinadeError(
    "option.invalid",
    `bench: expected any of ${SUITE_NAMES.join(", ")}, got ${JSON.stringify(word)}; leave it out to time everything`,
  );
}

async function runBench(names: readonly SuiteName[], flags: BenchFlags, context: CommandContext): Promise<void> {
  const limits = readLimits(flags);
  const suites = names.length === 0 ? SUITE_NAMES : names;
  requirePreset(flags, suites);
  const { backend } = useDevice("cpu", { threads: flags.threads ?? availableParallelism() });
  const isa = backend instanceof CpuBackend ? backend.isa : backend.kind;
  const signal = context.interruption();
  const precisions = flags.precision === undefined ? DEFAULT_PRECISIONS : [flags.precision];
  const workloads = workloadsOf(suites, precisions, flags.preset ?? DEFAULT_PRESET);
  const options = { limits, peaks: new PeakMeter(), threads: backend.threads, isa, signal };
  const table = flags.json === true ? null : new BenchTable(context.stdout, backend.description);
  const results: BenchResult[] = [];
  for (const [i, workload] of workloads.entries()) {
    if (signal.aborted) break;
    showProgress(context.stderr, `${i + 1}/${workloads.length}  ${workload.name} ${workload.precision}`);
    const result = await measure(workload, options).finally(() => showProgress(context.stderr, ""));
    if (result === null) break;
    results.push(result);
    table?.row(result);
  }
  if (table === null) context.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
  else table.close(results);
  const failure = outputFailure(signal);
  if (failure !== null) throw failure;
  if (signal.aborted) context.status = INTERRUPTED;
}

function readLimits({ rounds, seconds }: BenchFlags): Limits {
  if (rounds === undefined) return { seconds: seconds ?? DEFAULT_SECONDS };
  if (seconds === undefined) return { rounds };
  throw new BinadeError("option.invalid", "--rounds: expected --rounds or --seconds, got both; leave one of them out");
}

function requirePreset({ preset }: BenchFlags, suites: readonly SuiteName[]): void {
  if (preset === undefined || suites.includes("gpt")) return;
  throw new BinadeError(
    "option.invalid",
    `--preset: expected it with gpt, got it with ${suites.join(", ")}; add gpt or leave out --preset`,
  );
}

/** A line on a terminal that the next one replaces; nothing elsewhere. */
function showProgress(stderr: OutputStream, text: string): void {
  // A line that wraps could not be replaced.
  if (stderr.isTTY === true) stderr.write(`\r${text.slice(0, (stderr.columns || 80) - 1)}\x1b[K`);
}
