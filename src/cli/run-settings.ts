/** The settings of a `binade train` run: their flags, their defaults, and what a resumed run says about them. */
import { join } from "node:path";
import { Option } from "commander";
import { BinadeError } from "../errors.ts";
import { readCheckpoint } from "../train/checkpoint.ts";
import { OPTIMIZER_NAMES, OPTIMIZERS } from "../train/optimizers.ts";
import { CHECKPOINT_FILE } from "../train/trainer.ts";
import { DEFAULT_MODEL, MODELS } from "./models/index.ts";
import type { CommonSettings, ModelKind, SettingRow } from "./models/kind.ts";
import { oneOf, type Parser } from "./options.ts";

/** The rows of a model by name; every name is one of its settings. */
const rowsOf = (kind: ModelKind): readonly (readonly [key: string, row: SettingRow<unknown>])[] =>
  Object.entries(kind.rows);

const settingOf = (settings: CommonSettings, key: string): unknown => new Map(Object.entries(settings)).get(key);

const MODEL: Parser<string> = oneOf(MODELS.map(({ name }) => name));
const PRESET: Parser<string> = oneOf([...new Set(MODELS.flatMap(({ presets }) => Object.keys(presets)))]);
const DEFAULT_PRESET = Object.keys(DEFAULT_MODEL.presets)[0] ?? "";

/** An option whose values a parser checks; `standard` says in words what goes without it. */
export function parsedOption(flags: string, values: Parser<unknown>, help: string, standard: string): Option {
  const [flag = ""] = flags.split(" ");
  const text = `${help}: ${values.range} (default: ${standard})`;
  return new Option(flags, text).argParser((value: string) => values.parse(flag, value));
}

/** The options of all settings of all models, model and preset first. */
export function settingOptions(): readonly Option[] {
  const rows = new Map(MODELS.flatMap((kind) => rowsOf(kind)).map(([key, row]) => [row.flag, { key, row }]));
  const options = [...rows.values()].map(({ key, row: { flag, placeholder, help, values } }) =>
    parsedOption(`${flag} <${placeholder}>`, values, help, defaultText(key)),
  );
  return [
    parsedOption("--model <name>", MODEL, "what to train", DEFAULT_MODEL.name),
    parsedOption("--preset <name>", PRESET, "size of model, batch and run", DEFAULT_PRESET),
    ...options,
  ];
}

/** "2000", "2e-3, or 1e-3 in preset m", or one of these for each model. */
function defaultText(key: string): string {
  const owners = MODELS.filter((kind) => key in kind.rows);
  const texts = owners.map(({ name, presets }) => {
    const [[, first] = ["", undefined], ...others] = Object.entries(presets).map(
      ([preset, settings]) => [preset, `${settingOf(settings, key)}`] as const,
    );
    const differing = others.filter(([, value]) => value !== first);
    return { name, text: [first, ...differing.map(([preset, value]) => `or ${value} in preset ${preset}`)].join(", ") };
  });
  const [standard, ...others] = texts;
  const differing = others.filter(({ text }) => text !== standard?.text);
  return [standard?.text, ...differing.map(({ name, text }) => `${name}: ${text}`)].join("; ");
}

/** Values of flags by name; what the user left out is undefined. */
export type Flags = Readonly<Record<string, unknown>>;

/** What a checkpoint says about the run that `binade train` made. */
export interface SavedRun {
  readonly out: string;
  readonly kind: ModelKind;
  readonly settings: CommonSettings;
  readonly preset: string;
  /** SHA-256 of its data. */
  readonly dataSha256: string;
  /** The value of `--data`; null for the model's own default. */
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
  const kind = MODELS.find(({ name }) => name === settings.kind);
  if (kind === undefined) throw foreign("kind", settings.kind);
  if (typeof dataSha256 !== "string") throw foreign("dataSha256", dataSha256);
  if (dataPaths !== null && !isTexts(dataPaths)) throw foreign("dataPaths", dataPaths);
  const entries = rowsOf(kind).map(([key, row]) => [key, accepted(key, row.values, settings[key])]);
  const preset = accepted("preset", oneOf(Object.keys(kind.presets)), notes.preset) as string;
  return { out, kind, settings: Object.fromEntries(entries) as CommonSettings, preset, dataSha256, dataPaths };
}

