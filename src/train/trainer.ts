/** The training loop: a stream of events, resumable at any step to the same bits. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { BinadeError } from "../errors.ts";
import type { ReadOutcome, SkippedOutcome } from "../optim/outcome.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { fileWriteError, makeFolders, removeTemporaries } from "./atomic.ts";
import { CheckpointClock, evaluationInterval } from "./cadence.ts";
import {
  type Checkpoint,
  type RunRecord,
  readCheckpoint,
  requireSameSettings,
  restoreCheckpoint,
  saveCheckpoint,
} from "./checkpoint.ts";
import type { DoneEvent, SkippedEvent, StartedEvent, StepEvent, TrainEvent } from "./events.ts";
import { lockFolder } from "./folder-lock.ts";
import { Health } from "./health.ts";
import { type Hyperparameters, Session, type StepResult } from "./session.ts";
import type { HostBatch, Scores, Task } from "./task.ts";

export interface TrainOptions extends Hyperparameters {
  /** What is trained: `languageTask`, `classificationTask`, or one of your own. */
  readonly task: Task;
  /** What else the checkpoint should hold, as JSON: not compared on resuming. */
  readonly notes?: RunRecord["notes"];
  /** Folder for the checkpoint; without it nothing is written. */
  readonly out?: string;
  /** Continue from the checkpoint in `out`. Default false: an existing checkpoint is an error. */
  readonly resume?: boolean;
  /** Steps between evaluations. Default: a tenth of the run, or more where evaluating would take over a tenth of its time. */
  readonly evaluateEvery?: number;
  /** Steps between `metered` events, which say where gradients lie in float16's range. Default: none are sent. */
  readonly meterEvery?: number;
  /**
   * Steps between checkpoints. Default: a tenth of the run, but at least 10 seconds and at most 5 minutes. There is always
   * one at the beginning and one at the end.
   */
  readonly checkpointEvery?: number;
  /** Ends the run after the current step, with a checkpoint. */
  readonly signal?: AbortSignal;
  /** Milliseconds of a monotonic clock. Default `performance.now`. */
  readonly now?: () => number;
}

// biome-ignore format: a list is read as one
const OPTIONS = [
  "task", "precision", "steps", "learningRate", "warmupSteps", "optimizer", "weightDecay", "clipNorm", "seed", "lossScale", "skipNormAbove",
  "retries", "masterWeights", "stateDType", "memoryBudget", "notes", "out", "resume", "evaluateEvery", "meterEvery", "checkpointEvery",
  "signal", "now",
] as const satisfies readonly (keyof TrainOptions)[];

/** Name of the checkpoint in a run's folder. */
export const CHECKPOINT_FILE = "checkpoint.safetensors";

/**
 * Trains a model and reports every step. Ends with a `done` event; `return()` or the signal ends it early, with a checkpoint.
 * An error ends it without one: the last checkpoint stays.
 *
 * @throws BinadeError `option.invalid` or `value.range` for a bad option, or a checkpoint that is there already;
 * `checkpoint.mismatch` on resuming another run; `file.busy` while another run writes to the folder; `file.write`; `run.stalled` after 20 steps in a row that were skipped for
 * numbers which no loss scale makes finite; `index.outOfRange` for a token or label that the model does not have.
 * @example
 * for await (const event of train({ task, precision: "fp16-mixed", steps: 2000, learningRate: 1e-3 })) {
 *   if (event.type === "skipped") console.warn(`step ${event.step}: ${event.reason} in ${event.parameters.join(", ")}`);
 * }
 */
export async function* train(options: TrainOptions): AsyncGenerator<TrainEvent, void, void> {
  const run = new Run(options);
  try {
    yield await run.start();
    yield* run.loop();
  } finally {
    await run.release();
  }
}

/** Whether the same batch may fit the scale that is left: a loss that is not finite, or a norm above its limit, comes again. */
const isCurable = (outcome: ReadOutcome): outcome is SkippedOutcome =>
  !outcome.applied && outcome.reason === "gradientOverflow" && !outcome.atFloor;

class Run {
  readonly #options: TrainOptions;
  readonly #session: Session;
  readonly #settings: RunRecord["settings"];
  readonly #now: () => number;
  readonly #startMs: number;
  readonly #evaluateEvery: number;
  readonly #health: Health;
  #clock: CheckpointClock;
  #unlock: () => Promise<void> = async () => undefined;
  #step = 0;
  #firstStep = 0;
  #savedStep = -1;
  #skipped = 0;
  #loss: number | null = null;
  #scores: Scores | null = null;
  /** The next batch, made while the last step ran. */
  #next: { readonly step: number; readonly batch: HostBatch } | null = null;

