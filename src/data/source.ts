/** Where batches come from: the interface that a trainer reads, and the one loop over batches known by their index. */

import { BinadeError } from "../errors.ts";
import { requireKnownKeys } from "../precision/options.ts";

/** Where to begin, and when to end. */
export type BatchesOptions = {
  /** Index of the first batch, ≥ 0. Default 0; a resumed run passes the number of attempted steps. */
  readonly from?: number;
  /** Ends the iteration, without an error, before the next batch. Default: never. */
  readonly signal?: AbortSignal;
};

/** A stream of batches. The same options give the same stream, so a run can resume exactly. */
export interface Source<B> {
  batches(options?: BatchesOptions): AsyncIterable<B>;
}

/**
 * A source that can be asked for any of its batches: `batch` is a pure function of the source's options and `index`.
 */
export interface IndexedSource<B> extends Source<B> {
  /** @throws BinadeError `index.outOfRange` unless `index` is an integer ≥ 0 below the number of batches. */
  batch(index: number): B;
}

/** Yields `batch(from)`, `batch(from + 1)`, … below `count`, until `signal` aborts. */
export function indexedBatches<B>(
  batch: (index: number) => B,
  count: number,
  options: BatchesOptions = {},
): AsyncGenerator<B, void, undefined> {
  requireKnownKeys("batches", options, ["from", "signal"]);
  return batchesFrom(batch, count, options);
}

async function* batchesFrom<B>(
  batch: (index: number) => B,
  count: number,
  { from = 0, signal }: BatchesOptions,
): AsyncGenerator<B, void, undefined> {
  for (let index = from; index < count && !signal?.aborted; index++) yield batch(index);
}

/** Requires that a batch of this index exists. */
export function requireIndex(subject: string, index: number, count: number): void {
  if (Number.isSafeInteger(index) && index >= 0 && index < count) return;
  const range = count === Number.POSITIVE_INFINITY ? "≥ 0" : `from 0 to ${count - 1}`;
  throw new BinadeError("index.outOfRange", `${subject}: expected a batch index ${range}, got ${index}`);
}
