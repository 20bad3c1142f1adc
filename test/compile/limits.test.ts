/** Programs larger than one kernel can be: many operands, results, reductions and parameters, and more axes than a device takes. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  clipByGlobalNorm,
  compile,
  GradScaler,
  gradients,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { AdamW } from "../../src/optim/index.ts";
import { DEVICES } from "../support/devices.ts";

const MANY = 300;
const upTo = (n: number): readonly number[] => Array.from({ length: n }, (_, i) => i);
const list = async (x: Tensor | undefined): Promise<number[]> => [...((await x?.data()) ?? [])];

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([1, 1000])("sums of many tensors of %d elements", async (size) => {
    const parts = upTo(MANY).map((i) => tensor(new Float32Array(size).fill(i)));
    const sum = parts.reduce((total, part) => total.add(part));
    expect(await list(sum)).toEqual(new Array(size).fill((MANY * (MANY - 1)) / 2));
  });

  it("many results of one chain", async () => {
    const step = compile((x: Tensor) => {
      let last = x;
      return upTo(MANY).map(() => (last = last.add(1)));
    });
    const results = await step(tensor([1, 2]));
    expect(await list(results.at(-1))).toEqual([1 + MANY, 2 + MANY]);
    expect(await list(results[17])).toEqual([19, 20]);
  });

  it("many reductions of one operand", async () => {
    const step = compile((x: Tensor) => upTo(40).map((i) => x.mul(i).sum({ axes: 1 })));
    const sums = await step(tensor([[1, 2]]));
    expect((await Promise.all(sums.map(list))).flat()).toEqual(upTo(40).map((i) => 3 * i));
  });

  it("steps of many parameters, clipped and scaled", async () => {
    const parameters = upTo(120).map((i) => new Variable(`p${i}`, [2], "float32", Float32Array.of(1, 2)));
    const [optimizer, scaler] = [new AdamW(parameters, { lr: 0.5, weightDecay: 0 }), new GradScaler()];
    const step = compile((x: Tensor) => {
      const loss = parameters.reduce((sum, p) => sum.add(p.read().mul(x).sum()), tensor(0));
      const grads = scaler.unscale(gradients(scaler.scale(loss), parameters));
      const { applied } = scaler.step(optimizer, clipByGlobalNorm(grads, 1));
      scaler.update();
      return applied;
    });
    expect(await list(await step(tensor([1, 2])))).toEqual([1]);
    // Adam's first step has the length of the learning rate, whatever the gradient.
    for (const p of [parameters[0], parameters.at(-1)]) {
      const [first = 0, second = 0] = await list(p?.read());
      expect([first, second].map((v) => Math.round(v * 1e4) / 1e4)).toEqual([0.5, 1.5]);
    }
  });
});

describe.runIf(DEVICES.includes("cpu"))("axes", () => {
  it("beyond what the device takes are refused by name", async () => {
    useDevice("cpu");
    const ofRank = (rank: number): Tensor => tensor([1, 2], { shape: [...new Array(rank - 1).fill(1), 2] });
    expect(await ofRank(15).exp().log().sum().item()).toBeCloseTo(3, 5);
    await expect(ofRank(16).exp().data()).rejects.toMatchObject({
      code: "shape.invalid",
      message: expect.stringMatching(/takes at most 15 axes, got 16; reshape/),
    });
  });
});
