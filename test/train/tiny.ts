/** A tiny training run, and folders for it that vanish after the test. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import { ByteBatches, EvaluationBatches, split } from "../../src/data/index.ts";
import { BinadeError, nn } from "../../src/index.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import {
  type LanguageData,
  type LanguageModel,
  type LanguageTaskOptions,
  languageTask,
} from "../../src/train/language.ts";
import { CHECKPOINT_FILE, type TrainOptions, train } from "../../src/train/trainer.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** A fresh folder, removed after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "binade-train-"));
  folders.push(folder);
  return folder;
}

export const CONTEXT = 8;
export const BATCH = 2;
const TEXT = new TextEncoder().encode("the quick brown fox jumps over the lazy dog, and ".repeat(40));

/** Training and held-out batches of the tiny text. */
export function tinyData(
  training: (bytes: Uint8Array) => ByteBatches = (bytes) => new ByteBatches(bytes, { batch: BATCH, context: CONTEXT }),
): LanguageData {
  const parts = split(TEXT, { context: CONTEXT });
  const evaluation = new EvaluationBatches(parts.heldOut, { batch: BATCH, context: CONTEXT, batches: 2 });
  return { name: "fox", byteLength: TEXT.length, sha256: "00", training: training(parts.training), evaluation };
}

export const DIMENSIONS = { vocabulary: 256, context: CONTEXT, layers: 1, heads: 2, width: 16 } as const;

export const tinyModel = (options: Partial<nn.GPTOptions> = {}): LanguageModel =>
  new nn.GPT({ ...DIMENSIONS, ...options });

/** What a tiny run may have instead of its own. */
export type TinyOptions = Partial<TrainOptions> & Partial<LanguageTaskOptions>;

/** Options of a run of 6 steps; every call makes a model of its own. */
export function tinyRun({
  model = tinyModel(),
  data = tinyData(),
  settings = {},
  ...options
}: TinyOptions = {}): TrainOptions {
  const task = languageTask({ model, data, settings });
  return { task, precision: "fp32", steps: 6, learningRate: 1e-2, evaluateEvery: 3, ...options };
}

/** Every event of a run; with `stopAfter`, the consumer leaves the loop after the step event of that step. */
export async function eventsOf(options: TrainOptions, stopAfter?: number): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train(options)) {
    events.push(event);
    if (event.type === "step" && event.step === stopAfter) break;
  }
  return events;
}

/** The bytes of the checkpoint in `folder`. */
export const checkpointOf = (folder: string): string => readFileSync(join(folder, CHECKPOINT_FILE)).toString("base64");

/** The events of one type. */
export const ofType = <T extends TrainEvent["type"]>(events: readonly TrainEvent[], type: T) =>
  events.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type);

/** The error that ended `work`, which must be a BinadeError. */
export async function refusal(work: Promise<unknown>): Promise<BinadeError> {
  const outcome: unknown = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome instanceof BinadeError) return outcome;
  throw new Error("expected a BinadeError", { cause: outcome });
}