  constructor(options: TrainOptions) {
    const { precision, task, steps, checkpointEvery, evaluateEvery, now = () => performance.now() } = options;
    requireKnownKeys("train", options, OPTIONS);
    this.#options = options;
    this.#now = now;
    this.#startMs = now();
    this.#session = new Session(task, options);
    if (evaluateEvery !== undefined) requireInteger("train: evaluateEvery", evaluateEvery, 1);
    if (checkpointEvery !== undefined) requireInteger("train: checkpointEvery", checkpointEvery, 1);
    if (options.meterEvery !== undefined) requireInteger("train: meterEvery", options.meterEvery, 1);
    this.#evaluateEvery = evaluateEvery ?? evaluationInterval(steps, task.evaluation?.trainingBatches ?? 0);
    this.#clock = new CheckpointClock({ steps, every: checkpointEvery, now }, 0);
    this.#health = new Health(precision);
    const own = { ...this.#session.settings, precision, batch: task.batchSize, dataSha256: task.data.sha256 };
    this.#settings = { ...task.settings, ...own };
  }

  get #elapsedMs(): number {
    return this.#now() - this.#startMs;
  }

  /** Lets other runs write to the folder. */
  async release(): Promise<void> {
    await this.#unlock();
  }

  async start(): Promise<StartedEvent> {
    const { out, resume = false, task, precision, steps, seed = 0 } = this.#options;
    this.#session.requireMemory();
    if (out !== undefined) await this.#open(out, resume);
    else if (resume) {
      throw new BinadeError(
        "option.invalid",
        "train: resume needs `out`, got none; give the folder of the run to continue",
      );
    }
    const { backend } = this.#session.device;
    return {
      type: "started",
      step: this.#step,
      model: { parameters: task.model.parameterCount, ...task.settings },
      precision,
      // The first clause: the number of threads has a field of its own.
      device: backend.description.split(",")[0] ?? backend.kind,
      threads: backend.threads,
      seed,
      steps,
      batch: task.batchSize,
      ...task.facts,
      data: task.data,
    };
  }

