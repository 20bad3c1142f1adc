/** The training loop: a stream of events, resumable at any step to the same bits. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { ByteBatch, ByteBatches, EvaluationBatches } from "../data/batches.ts";
import { BinadeError } from "../errors.ts";
import type { Module } from "../nn/module.ts";
import type { Variable } from "../tensor/variable.ts";
import { readCheckpoint, restoreCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import type { DoneEvent, StartedEvent, StepEvent, TrainEvent } from "./events.ts";
import { type Hyperparameters, Session, type StepResult } from "./session.ts";
import type { CausalModel } from "./generate.ts";

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
  readonly data: TrainData;
  /** Folder for the checkpoint; without it nothing is written. */
  readonly out?: string;
  /** Continue from the checkpoint in `out`. Default false: an existing checkpoint is an error. */
  readonly resume?: boolean;
  /** Steps between evaluations. Default: a tenth of the run. */
  readonly evaluateEvery?: number;
  /** Steps between checkpoints. Default: as evaluations. */
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
 *
 * @throws BinadeError `option.invalid`, `checkpoint.mismatch`, `file.write`, `index.outOfRange`, …; what was saved stays whole.
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
  readonly #settings: Readonly<Record<string, unknown>>;
  readonly #now: () => number;
  readonly #startMs: number;
  #step = 0;
  #firstStep = 0;
  #savedStep = -1;
  #skipped = 0;
  #loss: number | null = null;
  #heldOutLoss: number | null = null;

  constructor(options: TrainOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#startMs = this.#now();
    this.#session = new Session(options.model, options);
    const { precision, data } = options;
    const { batchSize: batch, context } = data.training;
    this.#settings = { ...options.settings, ...this.#session.settings, precision, batch, context, data: data.sha256 };
  }

  get #elapsedMs(): number {
    return this.#now() - this.#startMs;
  }

  get #variables(): ReadonlyMap<string, Variable> {
    return this.#session.variables;
  }

  async start(): Promise<StartedEvent> {
    const { out, resume = false, model, data, precision, steps, seed = 0, settings = {} } = this.#options;
    if (out !== undefined) await this.#open(join(out, CHECKPOINT_FILE), resume);
    else if (resume) throw new BinadeError("option.invalid", "train: resume needs `out`, the folder of the run to continue");
    const { device } = this.#session;
    return {
      type: "started", step: this.#step, model: { parameters: model.parameterCount, ...settings }, precision, device: device.backend.description,
      threads: device.backend.threads, seed, steps, batch: data.training.batchSize, context: data.training.context,
      data: { name: data.name, byteLength: data.byteLength, sha256: data.sha256 },
    };
  }

  async #open(path: string, resume: boolean): Promise<void> {
    const found = await readCheckpoint(path).catch((error: unknown) => {
      if (error instanceof BinadeError && error.code === "file.missing") return null;
      throw error;
    });
    if (found === null && resume) throw new BinadeError("file.missing", `${path}: no checkpoint to resume from; give the folder of an earlier run, or leave out resume`);
    if (found !== null && !resume) {
      throw new BinadeError("option.invalid", `${path}: a checkpoint of step ${found.step} is there already; pass resume to continue it, or another folder`);
    }
    await mkdir(this.#options.out ?? ".", { recursive: true }).catch((error: unknown) => {
      throw new BinadeError("file.write", `${this.#options.out}: the folder cannot be made (${error instanceof Error ? error.message : String(error)}); choose another`);
    });
    if (found === null) return;
    requireSameSettings(path, found.settings, this.#settings);
    await restoreCheckpoint(found, this.#variables);
    this.#step = found.step;
    this.#firstStep = found.step;
    this.#savedStep = found.step;
    this.#skipped = Number(found.settings.skippedSteps ?? 0);
  }

  async *loop(): AsyncGenerator<TrainEvent, void, void> {
    const { steps, data, signal, checkpointEvery, evaluateEvery = Math.max(1, Math.ceil(steps / 10)) } = this.#options;
    const saveEvery = checkpointEvery ?? evaluateEvery;
    let ended = false;
    try {
      while (this.#step < steps && signal?.aborted !== true) {
        yield* this.#advance(data.training.batch(this.#step));
        const last = this.#step === steps;
        if (last || this.#step % evaluateEvery === 0) yield* this.#evaluate();
        if (last || this.#step % saveEvery === 0) yield* this.#save();
      }
      if (this.#heldOutLoss === null && this.#step > this.#firstStep) yield* this.#evaluate();
      yield* this.#save();
      ended = true;
      yield this.#done(signal?.aborted === true && this.#step < steps ? "interrupted" : "finished");
    } finally {
      if (!ended && this.#step > this.#savedStep) await this.#write();
    }
  }

  async *#advance(batch: ByteBatch): AsyncGenerator<TrainEvent, void, void> {
    const before = this.#now();
    const result = await this.#session.step(batch);
    const elapsed = this.#now() - before;
    this.#step++;
    this.#loss = result.loss;
    if (!result.outcome.applied) {
      this.#skipped++;
      const { reason, parameters, lossScaleBefore, lossScaleAfter } = result.outcome;
      yield { type: "skipped", step: this.#step, reason, parameters, lossScaleBefore, lossScaleAfter };
    }
    yield this.#stepEvent(result, (batch.tokens.length / elapsed) * 1000);
  }

  #stepEvent({ loss, learningRate, gradientNorm, outcome }: StepResult, tokensPerSecond: number): StepEvent {
    return { type: "step", step: this.#step, loss, learningRate, gradientNorm, lossScale: outcome.lossScaleBefore, tokensPerSecond, elapsedMs: this.#elapsedMs, skippedSteps: this.#skipped };
  }

  async *#evaluate(): AsyncGenerator<TrainEvent, void, void> {
    const { evaluation } = this.#options.data;
    if (evaluation === undefined) return;
    const heldOutLoss = await this.#session.evaluate(evaluation);
    this.#heldOutLoss = heldOutLoss;
    yield { type: "evaluated", step: this.#step, heldOutLoss, bitsPerByte: heldOutLoss / Math.LN2, elapsedMs: this.#elapsedMs };
  }

  async *#save(): AsyncGenerator<TrainEvent, void, void> {
    const { out } = this.#options;
    if (out === undefined || this.#savedStep === this.#step) return;
    const byteLength = await this.#write();
    yield { type: "checkpointed", step: this.#step, path: join(out, CHECKPOINT_FILE), byteLength, elapsedMs: this.#elapsedMs };
  }

  async #write(): Promise<number> {
    const { out } = this.#options;
    if (out === undefined) return 0;
    const byteLength = await saveCheckpoint(join(out, CHECKPOINT_FILE), this.#variables, this.#step, { ...this.#settings, skippedSteps: this.#skipped });
    this.#savedStep = this.#step;
    return byteLength;
  }

  #done(reason: DoneEvent["reason"]): DoneEvent {
    const elapsedMs = this.#elapsedMs;
    const { batchSize: batch, context } = this.#options.data.training;
    const tokens = (this.#step - this.#firstStep) * batch * context;
    return {
      type: "done", step: this.#step, loss: this.#loss, heldOutLoss: this.#heldOutLoss, elapsedMs,
      tokensPerSecond: (tokens / Math.max(elapsedMs, 1e-9)) * 1000, skippedSteps: this.#skipped, reason,
    };
  }
}

/** A run continues with the settings that it began with: anything else would not be the same run. */
function requireSameSettings(path: string, saved: Readonly<Record<string, unknown>>, now: Readonly<Record<string, unknown>>): void {
  const differing = Object.keys(now).filter((key) => JSON.stringify(saved[key]) !== JSON.stringify(now[key]));
  if (differing.length === 0) return;
  const parts = differing.map((key) => `${key} was ${JSON.stringify(saved[key])} and is ${JSON.stringify(now[key])}`);
  throw new BinadeError("checkpoint.mismatch", `${path}: ${parts.join("; ")}; resume with the settings of the run`);
}
