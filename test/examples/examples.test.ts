/** The examples run on every device and reach the numbers that they print. */
import { beforeAll, describe, expect, it } from "vitest";
import { run as gpt } from "../../examples/gpt.ts";
import { run as mlp } from "../../examples/mlp.ts";
import { run as overflow } from "../../examples/overflow.ts";
import { run as resnet } from "../../examples/resnet.ts";
import { run as segmentation } from "../../examples/segmentation.ts";
import { useDevice } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

describe.each(DEVICES)("examples on %s", (device) => {
  const isSlow = device === "reference";
  beforeAll(() => {
    useDevice(device);
  });

  it("mlp: bfloat16 classifies as well as float32", async () => {
    const { float32, bfloat16 } = await mlp({ steps: isSlow ? 120 : 400 });
    expect(float32).toBeGreaterThan(isSlow ? 0.8 : 0.97);
    expect(bfloat16).toBeGreaterThan(float32 - 0.05);
  });

  it("gpt: learns its sentence in float16", async () => {
    const { loss, text } = await gpt(isSlow ? { steps: 4, length: 1 } : {});
    expect(loss).toBeLessThan(isSlow ? 4.5 : 0.3);
    if (!isSlow) expect(text).toBe("a small model learns this short sentence by heart. a");
  });

  it("overflow: halves the scale until a step applies, and skips without a trace", async () => {
    const { outcomes, changedBySkip, skippedSteps } = await overflow();
    expect(skippedSteps).toBe(5);
    expect(changedBySkip).toBe(false);
    expect(outcomes.map(({ lossScaleBefore }) => Math.log2(lossScaleBefore))).toEqual([24, 23, 22, 21, 20, 19, 19, 19]);
    expect(outcomes[0]).toMatchObject({ applied: false, reason: "gradientOverflow", atFloor: false });
  });

  it("resnet: tells the direction of stripes that it has not seen", async () => {
    const accuracy = await resnet(isSlow ? { steps: 1, batch: 1, heldOut: 1 } : {});
    // Guesses are right in one of four.
    expect(accuracy).toBeGreaterThanOrEqual(isSlow ? 0 : 0.8);
  });

  it("segmentation: labels pixels of scenes that it has not seen", async () => {
    const accuracy = await segmentation(isSlow ? { steps: 1, batch: 1 } : {});
    // Two thirds are background.
    expect(accuracy).toBeGreaterThan(isSlow ? 0.1 : 0.9);
  });
});
