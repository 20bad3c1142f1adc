/** A disk that fills up in the middle of a run: the run ends with one sentence, and the last checkpoint is whole. */
import { readdirSync } from "node:fs";
import type * as fs from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { useDevice } from "../../src/index.ts";
import { readCheckpoint } from "../../src/train/checkpoint.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { CHECKPOINT_FILE, train } from "../../src/train/trainer.ts";
import { DEVICES } from "../support/devices.ts";
import { checkpointOf, eventsOf, refusal, temporaryFolder, tinyRun } from "./tiny.ts";

/** Files that can still be opened for writing; the next one takes its header and then reports a full disk. */
const disk = vi.hoisted(() => ({ filesLeft: Number.POSITIVE_INFINITY, code: "ENOSPC" }));

vi.mock("node:fs/promises", async (importActual) => {
  const actual = await importActual<typeof fs>();
  const open: typeof fs.open = async (path, flags, mode) => {
    const file = await actual.open(path, flags, mode);
    if (flags !== "wx" || disk.filesLeft-- > 0) return file;
    const writeFile = file.writeFile.bind(file);
    let chunks = 0;
    file.writeFile = async (...args) => {
      if (chunks++ > 0) throw Object.assign(new Error("injected"), { code: disk.code });
      await writeFile(...args);
    };
    return file;
  };
  return { ...actual, open };
});

beforeAll(() => {
  useDevice(DEVICES.includes("cpu") ? "cpu" : "reference");
});

describe("a full disk", () => {
  it.each([
    ["ENOSPC", 2, 2, /no space left on the device; free some space/],
    ["EDQUOT", 3, 4, /quota is used up; free some space/],
  ] as const)("(%s at file %i) leaves the checkpoint of step %i", async (code, filesLeft, savedStep, sentence) => {
    const [out, whole] = [temporaryFolder(), temporaryFolder()];
    Object.assign(disk, { filesLeft, code });
    const events: TrainEvent[] = [];
    const error = await refusal(
      (async () => {
        for await (const event of train(tinyRun({ out, checkpointEvery: 2 }))) events.push(event);
      })(),
    );
    disk.filesLeft = Number.POSITIVE_INFINITY;
    expect(error.code).toBe("file.write");
    expect(error.message).toMatch(sentence);
    expect(events.at(-1)?.step).toBe(savedStep + 2);
    expect(readdirSync(out)).toEqual([CHECKPOINT_FILE]);
    expect((await readCheckpoint(join(out, CHECKPOINT_FILE))).step).toBe(savedStep);
    await eventsOf(tinyRun({ out, resume: true }));
    await eventsOf(tinyRun({ out: whole }));
    expect(checkpointOf(out)).toBe(checkpointOf(whole));
  });

  it("at the beginning leaves no checkpoint", async () => {
    const out = temporaryFolder();
    disk.filesLeft = 0;
    const error = await refusal(eventsOf(tinyRun({ out })));
    disk.filesLeft = Number.POSITIVE_INFINITY;
    expect(error.code).toBe("file.write");
    expect(readdirSync(out)).toEqual([]);
  });
});
