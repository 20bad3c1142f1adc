/** Data sources: byte corpora, labelled sets, and their batches. */

export * from "./batches.ts";
export type { BatchesOptions, IndexedSource, Source } from "./source.ts";
export * from "./tensor-batches.ts";
export { concatBytes, isBinary } from "./text.ts";
