/** `binade train --optimizer`: what is trained with, at which rate, and that a run goes on with its own. */
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { readCheckpoint } from "../../src/train/checkpoint.ts";
import { OPTIMIZER_NAMES } from "../../src/train/optimizers.ts";
import { CHECKPOINT_FILE } from "../../src/train/trainer.ts";
import { inProcess, TINY, workspace } from "./harness.ts";

let folder = "";
beforeEach(() => {
  folder = workspace();
});
const train = (...args: string[]) => {
  const common = ["--device", "reference", "--out", join(folder, "run"), "--sample", "0"];
  return inProcess(["train", ...common, ...args]);
};
const fresh = (...args: string[]) =>
  train("--data", join(folder, "fox.txt"), "--steps", "1", "--precision", "fp32", ...TINY, ...args);
const settings = async () => (await readCheckpoint(join(folder, "run", CHECKPOINT_FILE))).settings;

describe("binade train --optimizer", () => {
  it.each([
    [[], { optimizer: "adamw", learningRate: 0.002, weightDecay: 0.1 }],
    [["--optimizer", "adamw"], { optimizer: "adamw", learningRate: 0.002, weightDecay: 0.1 }],
    [["--optimizer", "lion"], { optimizer: "lion", learningRate: 0.0005, weightDecay: 0.4 }],
    [["--optimizer", "sgd"], { optimizer: "sgd", learningRate: 0.1, weightDecay: 0 }],
    [["--optimizer", "adafactor"], { optimizer: "adafactor", learningRate: 0.02, weightDecay: 0.01 }],
    [["--optimizer", "muon", "--preset", "m"], { optimizer: "muon", learningRate: 0.001, weightDecay: 0.1 }],
    [["--optimizer", "lion", "--lr", "0.003"], { optimizer: "lion", learningRate: 0.003 }],
  ])("%j gives %j", async (args, expected) => {
    expect(await fresh(...args)).toMatchObject({ status: 0, stderr: "" });
    expect(await settings()).toMatchObject(expected);
  });

  it("a run goes on with its own optimizer, and refuses another", async () => {
    expect((await fresh("--optimizer", "lion")).status).toBe(0);
    const before = await settings();
    const refused = await train("--resume", "--optimizer", "sgd");
    expect(refused).toMatchObject({ status: 2, stdout: "" });
    expect(refused.stderr).toMatch(
      /--optimizer: the run in .* has lion, got sgd; leave out --optimizer .*\[option.invalid\]/,
    );
    expect((await train("--resume", "--optimizer", "lion")).status).toBe(0);
    expect((await train("--resume")).status).toBe(0);
    expect(await settings()).toEqual(before);
  });

  it("refuses names that there are not, and Muon for a residual network", async () => {
    const unknown = await fresh("--optimizer", "adamax");
    expect(unknown.status).toBe(2);
    expect(unknown.stderr).toContain(`--optimizer: expected one of ${OPTIMIZER_NAMES.join(", ")}, got "adamax"`);
    const convolutional = await inProcess(["train", "--model", "resnet", "--optimizer", "muon"]);
    expect(convolutional).toMatchObject({ status: 2, stdout: "" });
    expect(convolutional.stderr).toMatch(
      /--optimizer: expected one of .* for resnet, got muon, .*; choose another \[option/,
    );
  });
});
