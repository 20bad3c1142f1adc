/** Losses and outcomes of steps that are not compiled are read when there is time, whatever ran in between. */
import { beforeAll, describe, expect, it } from "vitest";
import { GradScaler, gradients, optim, readOutcome, useDevice, Variable } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const weight = (name: string): Variable => new Variable(name, [2], "float32", Float32Array.of(1, 1));

describe.each(DEVICES)("read late on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("outcomes of two optimizers, after the weights moved and after further steps", async () => {
    const [a, b] = [weight("a"), weight("b")];
    const scaler = new GradScaler({ initialScale: 4, growthInterval: 1 });
    const optimizers = [a, b].map((v) => new optim.SGD([v], { lr: 1 }));
    const step = (slope: number) => {
      const loss = a.read().sum().add(b.read().mul(slope).sum());
      const grads = gradients(scaler.scale(loss), [a, b]);
      const outcomes = optimizers.map((optimizer) => scaler.step(optimizer, grads));
      scaler.update();
      return { loss, outcomes };
    };
    const steps = [];
    for (const slope of [1, 1e38, 1]) {
      steps.push(step(slope));
      await a.read().data();
    }
    const read = await Promise.all(steps.flatMap(({ outcomes }) => outcomes.map(readOutcome)));
    expect(
      read.map(({ applied, lossScaleBefore, lossScaleAfter }) => [applied, lossScaleBefore, lossScaleAfter]),
    ).toEqual([
      [true, 4, 8],
      [true, 4, 8],
      [true, 8, 4],
      [false, 8, 4],
      [true, 4, 8],
      [true, 4, 8],
    ]);
    expect(read[3]).toMatchObject({ reason: "gradientOverflow", parameters: ["b"] });
    expect(await Promise.all(steps.map(({ loss }) => loss.item()))).toEqual([4, 0, -2]);
  });

  it("the loss of a plain step", async () => {
    const w = weight("w");
    const optimizer = new optim.SGD([w], { lr: 1 });
    const losses = [];
    for (let i = 0; i < 3; i++) {
      const loss = w.read().sum();
      optimizer.apply(gradients(loss, [w]));
      losses.push(loss);
      if (i !== 1) await w.read().data();
    }
    expect(await Promise.all(losses.map((loss) => loss.item()))).toEqual([2, 0, -2]);
  });
});
