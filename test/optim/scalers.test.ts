/** What a scaler does besides stepping: following a distribution, second derivatives, setting, probing; averages beside it. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  clipByGlobalNorm,
  compile,
  crossEntropy,
  GradScaler,
  gradients,
  gradientsFrom,
  gradientsOf,
  mapGradients,
  nn,
  optim,
  readOutcome,
  type StepOutcome,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { bytesOf, valuesOf, weight } from "../support/variables.ts";

describe.each(DEVICES)("scalers on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("logMax finds the scale of the gradients that it sees, from too high and from too low", async () => {
    for (const initialScale of [2 ** 22, 2]) {
      const w = weight([1, 1]);
      const scaler = new GradScaler({ logMax: { initialScale, ceiling: 2 ** 22 } });
      const optimizer = new optim.SGD([w], { lr: 0 });
      const step = compile((x: Tensor) => {
        const loss = autocast("float16", () => w.read().cast("float16").mul(x.cast("float16")).sum());
        const outcome = scaler.step(optimizer, gradients(scaler.scale(loss), [w]));
        scaler.update();
        return outcome;
      });
      const skips: number[] = [];
      for (let i = 0; i < 24; i++) {
        const outcome = await readOutcome(await step(tensor([2.5, -3])));
        if (!outcome.applied) skips.push(i);
      }
      // From 2^22 down to 2^14, where 3 · 2^14 fits into float16; then 2^(16 − 1 − log₂ 3), down to a power of two.
      expect(skips).toEqual(initialScale === 2 ? [] : [0, 1, 2, 3, 4, 5, 6, 7]);
      expect(await scaler.lossScale.item()).toBe(2 ** 13);
    }
  });

  it("second derivatives pass through scaled gradients in float16: a gradient penalty", async () => {
    const run = async (dtype: "float16" | false) => {
      const w = weight([0.5, -0.25]);
      const scaler = new GradScaler({ initialScale: 2 ** 12, enabled: dtype !== false });
      const step = compile((x: Tensor) => {
        const loss = autocast(dtype, () => w.read().mul(x).tanh().square().sum());
        const [scaled] = gradientsOf(scaler.scale(loss).tensor, [w.read()]);
        const penalty = (scaled as Tensor).div(scaler.lossScale).square().sum();
        const grads = gradients(scaler.scale(loss.cast("float32").add(penalty)), [w]);
        return [...scaler.unscale(grads).values()];
      });
      const [grad] = await step(tensor([0.75, 1.5]));
      return [...((await grad?.data()) ?? [])].map(Number);
    };
    const [half, single] = [await run("float16"), await run(false)];
    half.forEach((v, i) => {
      expect(Math.abs(v / (single[i] ?? Number.NaN) - 1)).toBeLessThan(4 * 2 ** -10);
    });
  });

  it("a compiled step reads nothing back to the host until it is asked", async () => {
    const model = new nn.Linear(4, 3, { seed: 1 });
    const optimizer = new optim.AdamW(model);
    const scalers = [new GradScaler(), new GradScaler({ logMax: {} }), new GradScaler({ preset: "deepspeed" })];
    const average = new optim.WeightAverage(model);
    const steps = scalers.map((scaler) =>
      compile((x: Tensor, y: Tensor) => {
        const loss = autocast("float16", () => crossEntropy(model.forward(x), y));
        const grads = scaler.unscale(gradients(scaler.scale(loss), model));
        const outcome = scaler.step(optimizer, clipByGlobalNorm(grads, 1), { skipNormAbove: 100 });
        average.update(outcome);
        scaler.update();
        return { loss, outcome };
      }),
    );
    const { backend } = optimizer.steps.device;
    const read = backend.read.bind(backend);
    let reads = 0;
    backend.read = (buffer) => {
      reads++;
      return read(buffer);
    };
    try {
      const [x, y] = [tensor(new Float32Array(8), { shape: [2, 4] }), tensor(Int32Array.of(0, 2))];
      let last: StepOutcome | null = null;
      for (let i = 0; i < 12; i++) last = (await steps[i % steps.length]?.(x, y))?.outcome ?? null;
      expect(reads).toBe(0);
      expect(last !== null && (await readOutcome(last)).applied).toBe(true);
      expect(reads).toBeGreaterThan(0);
    } finally {
      backend.read = read;
    }
  });

  describe("setScale", () => {
    it("moves the scale and not the count, within the bounds, between steps", async () => {
      const w = weight();
      const scaler = new GradScaler({ initialScale: 8, growthInterval: 3 });
      const optimizer = new optim.SGD([w], { lr: 0 });
      const step = compile(() => {
        scaler.step(optimizer, gradients(scaler.scale(w.read().sum()), [w]));
        scaler.update();
      });
      await step();
      scaler.setScale(1024);
      expect(await scaler.state()).toMatchObject({ scale: 1024, growthTracker: 1 });
      await step();
      await step();
      expect(await scaler.lossScale.item()).toBe(2048);
      for (const bad of [0, -1, Number.NaN, 2 ** 25, Number.POSITIVE_INFINITY])
        expect(() => scaler.setScale(bad)).toThrow(expect.objectContaining({ code: "value.range" }));
      const order = expect.objectContaining({ code: "scaler.order" });
      expect(() => new GradScaler({ staticScale: 8 }).setScale(4)).toThrow(order);
      scaler.unscale(gradients(scaler.scale(w.read().sum()), [w]));
      expect(() => scaler.setScale(4)).toThrow(order);
      await expect(scaler.state()).rejects.toMatchObject({ code: "scaler.order" });
      expect(await scaler.lossScale.item()).toBe(2048);
    });
  });

  it("an average of weights follows applied steps, bit for bit", async () => {
    const make = () => {
      const w = weight([1, 2]);
      const scaler = new GradScaler({ initialScale: 4 });
      const optimizer = new optim.SGD([w], { lr: 0.5 });
      const average = new optim.WeightAverage([w], { decay: 0.9 });
      const step = compile((poison: Tensor) => {
        const scaled = mapGradients(gradients(scaler.scale(w.read().square().sum()), [w]), (g) => g.add(poison));
        const outcome = scaler.step(optimizer, scaled);
        average.update(outcome);
        scaler.update();
        return outcome;
      });
      return { w, average, step, bytes: () => bytesOf([w, ...average.namedState().values()]) };
    };
    const [skipping, control] = [make(), make()];
    for (const poison of [0, Number.NaN, 0, Number.POSITIVE_INFINITY, 0]) {
      const before = await skipping.bytes();
      await skipping.step(tensor(poison));
      if (poison === 0) await control.step(tensor(0));
      else expect(await skipping.bytes()).toEqual(before);
    }
    expect(await skipping.bytes()).toEqual(await control.bytes());
    // decay (1 + n) / (10 + n): 0.1, 2/11, 0.25 of the old; the weights are halved to 0 by the first step.
    expect(await control.average.of(control.w).item).toBeDefined();
    const after = 1 * (1 / 10) * (2 / 11) * (3 / 12);
    expect((await control.average.of(control.w).data())[0]).toBeCloseTo(after, 6);
    control.average.swap();
    expect((await valuesOf(control.w))[0]).toBeCloseTo(after, 6);
    control.average.swap();
    expect(await skipping.bytes()).toEqual(await control.bytes());
    expect(() => control.average.of(skipping.w)).toThrow(expect.objectContaining({ code: "option.invalid" }));
    expect(() => new optim.WeightAverage([])).toThrow(expect.objectContaining({ code: "option.invalid" }));
    expect(() => new optim.WeightAverage([control.w], { decay: 1 })).toThrow(
      expect.objectContaining({ code: "value.range" }),
    );
  });

  describe("probeLossScale", () => {
    it("finds the largest scale that overflows nowhere, and changes nothing", async () => {
      const layer = new nn.BatchNorm1d(2);
      const dropout = new nn.Dropout(0.5);
      const w = weight([1, 1]);
      const batch = (size: number): [Tensor] => [tensor(Float32Array.of(size, -size, 2 * size, 0), { shape: [2, 2] })];
      const variables = [w, ...layer.parameters(), ...layer.buffers(), ...dropout.buffers()];
      const before = await bytesOf(variables);
      const step: optim.ProbedStep<[Tensor]> = (scale, x) => {
        layer.forward(x);
        dropout.forward(x);
        // d/dw = x in float16: 65504 / (2 · size) is the largest scale that fits, and 65504 for the sum's own cotangent.
        return gradients(scale(autocast("float16", () => w.read().cast("float16").mul(x.cast("float16")).sum())), [w]);
      };
      expect(await optim.probeLossScale(step, [batch(4)], { headroom: 0 })).toBe(2 ** 12);
      expect(await optim.probeLossScale(step, [batch(4), batch(64), batch(1)], { headroom: 0 })).toBe(2 ** 8);
      expect(await optim.probeLossScale(step, [batch(4)])).toBe(2 ** 11);
      expect(await optim.probeLossScale(step, [batch(2 ** -14)], { headroom: 0 })).toBe(2 ** 15);
      expect(await bytesOf(variables)).toEqual(before);
      await expect(optim.probeLossScale(step, [batch(32768)], { floor: 16 })).rejects.toMatchObject({
        code: "value.range",
      });
      await expect(optim.probeLossScale(step, [])).rejects.toMatchObject({ code: "option.invalid" });
      await expect(optim.probeLossScale(step, [batch(1)], { floor: 3 })).rejects.toMatchObject({
        code: "option.invalid",
      });
      const unscaled = (() => gradientsFrom([[w, w.read()]])) as unknown as optim.ProbedStep<[Tensor]>;
      await expect(optim.probeLossScale(unscaled, [batch(1)])).rejects.toMatchObject({ code: "scaler.order" });
    });
  });
});
