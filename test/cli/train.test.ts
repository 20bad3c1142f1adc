/** `binade train` and the rest of the command line where nothing goes wrong, in this process. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { EVENT_TYPES } from "../../src/train/events.ts";
import { readEvents } from "../../src/train/jsonl.ts";
import { PRESETS, RESNET_PRESETS } from "../../src/train/presets.ts";
import { CHECKPOINT_FILE } from "../../src/train/trainer.ts";
import { DEVICES } from "../support/devices.ts";
import { eventsIn, FOX, inProcess, TINY, workspace } from "./harness.ts";

const DEVICE = DEVICES.includes("cpu") ? "cpu" : "reference";
const SHA256 = createHash("sha256").update(FOX).digest("hex");

/** An escape sequence that sets a colour, as opposed to the one that clears a line. */
const COLOR = /\[\d+m/;

let folder = "";
const at = (name: string): string => join(folder, name);
const train = (...args: string[]): string[] => [
  "train",
  "--device",
  DEVICE,
  "--data",
  at("fox.txt"),
  "--out",
  at("run"),
  ...TINY,
  ...args,
];

beforeEach(() => {
  folder = workspace();
});

describe("train", () => {
  it("prints what it chose, how it went, and what it leaves", async () => {
    const { status, stdout, stderr } = await inProcess(train("--steps", "6", "--sample", "10"));
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const lines = stdout
      .replaceAll(folder, "<folder>")
      .replaceAll(/\d+(\.\d+)?k? tok\/s/g, "<rate> tok/s")
      .replaceAll(/\d+\.\d{3,4}\b/g, "<number>")
      .replaceAll(/in \d+m?s/g, "in <time>")
      .replace(/on (cpu|reference): .*/, "on <device>")
      .replaceAll(/ {2}\d+s left/g, "")
      .split("\n");
    expect(lines.slice(0, lines.indexOf("sample") + 1).join("\n")).toMatchInlineSnapshot(`
      "data        fox.txt, 2000 bytes
      sha256      64b406aa9a534d507d356b6847e7b674878f92cf61d08a41871942be4358c0f9
      model       gpt, 11.6k parameters: vocabulary 256, layers 1, heads 2, width 16, context 8, dropout 0, fp8 off
      precision   bf16-mixed on <device>
      run         6 steps of 2 x 8 tokens, seed 0
      output      <folder>/run
      step 0: checkpoint <folder>/run/checkpoint.safetensors (145 kB)
      step 1/6  loss <number>  <rate> tok/s
      step 2/6  loss <number>  <rate> tok/s
      step 3/6  loss <number>  <rate> tok/s
      step 4/6  loss <number>  <rate> tok/s
      step 4: held-out loss <number>, <number> bits per byte
      step 5/6  loss <number>  <rate> tok/s
      step 6/6  loss <number>  <rate> tok/s
      step 6: held-out loss <number>, <number> bits per byte
      step 6: checkpoint <folder>/run/checkpoint.safetensors (145 kB)
      writing 10 bytes of text
      finished    step 6 of 6 in <time>, <rate> tok/s
      loss        <number>
      held out    <number>, <number> bits per byte
      skipped     0 steps
      checkpoint  <folder>/run/checkpoint.safetensors (145 kB)
      sample"
    `);
    // The prompt is the beginning of the held-out text.
    expect(lines.slice(lines.indexOf("sample") + 1).join("\n")).toContain(FOX.slice(1800, 1800 + 32));
    expect(stdout).toContain(SHA256);
  });

  it("prints events as JSON lines, the same as in the log", async () => {
    const { status, stdout, stderr } = await inProcess(
      train("--steps", "6", "--json", "--precision", "fp16-mixed", "--sample", "4"),
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const events = eventsIn(stdout);
    expect((await readEvents(at("run/events.jsonl"))).events).toEqual(events);
    for (const { type } of events) expect(EVENT_TYPES).toContain(type);
    expect(events[0]).toMatchObject({
      type: "started",
      precision: "fp16-mixed",
      steps: 6,
      seed: 0,
      batch: 2,
      context: 8,
      model: { layers: 1, heads: 2, width: 16, context: 8, dropout: 0, fp8: "off", vocabulary: 256 },
      data: { name: "fox.txt", byteLength: 2000, sha256: SHA256 },
    });
    expect(events.filter(({ type }) => type === "step").map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(events.at(-1)).toMatchObject({
      type: "done",
      reason: "finished",
      skippedSteps: 0,
      sample: expect.stringMatching(/./),
    });
  });

  it("draws a progress line on a terminal, in colour unless told otherwise", async () => {
    const args = train("--steps", "3", "--sample", "0");
    const { stdout } = await inProcess(args, { isTTY: true });
    expect(stdout).toMatch(/\r\S\[32m\[=+>? *\]\S\[0m 1\/3 {2}loss/);
    const plain = await inProcess([...args, "--out", at("plain"), "--no-color"], { isTTY: true });
    expect(plain.stdout).toMatch(/\r\[=+>? *\] 1\/3 {2}loss/);
    expect(plain.stdout).not.toMatch(COLOR);
    const variable = await inProcess([...args, "--out", at("variable")], {
      isTTY: true,
      environment: { NO_COLOR: "1" },
    });
    expect(variable.stdout).not.toMatch(COLOR);
  });

  it("lets single options override a preset", async () => {
    const args = ["train", "--device", DEVICE, "--data", at("fox.txt"), "--preset", "m", "--json", "--sample", "0"];
    const small = ["--layers", "1", "--width", "12", "--context", "4", "--steps", "1"];
    const { stdout } = await inProcess([...args, ...small, "--out", at("m")]);
    // Heads and batch are those of the preset.
    expect(eventsIn(stdout)[0]).toMatchObject({
      model: { layers: 1, heads: 6, width: 12 },
      batch: 8,
      context: 4,
      steps: 1,
    });
  });

  it("resumes with the settings, the text and the preset of the run", async () => {
    const stop = AbortSignal.abort();
    const settings = ["--steps", "4", "--dropout", "0.1", "--fp8", "delayed", "--seed", "5"];
    const first = await inProcess(train(...settings, "--json"), { signal: stop });
    expect(first.status).toBe(130);
    const second = await inProcess(["train", "--device", DEVICE, "--resume", "--out", at("run"), "--sample", "0"]);
    expect(second).toMatchObject({ status: 0, stderr: "" });
    const whole = await inProcess(train(...settings, "--out", at("whole")));
    expect(whole.status).toBe(0);
    const bytes = (name: string): string => readFileSync(at(`${name}/${CHECKPOINT_FILE}`)).toString("base64");
    expect(bytes("run")).toBe(bytes("whole"));
  });

  it("says how to continue an interrupted run, quoted for a shell", async () => {
    const out = at("my run");
    const { status, stdout } = await inProcess(train("--out", out), { signal: AbortSignal.abort() });
    expect(status).toBe(130);
    expect(stdout).toContain(`\ninterrupted`);
    expect(stdout).toContain(`\ncontinue    binade train --resume --out '${out}'\n`);
    expect(stdout).not.toContain("sample");
  });

  it("says that a finished run is finished", async () => {
    await inProcess(train("--steps", "2", "--sample", "0"));
    const { status, stdout } = await inProcess([...train("--sample", "0"), "--resume"]);
    expect(status).toBe(0);
    expect(stdout).toContain(
      "warning: all 2 steps of this run were made before; start another run to train for longer\n",
    );
  });

  it("names what it left out of a folder", async () => {
    mkdirSync(at("texts"));
    writeFileSync(at("texts/a.txt"), FOX);
    writeFileSync(at("texts/b.bin"), "a\0b");
    const { stdout } = await inProcess(train("--data", at("texts"), "--steps", "1", "--sample", "0"));
    expect(stdout).toContain(`\nleft out    ${at("texts/b.bin")} (binary)\n`);
  });
});

describe("help", () => {
  it("is what binade alone prints, with status 0", async () => {
    const alone = await inProcess([]);
    expect(alone).toMatchObject({ status: 0, stderr: "" });
    expect(alone.stdout).toMatch(/^Usage: binade \[options\] \[command\]/);
    expect(await inProcess(["--help"])).toMatchObject({ status: 0, stderr: "" });
    expect((await inProcess(["--version"])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it("of train lists defaults, units and ranges of every option", async () => {
    const { status, stdout } = await inProcess(["train", "--help"]);
    expect(status).toBe(0);
    const { s, m } = PRESETS;
    const { s: r } = RESNET_PRESETS;
    const words = stdout.replaceAll(/\s+/g, " ");
    for (const part of [
      "--precision <name> what matrix products see: fp32, bf16-mixed, fp16-mixed (default: bf16-mixed)",
      "--steps <n> attempted steps of the whole run: an integer from 1 to 2147483647 (default: ",
      `a number above 0, at most 10 (default: ${s.learningRate}, or ${m.learningRate} in preset m; resnet: ${r.learningRate}, or `,
      "--dropout <p> share of activations dropped while training: a number from 0 to 0.99 (default: 0)",
      "--sample <n> bytes of text that a gpt writes at the end: an integer from 0 to 65536 (default: 300)",
      `m ${m.layers} layers, ${m.heads} heads, width ${m.width}, context ${m.context}, batch ${m.batch}, ${m.steps} steps, lr`,
      "--no-color",
      "--trace",
    ]) {
      expect(words).toContain(part);
    }
    const options = stdout.match(/^ {2}--\S+ <\S+/gm) ?? [];
    expect(options.length).toBeGreaterThan(15);
    expect((words.match(/\(default: /g) ?? []).length).toBe(options.length);
  });
});

describe("doctor", () => {
  it("says what the machine can do, as text and as JSON", async () => {
    const status = DEVICES.includes("cpu") ? 0 : 1;
    const text = await inProcess(["doctor"]);
    expect(text).toMatchObject({ status, stderr: "" });
    expect(text.stdout).toMatch(/^node {9}v\d+/);
    const json = await inProcess(["doctor", "--json"]);
    expect(json.status).toBe(status);
    const diagnosis: Record<string, unknown> = JSON.parse(json.stdout);
    expect(diagnosis).toMatchObject({ node: process.version, platform: `${process.platform}-${process.arch}` });
    expect(diagnosis.formats).toContain("bf16");
    expect(diagnosis.native).toEqual(
      status === 0
        ? expect.objectContaining({ isa: expect.any(String) })
        : expect.objectContaining({ remedy: expect.any(String) }),
    );
    expect(existsSync(at("run"))).toBe(false);
  });
});
