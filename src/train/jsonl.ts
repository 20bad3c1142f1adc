/** Events as JSON lines: a log that is only ever appended to and survives a run that dies while writing. */

import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { BinadeError } from "../errors.ts";
import { fileWriteError } from "./atomic.ts";
import { readError } from "./corpus.ts";
import { EVENT_TYPES, type TrainEvent } from "./events.ts";

/** Fields that may hold NaN or an infinity, which JSON cannot: they are written as strings. */
const NON_FINITE_FIELDS: ReadonlySet<string> = new Set([
  "loss",
  "gradientNorm",
  "learningRate",
  "lossScale",
  "lossScaleBefore",
  "lossScaleAfter",
  "tokensPerSecond",
  "picturesPerSecond",
  "heldOutLoss",
  "bitsPerByte",
  "elapsedMs",
]);

const NON_FINITE_VALUES: ReadonlyMap<unknown, number> = new Map([
  ["NaN", Number.NaN],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["-Infinity", Number.NEGATIVE_INFINITY],
]);

/**
 * An event as one line of JSON without the line break; numbers that are not finite become `"NaN"`, `"Infinity"`,
 * `"-Infinity"`.
 */
export function encodeEvent(event: TrainEvent): string {
  return JSON.stringify(event, (_, value: unknown) =>
    typeof value === "number" && !Number.isFinite(value) ? String(value) : value,
  );
}

/** The event of one line, or nothing where the line is not a whole event of a known type. */
export function decodeEvent(line: string): TrainEvent | undefined {
  try {
    const value: unknown = JSON.parse(line, (key, field: unknown) =>
      NON_FINITE_FIELDS.has(key) ? (NON_FINITE_VALUES.get(field) ?? field) : field,
    );
    return isEvent(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The system calls of an event log; the default is `node:fs`. */
export type LogFileSystem = {
  readonly openSync: (path: string, flags: string) => number;
  readonly writeSync: (file: number, bytes: Uint8Array, offset: number) => number;
  readonly closeSync: (file: number) => void;
};

const NODE_FILE_SYSTEM: LogFileSystem = {
  openSync,
  writeSync: (file, bytes, at) => writeSync(file, bytes, at),
  closeSync,
};

/**
 * Appends events to a file, which is made if it is missing. Each event is with the operating system when `write`
 * returns, so a process that dies loses none. A torn line at the end of an existing file, left by such a death, is cut
 * off first.
 *
 * @throws BinadeError `file.write` with the path, the reason and the fix.
 * @example
 * const log = new EventLog("runs/gpt/events.jsonl");
 * for await (const event of run) log.write(event);
 * log.close();
 */
export class EventLog {
  readonly path: string;
  readonly #file: number;
  readonly #fileSystem: LogFileSystem;

  constructor(path: string, fileSystem: LogFileSystem = NODE_FILE_SYSTEM) {
    this.path = path;
    this.#fileSystem = fileSystem;
    this.#file = this.#guard(() => fileSystem.openSync(path, "a+"));
    this.#guard(() => cutTornLine(this.#file));
  }

  write(event: TrainEvent): void {
    const line = new TextEncoder().encode(`${encodeEvent(event)}\n`);
    // A full disk may take a part of the line before it refuses the rest.
    for (let written = 0; written < line.length; ) {
      const offset = written;
      written += this.#guard(() => this.#fileSystem.writeSync(this.#file, line, offset));
    }
  }

  close(): void {
    this.#guard(() => this.#fileSystem.closeSync(this.#file));
  }

  #guard<T>(call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw fileWriteError(this.path, error);
    }
  }
}

/** What a log holds. */
export type EventLogContent = {
  readonly events: readonly TrainEvent[];
  /** Whether the last line was torn, and therefore left out. */
  readonly isTorn: boolean;
};

/**
 * Reads a log. Its last line may be torn.
 *
 * @throws BinadeError `file.missing`; `file.unreadable`, also where any other line is not an event, with its number.
 */
export async function readEvents(path: string): Promise<EventLogContent> {
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    throw readError(path, error);
  });
  const lines = text.split("\n");
  const last = lines.pop() ?? "";
  const events = lines.map((line, index) => {
    const event = decodeEvent(line);
    if (event !== undefined) return event;
    const message = `${path}: line ${index + 1}: expected one event as JSON, got ${JSON.stringify(line.slice(0, 60))}; remove the line or choose the log of another run`;
    throw new BinadeError("file.unreadable", message);
  });
  return { events, isTorn: last !== "" };
}

/** Every line is written with its line break at once, so what follows the last line break is a torn line. */
function cutTornLine(file: number): void {
  const { size } = fstatSync(file);
  const block = new Uint8Array(4096);
  for (let end = size; end > 0; ) {
    const begin = Math.max(0, end - block.length);
    const count = readSync(file, block, 0, end - begin, begin);
    const lineBreak = block.subarray(0, count).lastIndexOf(0x0a);
    if (lineBreak >= 0 || begin === 0) {
      const kept = lineBreak >= 0 ? begin + lineBreak + 1 : 0;
      if (kept < size) ftruncateSync(file, kept);
      return;
    }
    end = begin;
  }
}

function isEvent(value: unknown): value is TrainEvent {
  if (typeof value !== "object" || value === null || !("type" in value) || !("step" in value)) return false;
  const types: readonly unknown[] = EVENT_TYPES;
  return types.includes(value.type) && Number.isSafeInteger(value.step);
}
