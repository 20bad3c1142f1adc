/** One run per folder: a second one is refused while the first writes, and what a killed one left behind is no obstacle. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { useDevice } from "../../src/index.ts";
import { LOCK_FILE } from "../../src/train/folder-lock.ts";
import { train } from "../../src/train/trainer.ts";
import { eventsOf, refusal, temporaryFolder, tinyRun } from "./tiny.ts";

beforeAll(() => {
  useDevice("reference");
});

const lock = (out: string, pid: number, host = hostname()): void =>
  writeFileSync(join(out, LOCK_FILE), JSON.stringify({ pid, host }));

it("a run that is resumed while it still runs is refused, and the first one goes on", async () => {
  const out = temporaryFolder();
  const first = train(tinyRun({ out }));
  await first.next();
  await first.next();
  const error = await refusal(eventsOf(tinyRun({ out, resume: true })));
  expect([error.code, error.message]).toEqual([
    "file.busy",
    expect.stringContaining(
      `${out}: expected a folder that no run writes to, process ${process.pid} does; wait for it`,
    ),
  ]);
  const types: string[] = [];
  for await (const { type } of first) types.push(type);
  expect(types.at(-1)).toBe("done");
  expect(existsSync(join(out, LOCK_FILE))).toBe(false);
  expect((await eventsOf(tinyRun({ out, resume: true }))).at(-1)).toMatchObject({ type: "done", step: 6 });
});

it("a run of another process is respected", async () => {
  const out = temporaryFolder();
  lock(out, process.ppid);
  expect(await refusal(eventsOf(tinyRun({ out })))).toMatchObject({ code: "file.busy" });
  expect(JSON.parse(readFileSync(join(out, LOCK_FILE), "utf8"))).toMatchObject({ pid: process.ppid });
});

it.each([
  ["a process that is gone", (out: string) => lock(out, spawnSync(process.execPath, ["--version"]).pid)],
  ["an earlier process of this number", (out: string) => lock(out, process.pid)],
  ["another machine", (out: string) => lock(out, process.ppid, "elsewhere")],
  ["nobody: half a file", (out: string) => writeFileSync(join(out, LOCK_FILE), '{"pid":')],
])("a file of %s is taken over", async (_, leave) => {
  const out = temporaryFolder();
  leave(out);
  expect((await eventsOf(tinyRun({ out }))).at(-1)).toMatchObject({ type: "done", step: 6 });
  expect(existsSync(join(out, LOCK_FILE))).toBe(false);
});

it("a folder is given free by a consumer that leaves, also before the first step", async () => {
  const out = temporaryFolder();
  for await (const _ of train(tinyRun({ out }))) break;
  expect(existsSync(join(out, LOCK_FILE))).toBe(false);
});
