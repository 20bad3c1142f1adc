/** This machine's best rates, measured beside the work that they are compared with. */
import { loadAddon } from "../backends/cpu/loader.ts";
import { BinadeError } from "../errors.ts";

/** Rates in 10⁹ per second: float operations, or bytes read. */
export type PeakKind = "float32" | "bfloat16" | "memory";

const FIRST_MS = 60;
const AGAIN_MS = 3;
/** Time between two bursts of one kind: they cost about a thirtieth of a run, and a tenth those that touch much memory. */
const INTERVAL_MS: Readonly<Record<PeakKind, number>> = { float32: 100, bfloat16: 100, memory: 1000 };

/**
 * Peaks of the cpu device, of all its threads together: the best bursts so far. A burst can be slowed down by other work, never
 * sped up, and the clock of a processor that has just woken rises; so the best one counts, and bursts go on during the run.
 */
export class PeakMeter {
  readonly #measure: (kind: PeakKind, milliseconds: number) => number;
  readonly #best = new Map<PeakKind, number>();
  readonly #measuredAtMs = new Map<PeakKind, number>();

  constructor() {
    const { addon } = loadAddon();
    if (addon === null) throw new BinadeError("internal", "internal: peaks are the cpu device's, which is not open");
    this.#measure = (kind, milliseconds) => addon.measurePeak(kind, milliseconds);
  }

  /** The best rate so far, measured once more unless that was a moment ago. Blocks for some milliseconds. */
  rate(kind: PeakKind): number {
    const known = this.#best.get(kind);
    const sinceMs = performance.now() - (this.#measuredAtMs.get(kind) ?? Number.NEGATIVE_INFINITY);
    if (known !== undefined && sinceMs < INTERVAL_MS[kind]) return known;
    const rate = Math.max(known ?? 0, this.#measure(kind, known === undefined ? FIRST_MS : AGAIN_MS) / 1e9);
    this.#best.set(kind, rate);
    this.#measuredAtMs.set(kind, performance.now());
    return rate;
  }
}
