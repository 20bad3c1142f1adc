/** The task of a classifier of pictures: which class each is of. */
import { OrderedPictures, type PictureBatch, PictureBatches } from "../data/picture-batches.ts";
import { channelStatistics, normalize, type PictureSet, type Pictures } from "../data/pictures.ts";
import { BinadeError } from "../errors.ts";
import type { Module } from "../nn/module.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { crossEntropy } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { choicesOf, OPTIMIZER_NAMES, OPTIMIZERS, type OptimizerName } from "./optimizers.ts";
import type { HostBatch, Tally, Task, TaskEvaluation } from "./task.ts";

/** A classifier: pictures (batch, channels, height, width) of float32 → logits (batch, classes). */
export type Classifier = Module & { forward(pictures: Tensor): Tensor };

/** Pictures to train on and to hold out, and where they came from. */
export interface PictureData extends PictureSet {
  /** Bytes of all pictures. */
  readonly byteLength: number;
  readonly sha256: string;
}

export interface ClassificationTaskOptions {
  readonly model: Classifier;
  readonly data: PictureData;
  /** Pictures per step, ≥ 1. */
  readonly batch: number;
  /** Seed of order and augmentation. Default 0. */
  readonly seed?: number;
  /** Pixels of padding out of which training pictures are cut. Default 0. */
  readonly crop?: number;
  /** Whether training pictures are mirrored at random. Default false. */
  readonly flip?: boolean;
  /** Settings of the model under their own names: reported, stored, and compared on resuming. */
  readonly settings?: Task["settings"];
}

/** Held-out pictures of one evaluation program: enough to keep the device busy, few enough that its memory is not the run's. */
const EVALUATION_BATCH = 250;

const OPTIMIZER = { betas: [0.9, 0.999], decay: 0.05, addedDecay: 5e-4 } as const;
/** Muon is for the matrices of hidden linear layers, and weights of convolutions are none. */
export const CLASSIFIER_OPTIMIZERS: readonly OptimizerName[] = OPTIMIZER_NAMES.filter((name) => name !== "muon");

/**
 * Cross-entropy per picture, SGD (momentum 0.9, weight decay 5e-4) or another of `OPTIMIZERS` but Muon, no clipping. Pictures are normalised by the channels'
 * statistics of what is trained on. An evaluation sees all held-out pictures: loss, accuracy, confusion matrix.
 *
 * @example
 * const task = classificationTask({ model: nn.resnet20({ classes: 10 }), data, batch: 64, crop: 4, flip: true });
 * train({ task, precision: "bf16-mixed", steps: 1000, learningRate: 0.1 });
 */
export function classificationTask(options: ClassificationTaskOptions): Task {
  requireKnownKeys("classificationTask", options, ["model", "data", "batch", "seed", "crop", "flip", "settings"]);
  const { model, data, batch, seed = 0, crop = 0, flip = false, settings = {} } = options;
  const { name, byteLength, sha256, training, heldOut } = data;
  const source = new PictureBatches({ pictures: training, batch, seed, crop, flip });
  const statistics = channelStatistics(training);
  const logits = (pictures: Tensor): Tensor => model.forward(normalize(pictures, statistics));
  requireAlike(name, training, heldOut);
  return {
    model,
    settings: { ...settings, crop, flip },
    data: { name, byteLength, sha256, training: training.labels.length, heldOut: heldOut.labels.length },
    batchSize: batch,
    facts: { classes: training.classes },
    defaults: { weightDecay: OPTIMIZER.addedDecay, clipNorm: null, finalRate: 0 },
    optimizer: (options) => OPTIMIZERS.sgd.make(model, options, OPTIMIZER),
    optimizers: choicesOf(model, CLASSIFIER_OPTIMIZERS, OPTIMIZER),
    layout: layoutOf(batch, training),
    batch: (index) => hostBatch(source.batch(index), training),
    loss: (pictures, labels) => crossEntropy(logits(pictures), labels),
    evaluation: evaluationOf(logits, heldOut, batch),
    throughput: (batches, elapsedMs) => ({ picturesPerSecond: (batches * batch * 1000) / elapsedMs }),
  };
}

function requireAlike(name: string, a: Pictures, b: Pictures): void {
  const show = (p: Pictures): string => `${p.channels} × ${p.height} × ${p.width} in ${p.classes.length} classes`;
  if (show(a) === show(b)) return;
  const message = `${name}: expected held-out pictures like those to train on, ${show(a)}, got ${show(b)}; name one set`;
  throw new BinadeError("data.mixed", message);
}

/** Pictures, and the class of each. */
const layoutOf = (batch: number, { channels, height, width }: Pictures): Task["layout"] => ({
  inputs: { shape: [batch, channels, height, width], dtype: "uint8" },
  targets: { shape: [batch], dtype: "int32" },
});

function hostBatch({ pixels, labels }: PictureBatch, { channels, height, width }: Pictures): HostBatch {
  const count = labels.length;
  return {
    inputs: { values: pixels, shape: [count, channels, height, width] },
    targets: { values: labels, shape: [count] },
  };
}

function evaluationOf(logits: (x: Tensor) => Tensor, heldOut: Pictures, batch: number): TaskEvaluation {
  const source = new OrderedPictures(heldOut, { batch: EVALUATION_BATCH });
  return {
    count: source.count,
    layout: layoutOf(source.batchSize, heldOut),
    trainingBatches: heldOut.labels.length / batch,
    batch: (index) => hostBatch(source.batch(index), heldOut),
    record: (pictures, labels) => {
      const scores = logits(pictures);
      return [crossEntropy(scores, labels, { reduction: "sum" }), scores.argMax({ axes: 1 })];
    },
    tally: () => new ConfusionTally(heldOut.classes.length),
  };
}

/** Counts guesses by class: `confusion[c][g]` pictures of class c were taken for class g. */
class ConfusionTally implements Tally {
  readonly #confusion: readonly number[][];
  #loss = 0;
  #count = 0;

  constructor(classes: number) {
    this.#confusion = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  }

  add({ targets }: HostBatch, [loss, guesses]: readonly ArrayLike<number>[]): void {
    this.#loss += loss?.[0] ?? Number.NaN;
    this.#count += targets.values.length;
    targets.values.forEach((label, i) => {
      const row = this.#confusion[label];
      const guess = guesses?.[i] ?? 0;
      if (row !== undefined) row[guess] = (row[guess] ?? 0) + 1;
    });
  }

  scores() {
    const right = this.#confusion.reduce((sum, row, label) => sum + (row[label] ?? 0), 0);
    return { heldOutLoss: this.#loss / this.#count, accuracy: right / this.#count, confusion: this.#confusion };
  }
}
