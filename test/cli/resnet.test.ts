/** `binade train --model resnet`: pictures from files and generated ones, the confusion matrix, resuming, and refusals. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { CHECKPOINT_FILE } from "../../src/train/trainer.ts";
import { DEVICES } from "../support/devices.ts";
import { putMnist } from "../support/pictures.ts";
import { eventsIn, inChild, inProcess, workspace } from "./harness.ts";

const DEVICE = DEVICES.includes("cpu") ? "cpu" : "reference";

let folder = "";
const at = (name: string): string => join(folder, name);
/** A run on ten digits of 4 × 5 pixels. */
const train = (...args: string[]): string[] => {
  const own = [
    "--model",
    "resnet",
    "--device",
    DEVICE,
    "--data",
    at("digits"),
    "--out",
    at("run"),
    "--depth",
    "8",
    "--batch",
    "4",
  ];
  return ["train", ...own, "--steps", "3", ...args];
};
beforeEach(() => {
  folder = workspace();
  putMnist(at("digits"));
});

describe("train --model resnet", () => {
  it("prints what it chose, how it went, and a confusion matrix", async () => {
    const { status, stdout, stderr } = await inProcess(train());
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const text = stdout
      .replaceAll(folder, "<folder>")
      .replaceAll(/\d+(\.\d+)?k? pic\/s/g, "<rate> pic/s")
      .replaceAll(/\d+\.\d{2,4}\b( %)?/g, "<number>")
      .replaceAll(/in \d+m?s/g, "in <time>")
      .replace(/on (cpu|reference): .*/, "on <device>")
      .replaceAll(/ {2}\d+s left/g, "")
      .replaceAll(/^(\d \d {5}).*$/gm, "$1 <counts>")
      .replaceAll(/[0-9a-f]{64}/g, "<digest>");
    expect(text).toMatchInlineSnapshot(`
      "data        digits, 20 pictures to train on, 10 held out
      sha256      <digest>
      model       resnet, 77.8k parameters: depth 8, augment auto, size 0, fp8 off, crop 0, flip false
      precision   bf16-mixed on <device>
      run         3 steps of 4 pictures, seed 0
      output      <folder>/run
      step 0: checkpoint <folder>/run/checkpoint.safetensors (633 kB)
      step 1/3  loss <number>  <rate> pic/s
      step 2/3  loss <number>  <rate> pic/s
      step 3/3  loss <number>  <rate> pic/s
      step 3: held-out loss <number>, accuracy <number>
      step 3: checkpoint <folder>/run/checkpoint.safetensors (633 kB)
      finished    step 3 of 3 in <time>, <rate> pic/s
      loss        <number>
      held out    <number>, accuracy <number>
      skipped     0 steps
      checkpoint  <folder>/run/checkpoint.safetensors (633 kB)
      confusion   rows: the class, columns: what it was taken for
               0 1 2 3 4 5 6 7 8 9
      0 0      <counts>
      1 1      <counts>
      2 2      <counts>
      3 3      <counts>
      4 4      <counts>
      5 5      <counts>
      6 6      <counts>
      7 7      <counts>
      8 8      <counts>
      9 9      <counts>
      "
    `);
  });

  it("tells machines the same", async () => {
    const { status, stdout } = await inProcess(train("--json", "--precision", "fp16-mixed", "--augment", "none"));
    expect(status).toBe(0);
    const events = eventsIn(stdout);
    expect(events[0]).toMatchObject({
      model: { kind: "resnet", depth: 8, augment: "none", size: 0, fp8: "off", crop: 0, flip: false },
      classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
      batch: 4,
      data: { name: "digits", byteLength: 600, training: 20, heldOut: 10 },
    });
    const [last] = events.slice(-1);
    expect(last).toMatchObject({ type: "done", accuracy: expect.any(Number), confusion: expect.any(Array) });
  });

  it("resumes with the data, the settings and the model of the run", async () => {
    expect((await inProcess(train("--seed", "2", "--fp8", "delayed"), { signal: AbortSignal.abort() })).status).toBe(
      130,
    );
    const rest = await inProcess(["train", "--device", DEVICE, "--resume", "--out", at("run")]);
    expect(rest).toMatchObject({ status: 0, stderr: "" });
    await inProcess(train("--seed", "2", "--fp8", "delayed", "--out", at("whole")));
    const bytes = (name: string): string => readFileSync(at(`${name}/${CHECKPOINT_FILE}`)).toString("base64");
    expect(bytes("run")).toBe(bytes("whole"));
  });

  it("generates pictures where none are named, and says so", async () => {
    const args = ["train", "--model", "resnet", "--device", DEVICE, "--depth", "8", "--out", at("run")];
    const { stdout, status } = await inProcess(args, { signal: AbortSignal.abort() });
    expect(status).toBe(130);
    expect(stdout).toMatch(/^data {8}generated shapes, seed 0, 12000 pictures to train on, 10000 held out\n/);
  });
});

