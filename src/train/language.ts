/** The task of a byte-level language model: the next byte of a text. */
import type { ByteBatch, ByteBatches, EvaluationBatches } from "../data/batches.ts";
import type { Module } from "../nn/module.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { crossEntropy } from "../tensor/functions.ts";
import type { CausalModel } from "./generate.ts";
import { choicesOf, OPTIMIZER_NAMES, OPTIMIZERS } from "./optimizers.ts";
import type { HostBatch, Task, TaskEvaluation } from "./task.ts";

/** A model of text: integer tokens (batch, context) → logits (batch, context, vocabulary). */
export type LanguageModel = Module & CausalModel;

/** Text to train on. */
export interface LanguageData {
  readonly name: string;
  readonly byteLength: number;
  readonly sha256: string;
  readonly training: ByteBatches;
  /** Held-out batches; without them nothing is evaluated. */
  readonly evaluation?: EvaluationBatches;
}

export interface LanguageTaskOptions {
  readonly model: LanguageModel;
  readonly data: LanguageData;
  /** Settings of the model under their own names: reported, stored, and compared on resuming. */
  readonly settings?: Task["settings"];
}

const OPTIMIZER = { betas: [0.9, 0.95], decay: 0.1, addedDecay: 0 } as const;

/**
 * Cross-entropy per token, AdamW (betas 0.9 and 0.95, weight decay 0.1) or another of `OPTIMIZERS`, gradients clipped to a global norm of 1. An
 * evaluation is the mean loss over the held-out windows, also in bits per byte.
 *
 * @example
 * train({ task: languageTask({ model, data }), precision: "bf16-mixed", steps: 2000, learningRate: 1e-3 });
 */
export function languageTask(options: LanguageTaskOptions): Task {
  requireKnownKeys("languageTask", options, ["model", "data", "settings"]);
  const { model, data, settings = {} } = options;
  const { training, evaluation, name, byteLength, sha256 } = data;
  const { batchSize, context } = training;
  return {
    model,
    settings: { ...settings, context },
    data: { name, byteLength, sha256 },
    batchSize,
    facts: { context },
    defaults: { weightDecay: OPTIMIZER.decay, clipNorm: 1, finalRate: 0.1 },
    optimizer: (options) => OPTIMIZERS.adamw.make(model, options, OPTIMIZER),
    optimizers: choicesOf(model, OPTIMIZER_NAMES, OPTIMIZER),
    layout: layoutOf(batchSize, context),
    batch: (index) => hostBatch(training.batch(index), context),
    loss: (tokens, targets) => crossEntropy(model.forward(tokens), targets),
    evaluation: evaluation === undefined ? null : evaluationOf(model, evaluation, context),
    throughput: (batches, elapsedMs) => ({ tokensPerSecond: (batches * batchSize * context * 1000) / elapsedMs }),
  };
}

/** Tokens, and for each the token that follows. */
function layoutOf(batch: number, context: number): Task["layout"] {
  const tokens = { shape: [batch, context], dtype: "int32" } as const;
  return { inputs: tokens, targets: tokens };
}

function hostBatch({ tokens, targets }: ByteBatch, context: number): HostBatch {
  const shape = [tokens.length / context, context];
  return { inputs: { values: tokens, shape }, targets: { values: targets, shape } };
}

function evaluationOf(model: LanguageModel, held: EvaluationBatches, context: number): TaskEvaluation {
  return {
    count: held.count,
    layout: layoutOf(held.batchSize, held.context),
    trainingBatches: held.count,
    batch: (index) => hostBatch(held.batch(index), context),
    record: (tokens, targets) => [crossEntropy(model.forward(tokens), targets)],
    tally: () => {
      let sum = 0;
      return {
        add: (_, [loss]) => {
          sum += loss?.[0] ?? Number.NaN;
        },
        scores: () => ({ heldOutLoss: sum / held.count, bitsPerByte: sum / held.count / Math.LN2 }),
      };
    },
  };
}
