/** Batches as a pure function of (data, options, index): nothing to store, so a run resumes at any batch. */

import { BinadeError } from "../errors.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { epochOffset, permutedIndex } from "./permutation.ts";
import { type BatchesOptions, type IndexedSource, indexedBatches, requireIndex } from "./source.ts";
import { requireWindow } from "./text.ts";

/** Windows of a byte corpus and, for each byte, the byte that follows. */
export type ByteBatch = {
  /** Index of this batch in its source. */
  readonly index: number;
  /** Passes over the data that were complete when this batch's first window was drawn. */
  readonly epoch: number;
  /** `[batch, context]`, row-major, values 0 … 255. */
  readonly tokens: Int32Array;
  /** `[batch, context]`, row-major: `targets[b][t]` follows `tokens[b][t]` in the corpus. */
  readonly targets: Int32Array;
};

/** Size of a batch of windows, and the seed of their order. */
export type ByteBatchesOptions = {
  /** Windows per batch, ≥ 1. */
  readonly batch: number;
  /** Bytes per window, ≥ 1. */
  readonly context: number;
  /** Integer from 0 to 2^53 − 1. Default 0. */
  readonly seed?: number;
};

/**
 * An endless source of training batches over `bytes`.
 *
 * The corpus is cut into windows that do not overlap, from a pseudo-random phase that changes with the epoch, and every
 * epoch visits each of them exactly once in a pseudo-random order. Row r of batch i is window number i × batch + r of
 * that stream: where the batch does not divide the windows, one batch holds the end of an epoch and the beginning of
 * the next.
 *
 * @throws BinadeError `value.range` for a bad option; `data.short` where `bytes` holds less than context + 1 bytes.
 * @example
 * const source = new ByteBatches(training, { batch: 8, context: 256, seed: 1 });
 * for await (const { tokens, targets } of source.batches({ from: 200 })) { … }
 */
export class ByteBatches implements IndexedSource<ByteBatch> {
  /** Windows that one epoch visits. */
  readonly windowsPerEpoch: number;
  /** `windowsPerEpoch` / batch; not always an integer. */
  readonly batchesPerEpoch: number;
  readonly #bytes: Uint8Array;
  /** Windows per batch. */
  readonly batchSize: number;
  /** Bytes per window. */
  readonly context: number;
  readonly #seed: number;
  readonly #phases: number;

  constructor(bytes: Uint8Array, options: ByteBatchesOptions) {
    requireKnownKeys("ByteBatches", options, ["batch", "context", "seed"]);
    const { batch, context, seed = 0 } = options;
    requireInteger("ByteBatches: batch", batch, 1);
    requireInteger("ByteBatches: context", context, 1);
    requireInteger("ByteBatches: seed", seed, 0, Number.MAX_SAFE_INTEGER);
    requireWindow("ByteBatches", bytes.length, context);
    this.#bytes = bytes;
    this.batchSize = batch;
    this.context = context;
    this.#seed = seed;
    // One window less than would fit leaves room for every phase from 0 to context − 1 with the same count in each
    // epoch.
    this.windowsPerEpoch = Math.max(1, Math.floor((bytes.length - 1) / context) - 1);
    this.#phases = Math.min(context, bytes.length - this.windowsPerEpoch * context);
    this.batchesPerEpoch = this.windowsPerEpoch / batch;
  }

