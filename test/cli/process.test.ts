/** The built command as users meet it: signals, pipes, limits of the system, other folders. */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeEach, describe, expect, it } from "vitest";
import { readCheckpoint } from "../../src/train/checkpoint.ts";
import { readEvents } from "../../src/train/jsonl.ts";
import { CHECKPOINT_FILE } from "../../src/train/trainer.ts";
import { DEVICES } from "../support/devices.ts";
import { ended, eventsIn, inChild, printed, start, TINY, workspace } from "./harness.ts";

let folder = "";
const at = (name: string): string => join(folder, name);
const TRAIN = ["train", "--data", "fox.txt", ...TINY, "--sample", "0"];
/** A run that would take hours. */
const ENDLESS = [...TRAIN, "--steps", "100000000", "--out", "run"];
const savedStep = async (name = "run"): Promise<number> =>
  (await readCheckpoint(at(`${name}/${CHECKPOINT_FILE}`))).step;

beforeEach(() => {
  folder = workspace();
});

describe("a run", () => {
  it("goes to the first free folder, twice the same bits", async () => {
    mkdirSync(at("runs/gpt-2"), { recursive: true });
    for (const name of ["runs/gpt-1", "runs/gpt-3"]) {
      const { status, stdout, stderr } = await inChild([...TRAIN, "--steps", "3"], folder);
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      expect(stdout).toContain(`\noutput      ${name}\n`);
      expect(readdirSync(at(name)).sort()).toEqual([CHECKPOINT_FILE, "events.jsonl"]);
    }
    const [a, b] = ["1", "3"].map((n) => readFileSync(at(`runs/gpt-${n}/${CHECKPOINT_FILE}`)).toString("base64"));
    expect(a).toBe(b);
  });

  it("finds text by itself in an empty folder", async () => {
    const { status, stdout } = await inChild(
      ["train", ...TINY, "--sample", "0", "--steps", "1", "--json", "--out", "run"],
      folder,
    );
    expect(status).toBe(0);
    const [started] = eventsIn(stdout);
    expect(started).toMatchObject({ type: "started", data: { sha256: expect.stringMatching(/^[0-9a-f]{64}$/) } });
    if (started?.type !== "started") return;
    expect(started.data.name).toMatch(/^(TypeScript|npm|Binade)/);
    expect(started.data.byteLength).toBeGreaterThan(10_000);
  });

  it("says in one line that there are no native kernels", async () => {
    const args = [...TRAIN, "--steps", "1", "--out", "run"];
    const plain = await inChild(args, folder, { BINADE_ADDON: "none" });
    expect(plain).toMatchObject({ status: 0, stderr: "" });
    expect(plain.stdout.match(/^warning: .*reference.*$/gm)).toHaveLength(1);
    const json = await inChild([...args, "--json", "--out", "json"], folder, { BINADE_ADDON: "none" });
    expect(json.stderr).toBe("");
    expect(eventsIn(json.stdout).filter(({ type }) => type === "warning")).toMatchObject([
      { step: 0, code: "device.reference" },
    ]);
    const strict = await inChild([...args, "--device", "cpu", "--out", "cpu"], folder, { BINADE_ADDON: "none" });
    expect(strict.status).toBe(1);
    expect(strict.stderr).toMatch(/^binade: device cpu: [^\n]+ \[device\.unavailable\]\n$/);
  });
});

