/** Checkpoints: every variable of a run, and what the run was, in one safetensors file that is replaced atomically. */
import { readFile } from "node:fs/promises";
import { BinadeError } from "../errors.ts";
import { sameShape, showShape } from "../ops/shape.ts";
import type { Variable } from "../tensor/variable.ts";
import { writeFileAtomic } from "./atomic.ts";
import { readError } from "./corpus.ts";
import { decodeSafetensors, encodeSafetensors, type SafetensorsFile, type SavedTensor } from "./safetensors.ts";

/** Identifies Binade's checkpoints among safetensors files. */
const FORMAT = "binade-checkpoint-1";

/** Variables by the name under which they are stored. Names are unique. */
export type NamedVariables = ReadonlyMap<string, Variable>;

export interface Checkpoint {
  readonly path: string;
  readonly file: SafetensorsFile;
  /** Attempted steps when it was written. */
  readonly step: number;
  /** The settings of the run, as it was started. */
  readonly settings: Readonly<Record<string, unknown>>;
}

/**
 * Writes every variable and the run's settings to `path`: temporary file, fsync, rename. What stood there before is whole
 * until the new file is.
 *
 * @returns bytes written.
 * @throws BinadeError `file.write`, with nothing changed.
 */
export async function saveCheckpoint(path: string, variables: NamedVariables, step: number, settings: Readonly<Record<string, unknown>>): Promise<number> {
  const tensors = new Map<string, SavedTensor>();
  for (const [name, v] of variables) tensors.set(name, { dtype: v.dtype, shape: v.shape, bytes: await v.bytes() });
  const chunks = encodeSafetensors(tensors, { format: FORMAT, step: String(step), settings: JSON.stringify(settings) });
  await writeFileAtomic(path, chunks);
  return chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
}

/** @throws BinadeError `file.missing`, `file.unreadable`, or `checkpoint.corrupt` if it is damaged or not Binade's. */
export async function readCheckpoint(path: string): Promise<Checkpoint> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw readError(path, error);
  });
  const file = decodeSafetensors(bytes, path);
  const step = Number(file.metadata.step);
  const settings = parseSettings(file.metadata.settings);
  if (file.metadata.format !== FORMAT || !Number.isSafeInteger(step) || step < 0 || settings === null) {
    throw new BinadeError("checkpoint.corrupt", `${path}: not a checkpoint of a Binade run (no ${FORMAT} metadata); give the file that binade train wrote`);
  }
  return { path, file, step, settings };
}

function parseSettings(text: string | undefined): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(text ?? "");
    return typeof value === "object" && value !== null ? { ...value } : null;
  } catch {
    return null;
  }
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
    const parts = [missing.length > 0 ? `lacks ${list(missing)}` : "", foreign.length > 0 ? `holds ${list(foreign)}, which this run has not` : ""];
    throw new BinadeError("checkpoint.mismatch", `${path}: ${parts.filter((p) => p !== "").join(" and ")}; resume with the settings that it was made with`);
  }
  for (const [name, v] of variables) {
    const saved = file.tensors.get(name);
    if (saved !== undefined && (saved.dtype !== v.dtype || !sameShape(saved.shape, v.shape))) {
      throw new BinadeError("checkpoint.mismatch", `${path}: ${name} is ${saved.dtype} ${showShape(saved.shape)}, expected ${v.dtype} ${showShape(v.shape)}; resume with the settings that it was made with`);
    }
  }
  for (const [name, v] of variables) {
    const saved = file.tensors.get(name);
    if (saved !== undefined) await v.load(saved.bytes);
  }
}

const list = (names: readonly string[]): string => names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
