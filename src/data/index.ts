/** Data sources: byte corpora, labelled sets, pictures, and their batches. */

export * from "./batches.ts";
export * from "./picture-batches.ts";
export {
  type ChannelStatistics,
  channelStatistics,
  normalize,
  type PictureSet,
  type Pictures,
  requirePictures,
  type SplitPicturesOptions,
  splitPictures,
} from "./pictures.ts";
export { type GeneratedShapesOptions, generatedShapes } from "./shapes.ts";
export type { BatchesOptions, IndexedSource, Source } from "./source.ts";
export * from "./tensor-batches.ts";
export { concatBytes, isBinary } from "./text.ts";
