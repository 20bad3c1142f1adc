/** `binade/train`: the training loop, its events, checkpoints, generation. */

export { type Checkpoint, type RunRecord, readCheckpoint, restoreCheckpoint, saveCheckpoint } from "./checkpoint.ts";
export {
  type ClassificationTaskOptions,
  type Classifier,
  classificationTask,
  type PictureData,
} from "./classification.ts";
export { type Corpus, readBytes } from "./corpus.ts";
export { findDefaultCorpus } from "./default-corpus.ts";
export * from "./events.ts";
export { type CausalModel, type GenerateOptions, generate } from "./generate.ts";
export { EventLog, readEvents } from "./jsonl.ts";
export { type LanguageData, type LanguageModel, type LanguageTaskOptions, languageTask } from "./language.ts";
export { OPTIMIZER_NAMES, type OptimizerName } from "./optimizers.ts";
export { type LoadedPictures, type ReadPicturesOptions, readPictures } from "./pictures.ts";
export { PRECISIONS, PRESETS, type Precision, type PresetName, RESNET_PRESETS } from "./presets.ts";
export { decodeSafetensors, encodeSafetensors, type SavedTensor } from "./safetensors.ts";
export type {
  HostBatch,
  HostTensor,
  OptimizerChoice,
  Scores,
  Tally,
  Task,
  TaskEvaluation,
  TaskOptimizer,
  Throughput,
} from "./task.ts";
export { CHECKPOINT_FILE, type TrainOptions, train } from "./trainer.ts";
