/** Times a workload and compares it with this machine's peak, measured in turns with it. */
import type { PeakKind, PeakMeter } from "./peaks.ts";
import { median, spread } from "./statistics.ts";
import type { Prepared, Workload } from "./workload.ts";

/** What `binade bench --json` prints of a workload. Times are milliseconds of the wall clock. */
export interface BenchResult {
  readonly name: string;
  readonly precision: string;
  readonly threads: number;
  readonly isa: string;
  /** Timed runs. */
  readonly rounds: number;
  readonly medianMs: number;
  /** Interquartile range. */
  readonly spreadMs: number;
  readonly minMs: number;
  /** The peak that bounds it: a format's arithmetic, or memory. */
  readonly bound: PeakKind;
  /** Operations, or bytes, over that peak: what the median could be if nothing else took time. */
  readonly floorMs: number;
  /** `floorMs` / `medianMs`, the achieved share of the peak. */
  readonly share: number;
  readonly operations: number;
  readonly gflops: number;
  /** Of all threads, in registers, in the format and on the instruction set of the products. */
  readonly peakGflops: number;
  /** Bytes that must move at least once, and the rate at which they did; null where nobody counted them. */
  readonly bytes: number | null;
  readonly gigabytesPerSecond: number | null;
  /** Reads of what no cache holds, by all threads. */
  readonly peakGigabytesPerSecond: number;
  /** Planned memory of intermediates. */
  readonly plannedBytes: number;
}

/** How long a workload is timed: that many runs; or for that many seconds, but at least `MIN_ROUNDS` runs. */
export type Limits = { readonly rounds: number } | { readonly seconds: number };

export interface MeasureOptions {
  readonly limits: Limits;
  readonly peaks: PeakMeter;
  readonly threads: number;
  readonly isa: string;
  /** Ends the timing after the run in progress. */
  readonly signal?: AbortSignal;
}

const MIN_ROUNDS = 5;
const WARM_UP_ROUNDS = 3;
/** Steps that take long are warm sooner. */
const WARM_UP_MS = 1000;

/** Milliseconds that `work` takes. */
export async function timeOnce(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}

/** Untimed runs: the first one compiles, and memory is touched for the first time. */
export async function warmUp({ run }: Prepared): Promise<void> {
  const startMs = performance.now();
  await run();
  for (let i = 1; i < WARM_UP_ROUNDS && performance.now() - startMs < WARM_UP_MS; i++) await run();
}

/** Times one workload by itself; null if the signal came before the first timed run had ended. */
export async function measure(workload: Workload, options: MeasureOptions): Promise<BenchResult | null> {
  const { limits, peaks, signal } = options;
  const prepared = workload.prepare();
  if (signal?.aborted) return null;
  await warmUp(prepared);
  const timesMs: number[] = [];
  const startMs = performance.now();
  const goesOn = (): boolean => {
    if (signal?.aborted) return false;
    if ("rounds" in limits) return timesMs.length < limits.rounds;
    return timesMs.length < MIN_ROUNDS || performance.now() - startMs < limits.seconds * 1000;
  };
  while (goesOn()) {
    peaks.rate(workload.bound);
    timesMs.push(await timeOnce(prepared.run));
  }
  return timesMs.length === 0 ? null : summarize(workload, prepared, timesMs, options);
}

/** The result of timings made elsewhere. */
export function summarize(
  { name, precision, bound }: Workload,
  { operations, bytes, plannedBytes }: Prepared,
  timesMs: readonly number[],
  { peaks, threads, isa }: Pick<MeasureOptions, "peaks" | "threads" | "isa">,
): BenchResult {
  const medianMs = median(timesMs);
  const peakGflops = peaks.rate(bound === "bfloat16" ? bound : "float32");
  const peakGigabytesPerSecond = peaks.rate("memory");
  const floorMs = (bound === "memory" ? (bytes ?? 0) / peakGigabytesPerSecond : operations / peakGflops) / 1e6;
  return {
    name,
    precision,
    threads,
    isa,
    rounds: timesMs.length,
    medianMs,
    spreadMs: spread(timesMs),
    minMs: Math.min(...timesMs),
    bound,
    floorMs,
    share: floorMs / medianMs,
    operations,
    gflops: operations / medianMs / 1e6,
    peakGflops,
    bytes,
    gigabytesPerSecond: bytes === null ? null : bytes / medianMs / 1e6,
    peakGigabytesPerSecond,
    plannedBytes: plannedBytes(),
  };
}
