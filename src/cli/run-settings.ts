/** The settings of a `binade train` run: their flags, their defaults, and what a resumed run says about them. */
import { totalmem } from "node:os";
import { join } from "node:path";
import { Option } from "commander";
import { BinadeError } from "../errors.ts";
import { readCheckpoint } from "../train/checkpoint.ts";
import { PRECISIONS, PRESETS, type Precision, type PresetName } from "../train/presets.ts";
import { CHECKPOINT_FILE } from "../train/trainer.ts";
import { formatBytes } from "./format.ts";
import { integer, numberAbove, numberFrom, oneOf, type Parser } from "./options.ts";

/** What decides a run, besides its text. */
export interface RunSettings {
  readonly precision: Precision;
  readonly steps: number;
  readonly batch: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly context: number;
  readonly dropout: number;
}

interface Row<T> {
  /** The flag; without its dashes, the name under which the command line holds its value. */
  readonly flag: `--${string}`;
  readonly placeholder: string;
  readonly help: string;
  readonly values: Parser<T>;
}

type Key = keyof RunSettings;
const INT32_MAX = 2 ** 31 - 1;

const row = <T>(flag: `--${string}`, placeholder: string, values: Parser<T>, help: string): Row<T> => ({
  flag,
  placeholder,
  help,
  values,
});

/** Every setting, in the order of the help. */
const ROWS: { readonly [K in Key]: Row<RunSettings[K]> } = {
  precision: row("--precision", "name", oneOf(PRECISIONS), "what matrix products see; weights stay float32"),
  steps: row("--steps", "n", integer(1, INT32_MAX), "attempted steps of the whole run"),
  batch: row("--batch", "n", integer(1, 65536), "windows of text per step"),
  learningRate: row(
    "--lr",
    "rate",
    numberAbove(0, 10),
    "peak learning rate, after a warm-up and before a cosine decay",
  ),
  seed: row("--seed", "n", integer(0), "seed of weights, order of the data and dropout"),
  layers: row("--layers", "n", integer(1, 1000), "transformer blocks"),
  heads: row("--heads", "n", integer(1, 1000), "attention heads; they divide the width"),
  width: row("--width", "n", integer(1, 65536), "features per token"),
  context: row("--context", "n", integer(1, 65536), "tokens (bytes) that the model sees at once"),
  dropout: row("--dropout", "p", numberFrom(0, 0.99), "share of activations dropped while training"),
};

const KEYS = Object.keys(ROWS) as readonly Key[];
const PRESET_NAMES = Object.keys(PRESETS) as readonly PresetName[];
const PRESET: Parser<PresetName> = oneOf(PRESET_NAMES);
const DEFAULT_PRESET: PresetName = "s";

const defaultsOf = (preset: PresetName): RunSettings => ({
  precision: "bf16-mixed",
  seed: 0,
  dropout: 0,
  ...PRESETS[preset],
});

/** An option whose values a parser checks; `standard` says in words what goes without it. */
export function parsedOption(flags: string, values: Parser<unknown>, help: string, standard: string): Option {
  const [flag = ""] = flags.split(" ");
  const text = `${help}: ${values.range} (default: ${standard})`;
  return new Option(flags, text).argParser((value: string) => values.parse(flag, value));
}

/** The options of all settings, the preset first. */
export function settingOptions(): readonly Option[] {
  const options = KEYS.map((key) => {
    const { flag, placeholder, help, values } = ROWS[key];
    return parsedOption(`${flag} <${placeholder}>`, values, help, defaultText(key));
  });
  return [parsedOption("--preset <name>", PRESET, "size of model, batch and run", DEFAULT_PRESET), ...options];
}

function defaultText(key: Key): string {
  const [s, m] = [defaultsOf("s")[key], defaultsOf("m")[key]];
  return s === m ? `${s}` : `${s}, or ${m} in preset m`;
}

/** Values of flags by name; what the user left out is undefined. */
export type Flags = Readonly<Record<string, unknown>>;

/** What a checkpoint says about the run that `binade train` made. */
export interface SavedRun {
  readonly out: string;
  readonly settings: RunSettings;
  readonly preset: PresetName;
  /** SHA-256 of its text. */
  readonly dataSha256: string;
  /** The value of `--data`; null for the default text. */
  readonly dataPaths: readonly string[] | null;
}

