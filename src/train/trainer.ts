/** The training loop: a stream of events, resumable at any step to the same bits. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { ByteBatch, ByteBatches, EvaluationBatches } from "../data/batches.ts";
import { BinadeError } from "../errors.ts";
import type { Module } from "../nn/module.ts";
import { requireInteger } from "../precision/options.ts";
import { fileWriteError, removeTemporaries } from "./atomic.ts";
import { CheckpointClock, evaluationInterval } from "./cadence.ts";
import {
  type Checkpoint,
  type RunRecord,
  readCheckpoint,
  requireSameSettings,
  restoreCheckpoint,
  saveCheckpoint,
} from "./checkpoint.ts";
import type { DoneEvent, StartedEvent, StepEvent, TrainEvent } from "./events.ts";
import type { CausalModel } from "./generate.ts";
import { Health } from "./health.ts";
import { type Hyperparameters, Session, type StepResult } from "./session.ts";

/** A model that `train` can train: integer tokens (batch, context) → logits (batch, context, vocabulary). */
export type TrainableModel = Module & CausalModel;

/** The data of a run. Batches are pure functions of their index, so a run resumes exactly. */
export interface TrainData {
  readonly name: string;
  readonly byteLength: number;
  readonly sha256: string;
  readonly training: ByteBatches;
  /** Held-out batches; without them nothing is evaluated. */
  readonly evaluation?: EvaluationBatches;
}

export interface TrainOptions extends Hyperparameters {
  readonly model: TrainableModel;
  /** Settings of the model under their own names: reported, stored, and compared on resuming. */
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
  /** What else the checkpoint should hold, as JSON: not compared on resuming. */
  readonly notes?: RunRecord["notes"];
  readonly data: TrainData;
  /** Folder for the checkpoint; without it nothing is written. */
  readonly out?: string;
  /** Continue from the checkpoint in `out`. Default false: an existing checkpoint is an error. */
  readonly resume?: boolean;
  /** Steps between evaluations. Default: a tenth of the run, or more where evaluating would take over a tenth of its time. */
  readonly evaluateEvery?: number;
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

/** Name of the checkpoint in a run's folder. */
export const CHECKPOINT_FILE = "checkpoint.safetensors";

/**
 * Trains a model and reports every step. Ends with a `done` event; `return()` or the signal ends it early, with a checkpoint.
 * An error ends it without one: the last checkpoint stays.
 *
 * @throws BinadeError `option.invalid` or `value.range` for a bad option, or a checkpoint that is there already;
 * `checkpoint.mismatch` on resuming another run; `file.write`; `run.stalled` after 20 steps in a row that were skipped for
 * numbers which no loss scale makes finite; `index.outOfRange` for a token outside the vocabulary.
 * @example
 * for await (const event of train({ model, data, precision: "fp16-mixed", steps: 2000, learningRate: 1e-3 })) {
 *   if (event.type === "skipped") console.warn(`step ${event.step}: ${event.reason} in ${event.parameters.join(", ")}`);
 * }
 */
export async function* train(options: TrainOptions): AsyncGenerator<TrainEvent, void, void> {
  const run = new Run(options);
  yield await run.start();
  yield* run.loop();
}

class Run {
  readonly #options: TrainOptions;
  readonly #session: Session;
  readonly #settings: RunRecord["settings"];
  readonly #now: () => number;
  readonly #startMs: number;
  readonly #evaluateEvery: number;
  readonly #health: Health;
  #clock: CheckpointClock;
  #step = 0;
  #firstStep = 0;
  #savedStep = -1;
  #skipped = 0;
  #loss: number | null = null;
  #heldOutLoss: number | null = null;

  constructor(options: TrainOptions) {
    const { precision, data, steps, checkpointEvery, evaluateEvery, now = () => performance.now() } = options;
    this.#options = options;
    this.#now = now;
    this.#startMs = now();
    this.#session = new Session(options.model, options);
    if (evaluateEvery !== undefined) requireInteger("train: evaluateEvery", evaluateEvery, 1);
    if (checkpointEvery !== undefined) requireInteger("train: checkpointEvery", checkpointEvery, 1);
    this.#evaluateEvery = evaluateEvery ?? evaluationInterval(steps, data.evaluation?.count ?? 0);
    this.#clock = new CheckpointClock({ steps, every: checkpointEvery, now }, 0);
    this.#health = new Health(precision);
    const { batchSize: batch, context } = data.training;
    const own = { ...this.#session.settings, precision, batch, context, dataSha256: data.sha256 };
    this.#settings = { ...options.settings, ...own };
  }

  get #elapsedMs(): number {
    return this.#now() - this.#startMs;
  }

