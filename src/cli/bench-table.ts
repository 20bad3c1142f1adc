/** The table of `binade bench`, row by row as the results come; 79 columns wide, or two lines a row. */
import type { BenchResult } from "../bench/measure.ts";
import { formatBytes } from "./format.ts";
import type { OutputStream } from "./render.ts";

/** Titles and widths of the figures. */
const FIGURES = [
  ["median ms", 9],
  ["spread", 8],
  ["share", 7],
  ["GFLOP/s", 8],
  ["plan", 9],
] as const;
const [NAME_WIDTH, PRECISION_WIDTH] = [27, 11];
/** Name, precision and figures in one line. */
const WIDTH = NAME_WIDTH + PRECISION_WIDTH + FIGURES.reduce((sum, [, width]) => sum + width, 0);

/** Milliseconds with about four digits. */
export const formatMs = (ms: number): string => ms.toFixed(ms < 1 ? 3 : ms < 100 ? 2 : 1);

/** The figures that fit into `width` columns, to the right; the last ones are left out first. */
function figuresLine(cells: readonly string[], width: number): string {
  let text = "";
  for (const [i, [, columns]] of FIGURES.entries()) {
    if (i > 0 && text.length + columns > width) break;
    text += (cells[i] ?? "").padStart(columns);
  }
  return text;
}

export class BenchTable {
  readonly #stream: OutputStream;
  /** Columns of a terminal that is too narrow for whole rows: figures stand below the name there. */
  readonly #narrow: number | null;

  /** @param device what everything runs on, in one line. */
  constructor(stream: OutputStream, device: string) {
    this.#stream = stream;
    const columns = (stream.isTTY === true && stream.columns) || WIDTH + 1;
    this.#narrow = columns > WIDTH ? null : columns - 1;
    stream.write(`${device}\n\n`);
    const titles = FIGURES.map(([title]) => title);
    if (this.#narrow === null) this.#line("", "", titles);
    else stream.write(`${figuresLine(titles, this.#narrow)}\n`);
  }

  row(result: BenchResult): void {
    const { name, precision, medianMs, spreadMs, share, gflops, plannedBytes } = result;
    const cells = [formatMs(medianMs), formatMs(spreadMs), share.toFixed(2), gflops.toFixed(gflops < 10 ? 1 : 0)];
    this.#line(name, precision, [...cells, formatBytes(plannedBytes)]);
  }

  #line(name: string, precision: string, figures: readonly string[]): void {
    const head =
      this.#narrow === null ? name.padEnd(NAME_WIDTH) + precision.padEnd(PRECISION_WIDTH) : `${name} ${precision}\n`;
    this.#stream.write(`${head}${figuresLine(figures, this.#narrow ?? WIDTH)}\n`);
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