const RESUME = (): string[] => ["train", "--device", DEVICE, "--resume", "--out", at("run")];

describe("mistakes", () => {
  it.each([
    [
      "--context",
      "8",
      "option.invalid",
      /--context: expected an option of resnet, got one of gpt; leave it out, or choose --model gpt/,
    ],
    ["--sample", "10", "option.invalid", /--sample: expected an option of resnet/],
    ["--depth", "21", "value.range", /--depth: expected 6 n \+ 2 .* got 21; 20 is near/],
    ["--depth", "1", "value.range", /--depth: expected an integer from 8 to 1202/],
    ["--augment", "rotate", "option.invalid", /expected one of auto, none, crop, crop\+flip, got "rotate"/],
    ["--size", "8", "option.invalid", /pictures of IDX have one size, got a size of 8/],
    ["--preset", "l", "option.invalid", /--preset: expected one of s, m/],
    ["--data", "/nowhere/at/all", "file.missing", /found nothing/],
  ])("%s %s", async (flag, value, code, sentence) => {
    const outcome = await inProcess(train(flag, value));
    expect(outcome.stderr).toMatch(sentence);
    expect(outcome.stderr).toMatch(/^binade: [^\n]+\n$/);
    expect(outcome.stderr).toContain(`[${code}]`);
    expect(outcome.stdout).toBe("");
  });

  it("more memory than the machine has, before anything is made", async () => {
    const large = putMnist(at("large"), { training: 1, heldOut: 1, height: 400, width: 400 });
    const args = ["train", "--model", "resnet", "--data", large, "--depth", "8", "--batch", "65536"];
    const sentence =
      /needs \d\.\d\d TB more, and the machine has .* activations .*nothing was allocated.*\[memory\.insufficient\]\n$/;
    const { stderr, status } = await inProcess([...args, "--out", at("run")]);
    expect(stderr).toMatch(sentence);
    expect([status, existsSync(at("run"))]).toEqual([1, false]);
    // A batch of these pictures is longer than a typed array may be: the plan makes none.
    expect(JSON.parse((await inProcess([...args, "--plan", "--json"])).stdout).byteLength).toBeGreaterThan(2 ** 40);
    const child = await inChild(args, at("."));
    expect(child.stderr).toMatch(sentence);
    expect(existsSync(at("runs"))).toBe(false);
  });

  it("pictures that changed, and another model, when a run is resumed", async () => {
    await inProcess(train(), { signal: AbortSignal.abort() });
    const other = await inProcess([...RESUME(), "--model", "gpt"]);
    expect(other.stderr).toMatch(/--model: the run in .* has resnet, got gpt; .*\[option\.invalid\]/);
    const path = at("digits/train-images-idx3-ubyte");
    writeFileSync(
      path,
      readFileSync(path).map((byte, i) => (i === 99 ? byte ^ 1 : byte)),
    );
    const changed = await inProcess(RESUME());
    expect(changed.stderr).toMatch(
      /trained on pictures with SHA-256 \w{64}, digits has \w{64}; .*\[checkpoint\.mismatch\]/,
    );
  });
});
