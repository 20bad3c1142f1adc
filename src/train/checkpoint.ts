/** Checkpoints: every variable of a run, and what the run was, in one safetensors file that is replaced atomically. */
import { readFile } from "node:fs/promises";
import { BinadeError, listNames } from "../errors.ts";
import { sameShape, showShape } from "../ops/shape.ts";
import type { Variable } from "../tensor/variable.ts";
import { writeFileAtomic } from "./atomic.ts";
import { readError } from "./corpus.ts";
import { decodeSafetensors, encodeSafetensors, type SafetensorsFile, type SavedTensor } from "./safetensors.ts";

/** Identifies Binade's checkpoints among safetensors files. */
const FORMAT = "binade-checkpoint-1";

/** Variables by the name under which they are stored. Names are unique. */
export type NamedVariables = ReadonlyMap<string, Variable>;

/** What a checkpoint says about its run, besides the tensors. */
export interface RunRecord {
  /** Attempted steps when it was written. */
  readonly step: number;
  /** Skipped ones among them. */
  readonly skippedSteps: number;
  /** The settings that decide the run: whoever resumes it must have the same. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** What whoever wrote it wants to find again; not compared. */
  readonly notes: Readonly<Record<string, unknown>>;
}

export interface Checkpoint extends RunRecord {
  readonly path: string;
  readonly file: SafetensorsFile;
}

/**
 * Writes every variable and the run's record to `path`: temporary file, fsync, rename. What stood there before is whole
 * until the new file is.
 *
 * @returns bytes written.
 * @throws BinadeError `file.write`, with nothing changed.
 */
export async function saveCheckpoint(path: string, variables: NamedVariables, record: RunRecord): Promise<number> {
  const tensors = new Map<string, SavedTensor>();
  for (const [name, v] of variables) tensors.set(name, { dtype: v.dtype, shape: v.shape, bytes: await v.bytes() });
  const { step, skippedSteps, settings, notes } = record;
  const chunks = encodeSafetensors(tensors, {
    format: FORMAT,
    step: String(step),
    skippedSteps: String(skippedSteps),
    settings: JSON.stringify(settings),
    notes: JSON.stringify(notes),
  });
  await writeFileAtomic(path, chunks);
  return chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
}

/** @throws BinadeError `file.missing`, `file.unreadable`, or `checkpoint.corrupt` if it is damaged or not Binade's. */
export async function readCheckpoint(path: string): Promise<Checkpoint> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw readError(path, error);
  });
  const file = decodeSafetensors(bytes, path);
  const { metadata } = file;
  const [step, skippedSteps] = [countOf(metadata.step), countOf(metadata.skippedSteps)];
  const [settings, notes] = [recordOf(metadata.settings), recordOf(metadata.notes)];
  if (metadata.format !== FORMAT || step === null || skippedSteps === null || settings === null || notes === null) {
    throw new BinadeError(
      "checkpoint.corrupt",
      `${path}: expected the checkpoint of a Binade run, got a safetensors file without ${FORMAT} metadata; give the file that binade train wrote`,
    );
  }
  return { path, file, step, skippedSteps, settings, notes };
}

function countOf(text: string | undefined): number | null {
  const count = /^\d+$/.test(text ?? "") ? Number(text) : Number.NaN;
  return Number.isSafeInteger(count) ? count : null;
}

function recordOf(text: string | undefined): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(text ?? "");
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : null;
  } catch {
    return null;
  }
}

const OWN_SETTINGS = "resume with the settings that it was made with";

/**
 * A run continues with the settings that it began with: anything else would not be the same run.
 *
 * @throws BinadeError `checkpoint.mismatch` with both values of every setting that differs.
 */
export function requireSameSettings({ path, settings }: Checkpoint, now: RunRecord["settings"]): void {
  const keys = [...new Set([...Object.keys(settings), ...Object.keys(now)])];
  const show = (record: RunRecord["settings"], key: string): string => JSON.stringify(record[key]) ?? "not set";
  const differing = keys.filter((key) => show(settings, key) !== show(now, key));
  if (differing.length === 0) return;
  const parts = differing.map((key) => `${key} was ${show(settings, key)} and is ${show(now, key)}`);
  throw new BinadeError("checkpoint.mismatch", `${path}: ${parts.join("; ")}; ${OWN_SETTINGS}`);
}

/**
 * Loads every variable from the checkpoint. Everything is compared before anything is changed.
 *
 * @throws BinadeError `checkpoint.mismatch` naming the tensors that are missing, foreign, or of another shape or dtype.
 */
export async function restoreCheckpoint({ path, file }: Checkpoint, variables: NamedVariables): Promise<void> {
  const missing = [...variables.keys()].filter((name) => !file.tensors.has(name));
  const foreign = [...file.tensors.keys()].filter((name) => !variables.has(name));
  if (missing.length > 0 || foreign.length > 0) {
    const parts = [
      ...(missing.length > 0 ? [`lacks ${listNames(missing)}`] : []),
      ...(foreign.length > 0 ? [`holds ${listNames(foreign)}, which this run has not`] : []),
    ];
    throw new BinadeError("checkpoint.mismatch", `${path}: ${parts.join(" and ")}; ${OWN_SETTINGS}`);
  }
  const pairs = [...variables].flatMap(([name, variable]) => {
    const saved = file.tensors.get(name);
    return saved === undefined ? [] : [{ name, variable, saved }];
  });
  for (const { name, variable, saved } of pairs) {
    if (saved.dtype === variable.dtype && sameShape(saved.shape, variable.shape)) continue;
    const expected = `expected ${variable.dtype} ${showShape(variable.shape)}`;
    const sentence = `${name} is ${saved.dtype} ${showShape(saved.shape)}, ${expected}; ${OWN_SETTINGS}`;
    throw new BinadeError("checkpoint.mismatch", `${path}: ${sentence}`);
  }
  for (const { variable, saved } of pairs) await variable.load(saved.bytes);
}
