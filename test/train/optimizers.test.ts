/** Runs with every optimizer: learning, resumed to the same bits, refused when it is another; and what Muon is given. */
import { beforeAll, describe, expect, it } from "vitest";
import { nn, useDevice } from "../../src/index.ts";
import { classificationTask } from "../../src/train/classification.ts";
import { OPTIMIZER_NAMES, type OptimizerName } from "../../src/train/optimizers.ts";
import { Session } from "../../src/train/session.ts";
import { DEVICES } from "../support/devices.ts";
import { checkpointOf, eventsOf, ofType, refusal, temporaryFolder, tinyRun } from "./tiny.ts";

const FASTEST = DEVICES.at(-1) ?? "reference";
/** As in the command line, relative to 0.01 of AdamW. */
const RATES: Readonly<Record<OptimizerName, number>> = {
  adamw: 0.01,
  adam: 0.01,
  sgd: 0.5,
  lion: 0.001,
  adafactor: 0.05,
  muon: 0.01,
};

describe("optimizers of a run", () => {
  beforeAll(() => {
    useDevice(FASTEST);
  });

  it.each(OPTIMIZER_NAMES)("%s learns, and is resumed to the same bits", async (optimizer) => {
    const options = { optimizer, learningRate: RATES[optimizer], steps: 12, precision: "bf16-mixed" } as const;
    const [whole, halves] = [temporaryFolder(), temporaryFolder()];
    const losses = ofType(await eventsOf(tinyRun({ ...options, out: whole })), "step").map(({ loss }) => loss);
    expect(losses).toHaveLength(12);
    expect(losses.at(-1)).toBeLessThan((losses[0] ?? 0) - 0.1);
    await eventsOf(tinyRun({ ...options, out: halves }), 5);
    await eventsOf(tinyRun({ ...options, out: halves, resume: true }));
    expect(checkpointOf(halves)).toBe(checkpointOf(whole));
  });

  it("the default of a language task is AdamW by name, but for the settings", async () => {
    const losses = await Promise.all(
      [{}, { optimizer: "adamw" }].map(async (how) =>
        ofType(await eventsOf(tinyRun({ ...how, steps: 3 })), "step").map(({ loss }) => loss),
      ),
    );
    expect(losses[1]).toEqual(losses[0]);
  });

  it("another one than the checkpoint's is refused, with both names, and nothing is changed", async () => {
    const out = temporaryFolder();
    await eventsOf(tinyRun({ optimizer: "lion", out, steps: 3 }), 1);
    const before = checkpointOf(out);
    for (const other of ["adamw", "sgd", undefined]) {
      const options = tinyRun({ ...(other === undefined ? {} : { optimizer: other }), out, steps: 3, resume: true });
      const error = await refusal(eventsOf(options));
      expect(error).toMatchObject({ code: "checkpoint.mismatch" });
      expect(error.message).toMatch(/optimizer was "lion" and is ("adamw"|"sgd"|not set)/);
    }
    expect(checkpointOf(out)).toBe(before);
  });

  it("Muon gets the matrices of hidden linear layers, AdamW the rest, and both are in the state", () => {
    const { task } = tinyRun();
    const made = task.optimizers?.muon?.make({
      lr: (step) => step.mul(0).add(0.01),
      weightDecay: 0.1,
      masterWeights: "float32",
      stateDType: "float32",
      seed: 0,
    });
    const names = [...(made?.namedState().keys() ?? [])];
    const muon = names.filter((name) => name.startsWith("muon."));
    expect(muon).toEqual([
      "muon.step",
      "muon.blocks.0.attention.qkv.weight.momentum",
      "muon.blocks.0.attention.projection.weight.momentum",
      "muon.blocks.0.feedForward.expand.weight.momentum",
      "muon.blocks.0.feedForward.contract.weight.momentum",
    ]);
    expect(names).toContain("adamw.head.weight.m");
    expect(made?.parameters().length).toBe(task.model.parameters().length);
  });

  it("weight decay follows the optimizer: rate times decay stays, or it is added to the gradient", () => {
    const { task } = tinyRun();
    const decays = Object.entries(task.optimizers ?? {}).map(([name, { weightDecay }]) => [name, weightDecay]);
    expect(Object.fromEntries(decays)).toEqual({ adamw: 0.1, adam: 0, sgd: 0, lion: 0.4, adafactor: 0.01, muon: 0.1 });
    const options = { ...tinyRun(), optimizer: "lion" };
    expect(new Session(options.task, options).settings).toMatchObject({ optimizer: "lion", weightDecay: 0.4 });
    expect(new Session(options.task, { ...options, weightDecay: 0.3 }).settings.weightDecay).toBe(0.3);
  });

  it.each(["adamax", "", "toString", 3, null])("refuses %j as an optimizer, and names those that there are", (name) => {
    const options = { ...tinyRun(), optimizer: name as string };
    const message = /train: optimizer: expected one of adamw, adam, sgd, lion, adafactor, muon, got .*; choose one/;
    const invalid = expect.objectContaining({ code: "option.invalid", message: expect.stringMatching(message) });
    expect(() => new Session(options.task, options)).toThrow(invalid);
    const own = { ...options.task, optimizers: undefined as never };
    expect(() => new Session(own, options)).toThrow(/expected none, since the task has but its own/);
  });

  it("a classifier has all but Muon", () => {
    const pictures = {
      pixels: new Uint8Array(2 * 3 * 8 * 8),
      labels: new Int32Array([0, 1]),
      classes: ["a", "b"],
      channels: 3,
      height: 8,
      width: 8,
    };
    const data = { name: "x", byteLength: 1, sha256: "0", training: pictures, heldOut: pictures };
    const task = classificationTask({ model: nn.resnet20({ classes: 2 }), data: data as never, batch: 2 });
    const decays = Object.entries(task.optimizers ?? {}).map(([name, { weightDecay }]) => [name, weightDecay]);
    expect(Object.fromEntries(decays)).toEqual({ adamw: 0.05, adam: 5e-4, sgd: 5e-4, lion: 0.2, adafactor: 0.005 });
    expect(task.defaults.weightDecay).toBe(5e-4);
  });
});