  async #open(out: string, resume: boolean): Promise<void> {
    // Without the folder there is no checkpoint: what refuses that leaves no folder behind.
    if (!existsSync(out)) await this.#find(out, resume);
    await makeFolders(out).catch((error: unknown) => {
      throw fileWriteError(out, error);
    });
    this.#unlock = await lockFolder(out);
    const found = await this.#find(out, resume);
    if (found !== null) await this.#restore(found);
    await removeTemporaries(out);
  }

  /** The checkpoint to resume from; null to begin with none. */
  async #find(out: string, resume: boolean): Promise<Checkpoint | null> {
    const path = join(out, CHECKPOINT_FILE);
    const found = await readCheckpoint(path).catch((error: unknown) => {
      if (error instanceof BinadeError && error.code === "file.missing") return null;
      throw error;
    });
    if (found === null && resume) {
      throw new BinadeError(
        "file.missing",
        `${path}: expected a checkpoint to resume from, found none; give the folder of an earlier run, or leave out resume`,
      );
    }
    if (found !== null && !resume) {
      throw new BinadeError(
        "option.invalid",
        `${path}: a checkpoint of step ${found.step} is there already; resume it, or give another folder`,
      );
    }
    return found;
  }

  async #restore(found: Checkpoint): Promise<void> {
    const { steps, checkpointEvery: every } = this.#options;
    requireSameSettings(found, this.#settings);
    await restoreCheckpoint(found, this.#session.variables);
    this.#step = found.step;
    this.#firstStep = found.step;
    this.#savedStep = found.step;
    this.#skipped = found.skippedSteps;
    this.#clock = new CheckpointClock({ steps, every, now: this.#now }, found.step);
  }

  async *loop(): AsyncGenerator<TrainEvent, void, void> {
    let hasFailed = false;
    try {
      yield* this.#run();
    } catch (error) {
      hasFailed = true;
      throw error;
    } finally {
      // Reached by return(), between two steps. After an error the last checkpoint stays: it is known to be good.
      if (!hasFailed && this.#step > this.#savedStep) await this.#write();
    }
  }

  async *#run(): AsyncGenerator<TrainEvent, void, void> {
    const { steps, signal } = this.#options;
    // At once: a folder that cannot be written to shows now, and a run that is killed can always be resumed.
    yield* this.#save();
    if (this.#step === steps) yield* this.#complete();
    while (this.#step < steps && signal?.aborted !== true) {
      yield* this.#advance();
      // A device that computes on this thread leaves the event loop no turn: nobody would hear a Ctrl-C.
      await nextTurn();
      if (this.#step === steps || this.#step % this.#evaluateEvery === 0) yield* this.#evaluate();
      if (this.#clock.isDue(this.#step)) yield* this.#save();
    }
    yield* this.#save();
    yield this.#done(this.#step < steps ? "interrupted" : "finished");
  }

  /** A run that was finished before: nothing to train, but its scores are worth knowing. */
  async *#complete(): AsyncGenerator<TrainEvent, void, void> {
    const message = `all ${this.#step} steps of this run were made before; start another run to train for longer`;
    yield { type: "warning", step: this.#step, code: "run.complete", message };
    yield* this.#evaluate();
  }

  /** The batch of a step: a pure function of its number, whether or not it was made in advance. */
  #batch(step: number): HostBatch {
    return this.#next?.step === step ? this.#next.batch : this.#options.task.batch(step);
  }

  /** Makes the next batch. What fails here fails again, and is heard, when the batch is due. */
  #prepare(step: number): void {
    this.#next = null;
    if (step >= this.#options.steps) return;
    try {
      this.#next = { step, batch: this.#batch(step) };
    } catch {
      this.#next = null;
    }
  }

  async *#advance(): AsyncGenerator<TrainEvent, void, void> {
    const { retries = 0 } = this.#options;
    const batch = this.#batch(this.#step);
    const beganMs = this.#now();
    const { meterEvery } = this.#options;
    const isMetered = meterEvery !== undefined && (this.#step + 1) % meterEvery === 0;
    let result = await this.#session.step(batch, () => this.#prepare(this.#step + 1), isMetered);
    this.#step++;
    for (let tried = 0; tried < retries && isCurable(result.outcome); tried++) {
      yield this.#skippedEvent(result.outcome, true);
      yield* this.#health.observe(this.#step, result.outcome);
      result = await this.#session.step(batch, undefined, isMetered);
    }
    const stepMs = this.#now() - beganMs;
    const { outcome } = result;
    this.#loss = result.loss;
    if (!outcome.applied) {
      this.#skipped++;
      yield this.#skippedEvent(outcome, false);
    }
    yield this.#stepEvent(result, stepMs);
    if (result.gradients !== null) {
      yield { type: "metered", step: this.#step, gradients: result.gradients, elapsedMs: this.#elapsedMs };
    }
    const overflowed = outcome.applied ? [] : await this.#session.overflowedWeights();
    yield* this.#health.observe(this.#step, outcome, overflowed);
  }

  #skippedEvent(outcome: SkippedOutcome, isRetried: boolean): SkippedEvent {
    const { reason, parameters, lossScaleBefore, lossScaleAfter } = outcome;
    const event = { type: "skipped", step: this.#step, reason, parameters, lossScaleBefore, lossScaleAfter } as const;
    return isRetried ? { ...event, retried: true } : event;
  }

  #stepEvent({ loss, learningRate, gradientNorm, outcome }: StepResult, stepMs: number): StepEvent {
    return {
      type: "step",
      step: this.#step,
      loss,
      learningRate,
      gradientNorm,
      lossScale: outcome.lossScaleBefore,
      ...this.#options.task.throughput(1, stepMs),
      elapsedMs: this.#elapsedMs,
      skippedSteps: this.#skipped,
    };
  }

  async *#evaluate(): AsyncGenerator<TrainEvent, void, void> {
    yield* this.#health.weights(this.#step, await this.#session.overflowedWeights());
    const scores = await this.#session.evaluate(this.#options.signal);
    if (scores === null) return;
    this.#scores = scores;
    yield { type: "evaluated", step: this.#step, ...scores, elapsedMs: this.#elapsedMs };
  }

  async *#save(): AsyncGenerator<TrainEvent, void, void> {
    const { out } = this.#options;
    if (out === undefined || this.#savedStep === this.#step) return;
    const byteLength = await this.#write();
    const path = join(out, CHECKPOINT_FILE);
    yield { type: "checkpointed", step: this.#step, path, byteLength, elapsedMs: this.#elapsedMs };
  }

  async #write(): Promise<number> {
    const { out, notes = {} } = this.#options;
    if (out === undefined) return 0;
    const beganMs = this.#now();
    const record = { step: this.#step, skippedSteps: this.#skipped, settings: this.#settings, notes };
    const byteLength = await saveCheckpoint(join(out, CHECKPOINT_FILE), this.#session.variables, record);
    this.#savedStep = this.#step;
    this.#clock.saved(this.#step, beganMs);
    return byteLength;
  }

  #done(reason: DoneEvent["reason"]): DoneEvent {
    const elapsedMs = this.#elapsedMs;
    return {
      type: "done",
      step: this.#step,
      loss: this.#loss,
      heldOutLoss: null,
      ...this.#scores,
      elapsedMs,
      ...this.#options.task.throughput(this.#step - this.#firstStep, Math.max(elapsedMs, 1e-6)),
      skippedSteps: this.#skipped,
      reason,
    };
  }
}
