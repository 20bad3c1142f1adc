/** How often a run evaluates and saves unless it is told: often enough to be of use, never more than a share of its time. */

const EVALUATIONS = 10;
/** Evaluations take at most this share of the run's time. */
const EVALUATION_SHARE = 0.1;
/** A training step has one forward pass and a backward pass of twice its work: an evaluation batch is a third of a step. */
const STEPS_PER_EVALUATION_BATCH = 1 / 3;

/** Held-out batches for a run of `steps` steps: as many that one evaluation stays cheap, from 1 to 16. */
export function evaluationBatchCount(steps: number): number {
  return Math.max(1, Math.min(16, Math.floor((EVALUATION_SHARE * steps) / STEPS_PER_EVALUATION_BATCH)));
}

/** Steps between evaluations of `batches` batches: a tenth of the run, or more where that would take too much of it. */
export function evaluationInterval(steps: number, batches: number): number {
  const affordable = Math.ceil((batches * STEPS_PER_EVALUATION_BATCH) / EVALUATION_SHARE);
  return Math.max(1, Math.ceil(steps / EVALUATIONS), affordable);
}

const SAVES = 10;
const LEAST_INTERVAL_MS = 10_000;
const GREATEST_INTERVAL_MS = 300_000;
/** The time between two checkpoints is at least this many times what writing the last one took. */
const SAVING_FACTOR = 30;

/** Options of a `CheckpointClock`. */
export interface CheckpointClockOptions {
  /** Attempted steps of the whole run. */
  readonly steps: number;
  /** Saves at the multiples of this number of steps and at no other time. */
  readonly every: number | undefined;
  /** Milliseconds of a monotonic clock. */
  readonly now: () => number;
}

/**
 * Says when a checkpoint is due: after a tenth of the run, but not within 10 seconds of the last one; and every 5 minutes
 * where a tenth takes longer. Time decides only when a run is saved, never what is computed.
 */
export class CheckpointClock {
  readonly #options: CheckpointClockOptions;
  #savedStep: number;
  #savedAtMs: number;
  #savingMs = 0;

  /** @param step attempted steps in the checkpoint that exists already. */
  constructor(options: CheckpointClockOptions, step: number) {
    this.#options = options;
    this.#savedStep = step;
    this.#savedAtMs = options.now();
  }

  isDue(step: number): boolean {
    const { steps, every, now } = this.#options;
    if (every !== undefined) return step % every === 0;
    const sinceMs = now() - this.#savedAtMs;
    if (sinceMs < Math.max(LEAST_INTERVAL_MS, SAVING_FACTOR * this.#savingMs)) return false;
    return step - this.#savedStep >= steps / SAVES || sinceMs >= GREATEST_INTERVAL_MS;
  }

  /** A checkpoint of `step` is complete; writing it began at `beganMs`. */
  saved(step: number, beganMs: number): void {
    this.#savedStep = step;
    this.#savedAtMs = this.#options.now();
    this.#savingMs = this.#savedAtMs - beganMs;
  }
}