describe.skipIf(process.platform === "win32")("signals", () => {
  it.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s leaves a checkpoint and status 130", async (signal) => {
    const child = start(ENDLESS, folder);
    const outcome = ended(child);
    await printed(child, "step 1/");
    child.kill(signal);
    const { status, stdout, stderr } = await outcome;
    expect({ status, stderr }).toEqual({ status: 130, stderr: "" });
    expect(stdout).toContain("ending after this step; Ctrl-C again ends at once\n");
    expect(stdout).toMatch(/\ncontinue {4}binade train --resume --out run\n$/);
    const step = await savedStep();
    expect(step).toBeGreaterThan(0);
    const { events } = await readEvents(at("run/events.jsonl"));
    expect(events.at(-1)).toMatchObject({ type: "done", reason: "interrupted", step });
  });

  it("SIGINT is heard by a device that computes on the same thread", async () => {
    const child = start([...ENDLESS, "--device", "reference"], folder);
    const outcome = ended(child);
    await printed(child, "step 1/");
    child.kill("SIGINT");
    expect(await outcome).toMatchObject({ status: 130 });
  });

  it("a second SIGINT ends at once", async ({ skip }) => {
    if (!DEVICES.includes("cpu")) skip("the reference device computes on the thread that hears signals");
    // A step of this takes seconds.
    const size = "--layers 1 --width 512 --heads 1 --context 64 --batch 96 --threads 1 --precision fp32".split(" ");
    const child = start(["train", ...size, "--data", "fox.txt", "--out", "run"], folder);
    const outcome = ended(child);
    await printed(child, "step 0: checkpoint");
    child.kill("SIGINT");
    await printed(child, "Ctrl-C again ends at once");
    child.kill("SIGINT");
    expect(await outcome).toMatchObject({ status: null, signal: "SIGINT" });
    expect(await savedStep()).toBe(0);
  });

  it("SIGKILL at any time leaves a checkpoint that resumes to the same bits", async () => {
    const args = [...TRAIN, "--steps", "50", "--dropout", "0.1", "--checkpoint-every", "1"];
    expect((await inChild([...args, "--out", "whole"], folder)).status).toBe(0);
    const child = start([...args, "--out", "run"], folder);
    const outcome = ended(child);
    await printed(child, "step 10/");
    child.kill("SIGKILL");
    expect(await outcome).toMatchObject({ signal: "SIGKILL" });
    const step = await savedStep();
    expect(step).toBeGreaterThanOrEqual(9);
    expect(step).toBeLessThan(50);
    const resumed = await inChild(["train", "--resume", "--out", "run", "--sample", "0", "--json"], folder);
    expect(resumed).toMatchObject({ status: 0, stderr: "" });
    expect(eventsIn(resumed.stdout)[0]).toMatchObject({ type: "started", step });
    const bytes = (name: string): string => readFileSync(at(`${name}/${CHECKPOINT_FILE}`)).toString("base64");
    expect(bytes("run")).toBe(bytes("whole"));
    expect(readdirSync(at("run")).sort()).toEqual([CHECKPOINT_FILE, "events.jsonl"]);
    expect((await readEvents(at("run/events.jsonl"))).isTorn).toBe(false);
  });
});

describe.skipIf(process.platform === "win32")("output", () => {
  it.each([[["--json"]], [[]]])("whose reader goes away ends a run quietly, with a checkpoint (%j)", async (flags) => {
    const child = start([...ENDLESS, ...flags], folder);
    const outcome = ended(child);
    await printed(child, "sha256");
    child.stdout?.destroy();
    expect(await outcome).toMatchObject({ status: 130, stderr: "" });
    expect(await savedStep()).toBeGreaterThan(0);
  });

  it("of help whose reader goes away is no error", async () => {
    const child = start(["train", "--help"], folder);
    child.stdout?.destroy();
    expect(await ended(child)).toMatchObject({ status: 0, stderr: "" });
  });

  it.runIf(existsSync("/dev/full"))("that cannot be written ends a run with a sentence and a checkpoint", async () => {
    const { status, stderr } = await shell(`node "$MAIN" ${ENDLESS.join(" ")} > /dev/full`);
    expect(status).toBe(1);
    expect(stderr).toBe(
      "binade: standard output: could not be written: no space left on the device; free some space or choose another disk [file.write]\n",
    );
    expect(await savedStep()).toBeGreaterThanOrEqual(0);
  });

  it("that hits the limit of file sizes ends a run with a sentence, the last checkpoint whole", async () => {
    // The checkpoint takes 145 kB, the events of some hundred steps pass 400 blocks of 512 or 1024 bytes.
    const { status, stderr } = await shell(`ulimit -f 400; exec node "$MAIN" ${ENDLESS.join(" ")} > /dev/null`);
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /^binade: run\/events\.jsonl: could not be written: the file is too large for this file system; [^\n]+ \[file\.write\]\n$/,
    );
    expect(await savedStep()).toBeGreaterThan(0);
    expect((await readEvents(at("run/events.jsonl"))).events.length).toBeGreaterThan(10);
  });

  it("that is too large at once leaves no torn file", async () => {
    const { status, stderr } = await shell(`ulimit -f 64; exec node "$MAIN" ${ENDLESS.join(" ")} > /dev/null`);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^binade: run\/checkpoint\.safetensors: could not be written: [^\n]+ \[file\.write\]\n$/);
    expect(readdirSync(at("run"))).toEqual(["events.jsonl"]);
  });
});

/** Runs a shell line in the folder, with the built command in `$MAIN`. */
async function shell(line: string): Promise<{ readonly status: number; readonly stderr: string }> {
  const main = new URL("../../dist/cli/main.js", import.meta.url).pathname;
  const path = `${join(process.execPath, "..")}:${process.env.PATH}`;
  try {
    const { stderr } = await promisify(execFile)("sh", ["-c", line], {
      cwd: folder,
      env: { ...process.env, MAIN: main, PATH: path },
    });
    return { status: 0, stderr };
  } catch (error) {
    const { code, stderr } = error as { readonly code: number; readonly stderr: string };
    return { status: code, stderr };
  }
}

it("is executable", () => {
  const { mode } = statSync(new URL("../../dist/cli/main.js", import.meta.url));
  expect(process.platform === "win32" || (mode & 0o111) !== 0).toBe(true);
});
