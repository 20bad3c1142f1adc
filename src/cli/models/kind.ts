/** A kind of model as data: what `binade train` must know of it. The command itself knows no model by name. */
import { BinadeError } from "../../errors.ts";
import { STATE_DTYPES, type StateDType } from "../../optim/states.ts";
import { MASTER_WEIGHTS, type MasterWeights } from "../../optim/weights.ts";
import type { Fp8Scaling } from "../../precision/fp8-recipe.ts";
import type { SkippedFile } from "../../train/corpus.ts";
import { OPTIMIZER_NAMES, type OptimizerName } from "../../train/optimizers.ts";
import type { Precision } from "../../train/presets.ts";
import { PRECISIONS } from "../../train/presets.ts";
import type { Task } from "../../train/task.ts";
import { integer, numberAbove, oneOf, type Parser } from "../options.ts";

/** One setting: its flag, its values, and what it means. */
export interface SettingRow<T> {
  /** The flag; without its dashes, the name under which the command line holds its value. */
  readonly flag: `--${string}`;
  readonly placeholder: string;
  readonly help: string;
  readonly values: Parser<T>;
}

/** Kinds of scaling into 8 bits, with the defaults of a recipe. */
const FP8 = ["off", "current", "delayed", "block"] as const satisfies readonly ("off" | Fp8Scaling["kind"])[];

/** What decides a run of any model, besides its data. */
export interface CommonSettings {
  readonly precision: Precision;
  readonly optimizer: OptimizerName;
  readonly steps: number;
  readonly batch: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly masterWeights: MasterWeights;
  readonly stateDType: StateDType;
  readonly fp8: (typeof FP8)[number];
}

/** Every setting of a model, by name, in the order of the help. */
export type SettingRows<S> = { readonly [K in keyof S]: SettingRow<S[K]> };

/** What a model is given to begin with. */
export interface RunRequest<S> {
  readonly settings: S;
  /** What the user named, or the run that is resumed was made with; null for the model's own default. */
  readonly paths: readonly string[] | null;
  /** Length of the text to write at the end, where the model writes one. */
  readonly sample: number;
}

/** A run that is ready to begin. */
export interface PreparedRun {
  readonly task: Task;
  /** What was left out of named folders. */
  readonly skipped: readonly SkippedFile[];
  /** What the trained model does at the end: a word for the reader, and the text that it writes; null for nothing. */
  readonly finale: { readonly note: string; readonly write: (signal: AbortSignal) => Promise<string> } | null;
}

/** A row of the table of models. */
export interface ModelKind<S extends CommonSettings = CommonSettings> {
  readonly name: string;
  /** What it learns from what, for the help. */
  readonly title: string;
  readonly rows: SettingRows<S>;
  /** Sizes of model, batch and run, complete; the first is the default. */
  readonly presets: Readonly<Record<string, S>>;
  /** Flags that are no settings and make sense for this model only. */
  readonly ownFlags: readonly `--${string}`[];
  /** Flags whose smaller values make what depends on a batch smaller, and those that make the model smaller. */
  readonly batchFlags: readonly `--${string}`[];
  readonly modelFlags: readonly `--${string}`[];
  /** What a set of data of this model is called in sentences: "text". */
  readonly dataNoun: string;
  /** Dimensions of a preset, for the help. */
  describe(preset: S): string;
  /** @throws BinadeError `option.invalid` or `value.range` for settings that contradict each other. */
  check(settings: S): void;
  /** Reads the data and makes the model. */
  prepare(request: RunRequest<S>): Promise<PreparedRun>;
}

const INT32_MAX = 2 ** 31 - 1;

export const row = <T>(flag: `--${string}`, placeholder: string, values: Parser<T>, help: string): SettingRow<T> => ({
  flag,
  placeholder,
  help,
  values,
});

/** Settings that all models and presets share. */
export const COMMON_DEFAULTS = {
  precision: "bf16-mixed",
  seed: 0,
  masterWeights: "float32",
  stateDType: "float32",
  fp8: "off",
} as const satisfies Partial<CommonSettings>;

/** The rows that all models share. */
export const COMMON_ROWS: SettingRows<CommonSettings> = {
  precision: row("--precision", "name", oneOf(PRECISIONS), "what matrix products see"),
  optimizer: row("--optimizer", "name", oneOf(OPTIMIZER_NAMES), "what updates the weights; --lr follows it"),
  steps: row("--steps", "n", integer(1, INT32_MAX), "attempted steps of the whole run"),
  batch: row("--batch", "n", integer(1, 65536), "windows of text, or pictures, per step"),
  learningRate: row(
    "--lr",
    "rate",
    numberAbove(0, 10),
    "peak learning rate, after a warm-up and before a cosine decay",
  ),
  seed: row("--seed", "n", integer(0), "seed of weights, order of the data and what is random in training"),
  masterWeights: row(
    "--master-weights",
    "form",
    oneOf(MASTER_WEIGHTS),
    "how float32 weights are kept; other than float32: behind 16-bit parameters",
  ),
  stateDType: row("--optimizer-state", "form", oneOf(STATE_DTYPES), "how the optimizer's moments are kept"),
  fp8: row("--fp8", "scaling", oneOf(FP8), "accuracy study, at no speed: inner layers multiply what 8 bits hold"),
};

/** The refusal of data that a resumed run was not made with. */
export function otherData(out: string, noun: string, before: string, data: Task["data"]): BinadeError {
  return new BinadeError(
    "checkpoint.mismatch",
    `${out}: the run was trained on ${noun} with SHA-256 ${before}, ${data.name} has ${data.sha256}; name the same ${noun} with --data`,
  );
}
