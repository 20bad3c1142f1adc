/** The table of `binade bench`, row by row as the results come; 79 columns wide. */
import type { BenchResult } from "../bench/measure.ts";
import { formatBytes } from "./format.ts";
import type { OutputStream } from "./render.ts";

/** Widths and alignments of the columns, the first two to the left. */
const COLUMNS = [
  ["", 27],
  ["", 11],
  ["median ms", 9],
  ["spread", 8],
  ["share", 7],
  ["GFLOP/s", 8],
  ["plan", 9],
] as const;

/** Milliseconds with about four digits. */
export const formatMs = (ms: number): string => ms.toFixed(ms < 1 ? 3 : ms < 100 ? 2 : 1);

function line(cells: readonly string[]): string {
  const text = COLUMNS.map(([, width], i) =>
    i < 2 ? (cells[i] ?? "").padEnd(width) : (cells[i] ?? "").padStart(width),
  );
  return `${text.join("").trimEnd()}\n`;
}

export class BenchTable {
  readonly #stream: OutputStream;

  /** @param device what everything runs on, in one line. */
  constructor(stream: OutputStream, device: string) {
    this.#stream = stream;
    stream.write(`${device}\n\n`);
    stream.write(line(COLUMNS.map(([title]) => title)));
  }

  row(result: BenchResult): void {
    const { name, precision, medianMs, spreadMs, share, gflops, plannedBytes } = result;
    const cells = [formatMs(medianMs), formatMs(spreadMs), share.toFixed(2), gflops.toFixed(gflops < 10 ? 1 : 0)];
    this.#stream.write(line([name, precision, ...cells, formatBytes(plannedBytes)]));
  }

  /** Says what the shares are of. */
  close(results: readonly BenchResult[]): void {
    const last = results.at(-1);
    if (last === undefined) return;
    const formats = results.map((r) => [r.precision.startsWith("bf16") ? "bf16" : "fp32", r.peakGflops] as const);
    const rates = [...new Map(formats)].map(([name, gflops]) => `${gflops.toFixed(0)} GFLOP/s in ${name}`);
    const peaks = [...rates, `memory ${last.peakGigabytesPerSecond.toFixed(1)} GB/s`].join(", ");
    const ofMemory = results.some(({ bound }) => bound === "memory") ? "; rows and AdamW of memory" : "";
    this.#stream.write(
      `\npeak: ${peaks}, ${last.threads === 1 ? "one thread" : `${last.threads} threads`}\n` +
        `share of that peak${ofMemory}; spread: interquartile range; plan: intermediates\n`,
    );
  }
}
