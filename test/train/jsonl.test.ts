/** Event lines and the append-only log: every number survives, and so does a log whose writer died. */

import {
  appendFileSync,
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { EVENT_TYPES, type StepEvent, type TrainEvent } from "../../src/train/events.ts";
import { decodeEvent, EventLog, encodeEvent, type LogFileSystem, readEvents } from "../../src/train/jsonl.ts";

let path = "";
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "binade-log-"));
  path = join(folder, "events.jsonl");
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

const step = (index: number, loss = 2.5): StepEvent => ({
  type: "step",
  step: index,
  loss,
  learningRate: 1e-3,
  gradientNorm: Number.POSITIVE_INFINITY,
  lossScale: 65536,
  tokensPerSecond: 1234.5,
  elapsedMs: 10 * index,
  skippedSteps: 0,
});

const EVENTS: readonly TrainEvent[] = [
  {
    type: "started",
    step: 0,
    model: { parameters: 1000, layers: 2, name: "gpt", tied: true },
    precision: "fp16-mixed",
    device: "cpu",
    threads: 2,
    seed: 1,
    steps: 10,
    batch: 4,
    context: 16,
    data: { name: "NaN", byteLength: 100, sha256: "00" },
  },
  step(1, Number.NaN),
  step(2, Number.NEGATIVE_INFINITY),
  {
    type: "skipped",
    step: 3,
    reason: "gradientOverflow",
    parameters: ["a", "NaN"],
    lossScaleBefore: 2,
    lossScaleAfter: 1,
  },
  {
    type: "metered",
    step: 4,
    gradients: [
      {
        name: "NaN",
        size: 8,
        zeroShare: 0,
        belowSubnormalShare: 0.25,
        belowNormalShare: 0.5,
        aboveLargestShare: 0,
        nonFiniteShare: 0.125,
        lostUpdateShare: 1,
      },
    ],
    elapsedMs: 4,
  },
  { type: "evaluated", step: 4, heldOutLoss: Number.NaN, bitsPerByte: Number.NaN, elapsedMs: 5 },
  { type: "checkpointed", step: 5, path: "a\n\u2028b", byteLength: 3, elapsedMs: 6 },
  { type: "warning", step: 6, code: "Infinity", message: "Infinity" },
  {
    type: "done",
    step: 7,
    loss: null,
    heldOutLoss: null,
    elapsedMs: 8,
    tokensPerSecond: 9,
    skippedSteps: 1,
    reason: "finished",
    sample: "NaN",
  },
];

describe("encodeEvent and decodeEvent", () => {
  it("cover every type", () => {
    expect(new Set(EVENTS.map((event) => event.type))).toEqual(new Set(EVENT_TYPES));
  });

  it.each(EVENTS.map((event) => [event.type, event] as const))("give back a %s event from one line", (_, event) => {
    const line = encodeEvent(event);
    expect(line).not.toContain("\n");
    expect(decodeEvent(line)).toEqual(event);
  });

  it("writes numbers which JSON lacks as strings", () => {
    expect(JSON.parse(encodeEvent(step(1, Number.NaN)))).toMatchObject({ loss: "NaN", gradientNorm: "Infinity" });
  });

  it.each([
    "",
    "{",
    "null",
    "[]",
    "3",
    '{"type":"step"}',
    '{"type":"other","step":1}',
    '{"type":"step","step":0.5}',
  ])("find no event in %j", (line) => {
    expect(decodeEvent(line)).toBeUndefined();
  });
});

describe("EventLog", () => {
  const write = (events: readonly TrainEvent[], fileSystem?: LogFileSystem): void => {
    const log = new EventLog(path, fileSystem);
    for (const event of events) log.write(event);
    log.close();
  };

  it("appends to what is there", async () => {
    write(EVENTS.slice(0, 3));
    write(EVENTS.slice(3));
    expect(await readEvents(path)).toEqual({ events: EVENTS, isTorn: false });
  });

  it("survives a writer that died at any byte of its last line", async () => {
    write([step(1), step(2)]);
    const whole = readFileSync(path);
    const firstLength = whole.indexOf("\n") + 1;
    for (let length = firstLength; length < whole.length; length++) {
      writeFileSync(path, whole.subarray(0, length));
      expect(await readEvents(path)).toEqual({ events: [step(1)], isTorn: length > firstLength });
      write([step(3)]);
      expect((await readEvents(path)).events).toEqual([step(1), step(3)]);
    }
  });

  it.each([1, 4095, 4096, 4097, 9000])("cuts off a torn line of %i bytes", async (length) => {
    write([step(1)]);
    appendFileSync(path, "x".repeat(length));
    write([step(2)]);
    expect(await readEvents(path)).toEqual({ events: [step(1), step(2)], isTorn: false });
    writeFileSync(path, "x".repeat(length));
    write([step(3)]);
    expect((await readEvents(path)).events).toEqual([step(3)]);
  });

  it("writes a line in as many pieces as the system takes", async () => {
    const piecewise: LogFileSystem = {
      openSync,
      closeSync,
      writeSync: (file, bytes, at) => writeSync(file, bytes.subarray(at, at + 7)),
    };
    write(EVENTS, piecewise);
    expect((await readEvents(path)).events).toEqual(EVENTS);
  });

  it("says why it cannot write", () => {
    const full: LogFileSystem = {
      openSync,
      closeSync,
      writeSync: () => {
        throw Object.assign(new Error("full"), { code: "ENOSPC" });
      },
    };
    expect(() => write([step(1)], full)).toThrow(expect.objectContaining({ code: "file.write" }));
    expect(() => write([step(1)], full)).toThrow(/no space left on the device/);
    expect(() => new EventLog(join(folder, "no", "log"))).toThrow(/its folder does not exist/);
  });
});

describe("readEvents", () => {
  it("names the line that is no event", async () => {
    writeFileSync(path, `${encodeEvent(step(1))}\nnonsense\n${encodeEvent(step(2))}\n`);
    await expect(readEvents(path)).rejects.toThrow(/line 2: expected one event as JSON, got "nonsense"/);
  });

  it("reads an empty log, and names a missing one", async () => {
    writeFileSync(path, "");
    expect(await readEvents(path)).toEqual({ events: [], isTorn: false });
    await expect(readEvents(join(folder, "other"))).rejects.toMatchObject({ code: "file.missing" });
  });
});