  /** @throws BinadeError `index.outOfRange` unless `index` is an integer ≥ 0. */
  batch(index: number): ByteBatch {
    requireIndex("ByteBatches", index, Math.floor(Number.MAX_SAFE_INTEGER / this.batchSize));
    const starts = Array.from({ length: this.batchSize }, (_, row) => this.#start(index * this.batchSize + row));
    const epoch = Math.floor((index * this.batchSize) / this.windowsPerEpoch);
    return readWindows(this.#bytes, starts, this.context, index, epoch);
  }

  batches(options?: BatchesOptions): AsyncIterable<ByteBatch> {
    return indexedBatches((index) => this.batch(index), Number.POSITIVE_INFINITY, options);
  }

  /** First byte of the stream's window number `sample`. */
  #start(sample: number): number {
    const epoch = Math.floor(sample / this.windowsPerEpoch);
    const phase = epochOffset(this.#phases, this.#seed, epoch);
    return phase + permutedIndex(sample % this.windowsPerEpoch, this.windowsPerEpoch, this.#seed, epoch) * this.context;
  }
}

/** Size of the batches of an evaluation, and how many there are. */
export type EvaluationBatchesOptions = {
  /** Windows per batch, ≥ 1. */
  readonly batch: number;
  /** Bytes per window, ≥ 1. */
  readonly context: number;
  /** Batches at most, ≥ 1. Default 16. Fewer are made where windows would overlap, but at least one. */
  readonly batches?: number;
};

/**
 * The same evenly spaced windows at every evaluation, in batches of one shape; only where the data has less than one
 * batch of separate windows, they overlap.
 *
 * @throws BinadeError `value.range` for a bad option; `data.short` where `bytes` holds less than context + 1 bytes.
 * @example
 * const evaluation = new EvaluationBatches(heldOut, { batch: 8, context: 256 });
 * for (let i = 0; i < evaluation.count; i++) evaluation.batch(i); // the same at every evaluation
 */
export class EvaluationBatches implements IndexedSource<ByteBatch> {
  /** Number of batches. */
  readonly count: number;
  /** Windows per batch. */
  readonly batchSize: number;
  /** Bytes per window. */
  readonly context: number;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array, options: EvaluationBatchesOptions) {
    requireKnownKeys("EvaluationBatches", options, ["batch", "context", "batches"]);
    const { batch, context, batches = 16 } = options;
    requireInteger("EvaluationBatches: batch", batch, 1);
    requireInteger("EvaluationBatches: context", context, 1);
    requireInteger("EvaluationBatches: batches", batches, 1);
    requireWindow("EvaluationBatches", bytes.length, context);
    this.#bytes = bytes;
    this.batchSize = batch;
    this.context = context;
    const separateWindows = Math.floor((bytes.length - 1) / context);
    this.count = Math.max(1, Math.min(batches, Math.floor(separateWindows / batch)));
  }

  /** @throws BinadeError `index.outOfRange` unless `index` is from 0 to `count` − 1. */
  batch(index: number): ByteBatch {
    requireIndex("EvaluationBatches", index, this.count);
    const lastStart = this.#bytes.length - 1 - this.context;
    const gaps = Math.max(1, this.count * this.batchSize - 1);
    const starts = Array.from({ length: this.batchSize }, (_, row) =>
      Math.floor(((index * this.batchSize + row) * lastStart) / gaps),
    );
    return readWindows(this.#bytes, starts, this.context, index, 0);
  }

  batches(options?: BatchesOptions): AsyncIterable<ByteBatch> {
    return indexedBatches((index) => this.batch(index), this.count, options);
  }
}

/** How much of a corpus is held out. */
export type SplitOptions = {
  /** A fraction (above 0, below 1) or a number of bytes (an integer ≥ 1). Default 0.1. */
  readonly heldOut?: number;
  /** Bytes per window: both parts must hold at least one. */
  readonly context: number;
};

/**
 * Splits a corpus into what is trained on and what is held out: its end. A fraction is raised to one window where it is
 * less. Both parts are views, not copies.
 *
 * @throws BinadeError `value.range` for a bad option; `data.short` where a part would hold less than context + 1 bytes.
 * @example
 * const { training, heldOut } = split(corpus.bytes, { heldOut: 0.1, context: 256 });
 */
export function split(bytes: Uint8Array, options: SplitOptions): { training: Uint8Array; heldOut: Uint8Array } {
  requireKnownKeys("split", options, ["heldOut", "context"]);
  const { heldOut = 0.1, context } = options;
  requireInteger("split: context", context, 1);
  if (!(heldOut > 0) || (heldOut >= 1 && !Number.isSafeInteger(heldOut))) {
    const message = `split: heldOut: expected a fraction above 0 and below 1 or a number of bytes ≥ 1, got ${heldOut}`;
    throw new BinadeError("value.range", message);
  }
  const wanted = heldOut < 1 ? Math.max(context + 1, Math.round(bytes.length * heldOut)) : heldOut;
  if (wanted <= context || bytes.length - wanted <= context) {
    const message = `split: training and held-out part need ${context + 1} bytes each (context ${context}), got ${bytes.length} bytes with ${wanted} held out; name more text, choose a smaller context or another heldOut`;
    throw new BinadeError("data.short", message);
  }
  const boundary = bytes.length - wanted;
  return { training: bytes.subarray(0, boundary), heldOut: bytes.subarray(boundary) };
}

/** Rows of `[batch, context]`, one per start; every start + context is an index of `bytes`. */
function readWindows(
  bytes: Uint8Array,
  starts: readonly number[],
  context: number,
  index: number,
  epoch: number,
): ByteBatch {
  const tokens = new Int32Array(starts.length * context);
  const targets = new Int32Array(starts.length * context);
  starts.forEach((start, row) => {
    tokens.set(bytes.subarray(start, start + context), row * context);
    targets.set(bytes.subarray(start + 1, start + 1 + context), row * context);
  });
  return { index, epoch, tokens, targets };
}
