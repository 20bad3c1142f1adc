/** Several scalers in one step: one per loss, one per part of the model. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  addGradients,
  autocast,
  compile,
  full,
  GradScaler,
  type Grads,
  gradients,
  gradientsFrom,
  optim,
  readOutcome,
  type StepOutcome,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { valuesOf, weight } from "../support/variables.ts";

describe.each(DEVICES)("several scalers on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe("one scaler per loss", () => {
    const setup = () => {
      const w = weight();
      const optimizer = new optim.SGD([w], { lr: 1 });
      const scalers = [new GradScaler({ initialScale: 4 }), new GradScaler({ initialScale: 16 })] as const;
      const step = compile((first: Tensor, second: Tensor) => {
        const [a, b] = scalers;
        const grads = addGradients(
          a.unscale(gradients(a.scale(w.read().mul(first).sum()), [w])),
          b.unscale(gradients(b.scale(w.read().mul(second).sum()), [w])),
        );
        // Without a second look at the sum, which would find what the other scaler found.
        const outcome = a.step(optimizer, grads, { checkGradients: false });
        for (const scaler of scalers) scaler.update();
        return outcome;
      });
      return { w, step, scales: () => Promise.all(scalers.map((scaler) => scaler.lossScale.item())) };
    };
    const inf = 3e38;
    it.each([
      ["both clean", 1, 2, [-2, -2], [4, 16]],
      ["the first overflows", inf, 2, [1, 1], [2, 16]],
      ["the second overflows", 1, inf, [1, 1], [4, 8]],
      ["both overflow", inf, inf, [1, 1], [2, 8]],
    ] as const)("%s: the step asks both, each scale moves by its own", async (_, first, second, want, scales) => {
      const s = setup();
      const outcome = await readOutcome(await s.step(tensor(first), tensor(second)));
      expect(outcome.applied).toBe(want[0] !== 1);
      expect([await valuesOf(s.w), await s.scales()]).toEqual([want, scales]);
    });

    it.each(["float16", "bfloat16"] as const)("adds %s gradients in float32", async (dtype) => {
      const w = weight();
      const parts = [4096, 1, 1, 1].map((value) => gradientsFrom([[w, full([2], value, dtype)]]));
      const [sum] = [...addGradients(...(parts as [Grads<"true">, ...Grads<"true">[]])).values()];
      expect([sum?.dtype, ...((await sum?.data()) ?? [])]).toEqual(["float32", 4099, 4099]);
    });

    it("refuses to add what only one of them could unscale", () => {
      const w = weight();
      const [a, b] = [new GradScaler(), new GradScaler()];
      const grads = [a, b].map((scaler) => gradients(scaler.scale(w.read().sum()), [w]));
      const order = expect.objectContaining({ code: "scaler.order" });
      expect(() => addGradients(...(grads as [(typeof grads)[0], (typeof grads)[0]]))).toThrow(order);
      const plain = gradients(w.read().sum(), [w]);
      expect(() => addGradients(plain, a.unscale(grads[0] as (typeof grads)[0]))).toThrow(order);
    });
  });

  describe("one scaler per part of the model", () => {
    /** Two layers in float16, of which the lower one's cotangents are 2^-20 of the upper one's. */
    const setup = (separate: boolean) => {
      const [lower, upper] = [weight([1, 1], "lower"), weight([1, 1], "upper")];
      const top = new GradScaler({ staticScale: 2 ** 8 });
      const bottom = separate ? new GradScaler({ initialScale: 2 ** 20 }) : top;
      const optimizers = [lower, upper].map((v) => new optim.SGD([v], { lr: 1 })) as [optim.SGD, optim.SGD];
      const step = compile((x: Tensor, tiny: Tensor) => {
        const loss = autocast("float16", () => {
          const hidden = lower.read().cast("float16").mul(x.cast("float16"));
          const border = separate ? bottom.rescale(hidden, top) : hidden;
          return border.mul(tiny.cast("float16")).add(upper.read().cast("float16")).sum();
        });
        const grads = gradients(top.scale(loss), [lower, upper]);
        const outcomes = [
          bottom.step(optimizers[0], separate ? bottom.scaledGradients(grads, optimizers[0]) : grads),
          top.step(optimizers[1], top.unscale(grads, optimizers[1])),
        ];
        for (const scaler of new Set([top, bottom])) scaler.update();
        return outcomes;
      });
      return { lower, upper, top, bottom, step, optimizers };
    };

    it("the lower part keeps gradients that one scale loses", async () => {
      const [x, tiny] = [tensor([2 ** -10, 2 ** -10]), tensor([2 ** -12, 2 ** -12])];
      const one = setup(false);
      await one.step(x, tiny);
      const two = setup(true);
      await two.step(x, tiny);
      const want = 1 - 2 ** -22;
      expect(await valuesOf(two.lower)).toEqual([want, want]);
      expect(await valuesOf(two.upper)).toEqual([0, 0]);
      expect(await valuesOf(one.upper)).toEqual([0, 0]);
    });

    it("the border changes no value, and an overflow below it moves the lower scale alone", async () => {
      const s = setup(true);
      const [below, above] = await s.step(tensor([1, 1]), tensor([1, 1]));
      expect(await readOutcome(below as StepOutcome)).toMatchObject({
        applied: false,
        parameters: ["lower"],
        lossScaleBefore: 2 ** 20,
        lossScaleAfter: 2 ** 19,
      });
      expect((await readOutcome(above as StepOutcome)).applied).toBe(true);
      expect(await valuesOf(s.upper)).toEqual([0, 0]);
      const x = tensor(Float32Array.of(-0, 1e-45, 3e38, -1 / 3, Number.NEGATIVE_INFINITY));
      const out = new GradScaler({ initialScale: 8 }).rescale(x, new GradScaler());
      expect(await out.bytes()).toEqual(await x.bytes());
    });

    it("refuses to unscale with the upper scaler what lies below the border", () => {
      const s = setup(true);
      const loss = s.bottom.rescale(s.lower.read(), s.top).mul(s.upper.read()).sum();
      const grads = gradients(s.top.scale(loss), [s.lower, s.upper]);
      expect(() => s.top.unscale(grads)).toThrow(
        expect.objectContaining({ code: "scaler.order", message: expect.stringMatching(/lower lies below/) }),
      );
      expect(s.top.unscale(grads, s.optimizers[1]).size).toBe(1);
      expect(() => s.top.rescale(s.lower.read(), s.top)).toThrow(expect.objectContaining({ code: "scaler.order" }));
    });
  });
});
