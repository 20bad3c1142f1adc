/** Batches of a labelled data set in memory, in the same stored-nowhere order as the byte batches. */

import { BinadeError } from "../errors.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { permutedIndex } from "./permutation.ts";
import { type BatchesOptions, type IndexedSource, indexedBatches, requireIndex } from "./source.ts";

/** Examples and their labels. */
export type LabelledBatch = {
  /** Index of this batch in its source. */
  readonly index: number;
  /** Passes over the data that were complete when this batch's first example was drawn. */
  readonly epoch: number;
  /** `[batch, features]`, row-major. */
  readonly inputs: Float32Array;
  /** `[batch]`. */
  readonly labels: Int32Array;
};

/** A data set and the size of its batches. */
export type TensorBatchesOptions = {
  /** `[examples, features]`, row-major. */
  readonly inputs: Float32Array;
  /** `[examples]`; the number of examples is its length. */
  readonly labels: Int32Array;
  /** Examples per batch, ≥ 1. */
  readonly batch: number;
  /** Integer from 0 to 2^53 − 1. Default 0. */
  readonly seed?: number;
};

/**
 * An endless source of batches: every epoch visits each example exactly once in a pseudo-random order. Where the batch
 * does not divide the examples, one batch holds the end of an epoch and the beginning of the next.
 *
 * @throws BinadeError `value.range` for a bad option; `shape.mismatch` where inputs are not a whole number of rows.
 * @example
 * const source = new TensorBatches({ inputs, labels, batch: 32, seed: 1 });
 * const { inputs: x, labels: y } = source.batch(0);   // x: [32, source.features]
 */
export class TensorBatches implements IndexedSource<LabelledBatch> {
  /** Values per example. */
  readonly features: number;
  /** Number of examples. */
  readonly examples: number;
  readonly #inputs: Float32Array;
  readonly #labels: Int32Array;
  readonly #batch: number;
  readonly #seed: number;

  constructor(options: TensorBatchesOptions) {
    requireKnownKeys("TensorBatches", options, ["inputs", "labels", "batch", "seed"]);
    const { inputs, labels, batch, seed = 0 } = options;
    requireInteger("TensorBatches: batch", batch, 1);
    requireInteger("TensorBatches: seed", seed, 0, Number.MAX_SAFE_INTEGER);
    if (labels.length === 0 || inputs.length === 0 || inputs.length % labels.length !== 0) {
      const message = `TensorBatches: expected inputs of examples × features values with one label per example, got ${inputs.length} values and ${labels.length} labels; pass all rows and all labels`;
      throw new BinadeError("shape.mismatch", message);
    }
    this.#inputs = inputs;
    this.#labels = labels;
    this.#batch = batch;
    this.#seed = seed;
    this.examples = labels.length;
    this.features = inputs.length / labels.length;
  }

  /** @throws BinadeError `index.outOfRange` unless `index` is an integer ≥ 0. */
  batch(index: number): LabelledBatch {
    requireIndex("TensorBatches", index, Math.floor(Number.MAX_SAFE_INTEGER / this.#batch));
    const { features, examples } = this;
    const inputs = new Float32Array(this.#batch * features);
    const labels = new Int32Array(this.#batch);
    for (let row = 0; row < this.#batch; row++) {
      const sample = index * this.#batch + row;
      const example = permutedIndex(sample % examples, examples, this.#seed, Math.floor(sample / examples));
      inputs.set(this.#inputs.subarray(example * features, (example + 1) * features), row * features);
      labels.set(this.#labels.subarray(example, example + 1), row);
    }
    return { index, epoch: Math.floor((index * this.#batch) / examples), inputs, labels };
  }

  batches(options?: BatchesOptions): AsyncIterable<LabelledBatch> {
    return indexedBatches((index) => this.batch(index), Number.POSITIVE_INFINITY, options);
  }
}