/** @throws BinadeError as `readCheckpoint`; `checkpoint.mismatch` for a checkpoint that another program made with Binade. */
export async function readSavedRun(out: string): Promise<SavedRun> {
  const path = join(out, CHECKPOINT_FILE);
  const { settings, notes } = await readCheckpoint(path).catch((error: unknown) => {
    if (!(error instanceof BinadeError) || error.code !== "file.missing") throw error;
    throw new BinadeError(
      "file.missing",
      `${path}: expected a checkpoint to resume from, found none; give the --out of an earlier run, or leave out --resume`,
    );
  });
  const foreign = (name: string, value: unknown): BinadeError =>
    new BinadeError(
      "checkpoint.mismatch",
      `${path}: expected a run of binade train, got one whose ${name} is ${JSON.stringify(value) ?? "missing"}; resume it with the program that made it`,
    );
  const accepted = (name: string, values: Parser<unknown>, value: unknown): unknown => {
    try {
      if (values.parse(name, String(value)) === value) return value;
    } catch {
      // Another type, or out of range: foreign either way.
    }
    throw foreign(name, value);
  };
  const { dataSha256 } = settings;
  const { dataPaths } = notes;
  if (typeof dataSha256 !== "string") throw foreign("dataSha256", dataSha256);
  if (dataPaths !== null && !isTexts(dataPaths)) throw foreign("dataPaths", dataPaths);
  const entries = KEYS.map((key) => [key, accepted(key, ROWS[key].values, settings[key])]);
  const preset = accepted("preset", PRESET, notes.preset) as PresetName;
  return { out, settings: Object.fromEntries(entries) as RunSettings, preset, dataSha256, dataPaths };
}

const isTexts = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.every((part) => typeof part === "string");

/**
 * The settings of a run: flags first, then those of the run that is resumed, or of the preset.
 *
 * @throws BinadeError `option.invalid` for flags that contradict each other, or the run that is resumed; `value.range` for
 * a model that does not fit into this machine's memory.
 */
export function resolveSettings(
  flags: Flags,
  saved: SavedRun | null,
): { readonly preset: PresetName; readonly settings: RunSettings } {
  const preset = (flags.preset as PresetName | undefined) ?? saved?.preset ?? DEFAULT_PRESET;
  if (saved !== null) requireNoConflict(flags, saved);
  const defaults = saved?.settings ?? defaultsOf(preset);
  const entries = KEYS.map((key) => [key, flags[ROWS[key].flag.slice(2)] ?? defaults[key]]);
  const settings = Object.fromEntries(entries) as RunSettings;
  requireModel(settings);
  return { preset, settings };
}

function requireNoConflict(flags: Flags, { out, settings, preset }: SavedRun): void {
  const rows = KEYS.map((key) => ({ flag: ROWS[key].flag, saved: settings[key] }));
  for (const { flag, saved } of [{ flag: "--preset", saved: preset }, ...rows]) {
    const given = flags[flag.slice(2)];
    if (given === undefined || given === saved) continue;
    throw new BinadeError(
      "option.invalid",
      `${flag}: the run in ${out} has ${saved}, got ${given}; leave out ${flag} to resume it, or start another run with another --out`,
    );
  }
}

/** Bytes of a parameter: float32 weight, two moments and a gradient. */
const BYTES_PER_PARAMETER = 16;

function requireModel({ heads, width, layers, context }: RunSettings): void {
  if (width % heads !== 0) {
    throw new BinadeError(
      "option.invalid",
      `--heads: expected a divisor of the width ${width}, got ${heads}; change --heads or --width`,
    );
  }
  // Four products of width × width in attention, two of width × 4 width after it; embeddings of 256 bytes and of positions.
  const byteLength = BYTES_PER_PARAMETER * (12 * layers * width ** 2 + (512 + context) * width);
  if (byteLength <= totalmem()) return;
  throw new BinadeError(
    "value.range",
    `--width: a model of ${layers} layers and width ${width} takes ${formatBytes(byteLength)}, this machine has ${formatBytes(totalmem())}; choose a smaller --width or fewer --layers`,
  );
}
