/** `binade/train`: the training loop, its events, checkpoints, generation. */
export { type Checkpoint, type RunRecord, readCheckpoint, restoreCheckpoint, saveCheckpoint } from "./checkpoint.ts";
export { type Corpus, readBytes } from "./corpus.ts";
export { findDefaultCorpus } from "./default-corpus.ts";
export * from "./events.ts";
export { type CausalModel, type GenerateOptions, generate } from "./generate.ts";
export { EventLog, readEvents } from "./jsonl.ts";
export { type LoadedPictures, type ReadPicturesOptions, readPictures } from "./pictures.ts";
export { PRECISIONS, PRESETS, type Precision, type PresetName } from "./presets.ts";
export { decodeSafetensors, encodeSafetensors, type SavedTensor } from "./safetensors.ts";
export { CHECKPOINT_FILE, type TrainableModel, type TrainData, type TrainOptions, train } from "./trainer.ts";