  async start(): Promise<StartedEvent> {
    const { out, resume = false, model, data, precision, steps, seed = 0, settings = {} } = this.#options;
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
      model: { parameters: model.parameterCount, ...settings },
      precision,
      // The first clause: the number of threads has a field of its own.
      device: backend.description.split(",")[0] ?? backend.kind,
      threads: backend.threads,
      seed,
      steps,
      batch: data.training.batchSize,
      context: data.training.context,
      data: { name: data.name, byteLength: data.byteLength, sha256: data.sha256 },
    };
  }

  async #open(out: string, resume: boolean): Promise<void> {
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
    await mkdir(out, { recursive: true }).catch((error: unknown) => {
      throw fileWriteError(out, error);
    });
    if (found !== null) await this.#restore(found);
    await removeTemporaries(out);
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
    const { steps, data, signal } = this.#options;
    // At once: a folder that cannot be written to shows now, and a run that is killed can always be resumed.
    yield* this.#save();
    if (this.#step === steps) yield* this.#complete();
    while (this.#step < steps && signal?.aborted !== true) {
      yield* this.#advance(data.training.batch(this.#step));
      // A device that computes on this thread leaves the event loop no turn: nobody would hear a Ctrl-C.
      await nextTurn();
      if (this.#step === steps || this.#step % this.#evaluateEvery === 0) yield* this.#evaluate();
      if (this.#clock.isDue(this.#step)) yield* this.#save();
    }
    yield* this.#save();
    yield this.#done(this.#step < steps ? "interrupted" : "finished");
  }

  /** A run that was finished before: nothing to train, but its held-out loss is worth knowing. */
  async *#complete(): AsyncGenerator<TrainEvent, void, void> {
    const message = `all ${this.#step} steps of this run were made before; start another run to train for longer`;
    yield { type: "warning", step: this.#step, code: "run.complete", message };
    yield* this.#evaluate();
  }

  async *#advance(batch: ByteBatch): AsyncGenerator<TrainEvent, void, void> {
    const beganMs = this.#now();
    const result = await this.#session.step(batch);
    const stepMs = this.#now() - beganMs;
    const { outcome } = result;
    this.#step++;
    this.#loss = result.loss;
    if (!outcome.applied) {
      this.#skipped++;
      const { reason, parameters, lossScaleBefore, lossScaleAfter } = outcome;
      yield { type: "skipped", step: this.#step, reason, parameters, lossScaleBefore, lossScaleAfter };
    }
    yield this.#stepEvent(result, (batch.tokens.length / stepMs) * 1000);
    yield* this.#health.observe(this.#step, outcome);
  }

  #stepEvent({ loss, learningRate, gradientNorm, outcome }: StepResult, tokensPerSecond: number): StepEvent {
    return {
      type: "step",
      step: this.#step,
      loss,
      learningRate,
      gradientNorm,
      lossScale: outcome.lossScaleBefore,
      tokensPerSecond,
      elapsedMs: this.#elapsedMs,
      skippedSteps: this.#skipped,
    };
  }

  async *#evaluate(): AsyncGenerator<TrainEvent, void, void> {
    const { data, signal } = this.#options;
    if (data.evaluation === undefined) return;
    const heldOutLoss = await this.#session.evaluate(data.evaluation, signal);
    if (heldOutLoss === null) return;
    this.#heldOutLoss = heldOutLoss;
    const bitsPerByte = heldOutLoss / Math.LN2;
    yield { type: "evaluated", step: this.#step, heldOutLoss, bitsPerByte, elapsedMs: this.#elapsedMs };
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
    const { batchSize: batch, context } = this.#options.data.training;
    const tokens = (this.#step - this.#firstStep) * batch * context;
    return {
      type: "done",
      step: this.#step,
      loss: this.#loss,
      heldOutLoss: this.#heldOutLoss,
      elapsedMs,
      tokensPerSecond: (tokens / Math.max(elapsedMs, 1e-9)) * 1000,
      skippedSteps: this.#skipped,
      reason,
    };
  }
}