const isTexts = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.every((part) => typeof part === "string");

/** What a run is made of. */
export interface ResolvedRun {
  readonly kind: ModelKind;
  readonly preset: string;
  readonly settings: CommonSettings;
}

/**
 * The settings of a run: flags first, then those of the run that is resumed, or of the preset.
 *
 * @throws BinadeError `option.invalid` or `value.range` for flags that contradict each other, the model, or the run that is
 * resumed.
 */
export function resolveSettings(flags: Flags, saved: SavedRun | null): ResolvedRun {
  if (saved !== null) requireNoConflict(flags, saved);
  const kind = saved?.kind ?? MODELS.find(({ name }) => name === flags.model) ?? DEFAULT_MODEL;
  requireOwnFlags(flags, kind);
  const preset = (flags.preset as string | undefined) ?? saved?.preset ?? Object.keys(kind.presets)[0] ?? "";
  const defaults = saved?.settings ?? kind.presets[preset];
  if (defaults === undefined) {
    const names = Object.keys(kind.presets).join(", ");
    throw new BinadeError(
      "option.invalid",
      `--preset: expected one of ${names} for ${kind.name}, got ${JSON.stringify(preset)}`,
    );
  }
  const standard = saved === null ? withRateOf(defaults, flags.optimizer) : defaults;
  const entries = rowsOf(kind).map(([key, { flag }]) => [key, flags[nameOf(flag)] ?? settingOf(standard, key)]);
  const settings = Object.fromEntries(entries) as CommonSettings;
  kind.check(settings);
  return { kind, preset, settings };
}

/** A preset's learning rate is that of its optimizer: another one's is as many times larger or smaller as their rates are. */
function withRateOf(preset: CommonSettings, optimizer: unknown): CommonSettings {
  const chosen = OPTIMIZER_NAMES.find((name) => name === optimizer) ?? preset.optimizer;
  const rate = (preset.learningRate * OPTIMIZERS[chosen].rate) / OPTIMIZERS[preset.optimizer].rate;
  // As it is written, not as the product of two rounded decimals comes out.
  return { ...preset, learningRate: Number(rate.toPrecision(12)) };
}

/** The name under which the command line holds the value of a flag. */
const nameOf = (flag: string): string => flag.slice(2);

const flagsOf = (kind: ModelKind): readonly string[] => [...rowsOf(kind).map(([, { flag }]) => flag), ...kind.ownFlags];

/** A flag that means nothing to this model is a mistake, whatever its value. */
function requireOwnFlags(flags: Flags, kind: ModelKind): void {
  for (const other of MODELS) {
    const foreign = flagsOf(other).find((flag) => flags[nameOf(flag)] !== undefined && !flagsOf(kind).includes(flag));
    if (foreign === undefined) continue;
    throw new BinadeError(
      "option.invalid",
      `${foreign}: expected an option of ${kind.name}, got one of ${other.name}; leave it out, or choose --model ${other.name}`,
    );
  }
}

function requireNoConflict(flags: Flags, { out, kind, settings, preset }: SavedRun): void {
  const rows = rowsOf(kind).map(([key, { flag }]) => ({ flag, saved: settingOf(settings, key) }));
  const all = [{ flag: "--model", saved: kind.name }, { flag: "--preset", saved: preset }, ...rows];
  for (const { flag, saved } of all) {
    const given = flags[nameOf(flag)];
    if (given === undefined || given === saved) continue;
    throw new BinadeError(
      "option.invalid",
      `${flag}: the run in ${out} has ${saved}, got ${given}; leave out ${flag} to resume it, or start another run with another --out`,
    );
  }
}
