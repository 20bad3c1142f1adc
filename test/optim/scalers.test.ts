/** Scalers in concert: one per loss, one per part of the model, one for many micro-steps; and why a step was skipped. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  addGradients,
  autocast,
  clipByGlobalNorm,
  compile,
  crossEntropy,
  GradScaler,
  type GradScalerOptions,
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
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const weight = (values: readonly number[] = [1, 1], name = "w"): Variable =>
  new Variable(name, [values.length], "float32", new Float32Array(values));
const valuesOf = async (v: Variable): Promise<readonly number[]> => [...(await v.read().data())].map(Number);
const bytesOf = (variables: Iterable<Variable>): Promise<readonly string[]> =>
  Promise.all([...variables].map(async (v) => `${v.name} ${await v.bytes()}`));

describe.each(DEVICES)("scalers on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe("why a step was skipped", () => {
    /** One step on w·factor·1 with these scaled gradients added. */
    async function reasonOf(
      options: GradScalerOptions,
      step: optim.StepOptions,
      gradient: readonly number[],
      loss = 1,
    ) {
      const w = weight();
      const scaler = new GradScaler(options);
      const optimizer = new optim.AdamW([w], { lr: 1 });
      const run = compile((scaled: Tensor, of: Tensor) => {
        scaler.scale(of);
        const outcome = scaler.step(optimizer, scaler.scaledGradients([[w, scaled]]), step);
        scaler.update();
        return outcome;
      });
      const before = await bytesOf([w, ...optimizer.namedState().values()]);
      const read = await readOutcome(await run(tensor([...gradient]), tensor(loss)));
      const after = await bytesOf([w, ...optimizer.namedState().values()]);
      if (read.applied) expect(after).not.toEqual(before);
      else expect(after).toEqual(before);
      return read;
    }
    const [inf, nan] = [Number.POSITIVE_INFINITY, Number.NaN];

    const rows: readonly (readonly [
      string,
      GradScalerOptions,
      optim.StepOptions,
      readonly number[],
      number,
      Partial<Awaited<ReturnType<typeof reasonOf>>>,
    ])[] = [
      ["nothing", { initialScale: 4 }, {}, [4, 8], 1, { applied: true, lossScaleAfter: 4 }],
      ["the loss", { initialScale: 4 }, {}, [4, nan], nan, { reason: "forwardOverflow", lossScaleAfter: 2 }],
      ["a gradient", { initialScale: 4 }, {}, [4, inf], 1, { reason: "gradientOverflow", parameters: ["w"] }],
      ["zeros, asked for", {}, { skipZeroGradients: true }, [0, -0], 1, { reason: "underflow", parameters: ["w"] }],
      ["zeros of a loss of zero", {}, { skipZeroGradients: true }, [0, 0], 0, { applied: true }],
      ["zeros, not asked for", {}, {}, [0, 0], 1, { applied: true }],
      [
        "a scale of 0, whose gradients are finite",
        { preset: "pytorch", initialScale: 2 ** -149 },
        {},
        [0, 0],
        1,
        { reason: "scaleOutOfRange", parameters: [], lossScaleBefore: 2 ** -149 },
      ],
      [
        "a scale whose reciprocal is subnormal",
        { preset: "pytorch", initialScale: 2 ** 127 },
        {},
        [1, 1],
        1,
        { reason: "scaleOutOfRange" },
      ],
      ["a static scale beyond use", { staticScale: 2 ** -130 }, {}, [1, 1], 1, { reason: "scaleOutOfRange" }],
      [
        "a norm above its limit, which is no overflow",
        { initialScale: 4 },
        { skipNormAbove: 2.5 },
        [4, 12],
        1,
        { reason: "normAboveLimit", parameters: ["w"], lossScaleAfter: 4 },
      ],
      ["a norm at its limit", { initialScale: 4 }, { skipNormAbove: 5 }, [12, 16], 1, { applied: true }],
      ["an infinite sum of squares", {}, { skipNormAbove: 1e18 }, [1e35, 0], 1, { reason: "normAboveLimit" }],
      ["an overflow above the limit", {}, { skipNormAbove: 1 }, [inf, 1], 1, { reason: "gradientOverflow" }],
    ];
    it.each(rows)("%s", async (_, options, step, gradient, loss, expected) => {
      expect(await reasonOf(options, step, gradient, loss)).toMatchObject(expected);
    });

    it("the norm is that before clipping, and blames the largest gradient", async () => {
      const [a, b] = [weight([1, 1], "a"), weight([1, 1], "b")];
      const scaler = new GradScaler({ staticScale: 2 });
      const scaled = scaler.scaledGradients([
        [a, tensor([2, 2])],
        [b, tensor([20, 2])],
      ]);
      const outcome = scaler.step(new optim.SGD([a, b]), clipByGlobalNorm(scaler.unscale(scaled), 1), {
        skipNormAbove: 5,
      });
      scaler.update();
      expect(await readOutcome(outcome)).toMatchObject({ reason: "normAboveLimit", parameters: ["b"] });
    });

    const looks: readonly (readonly [string, GradScalerOptions["checks"], readonly number[], boolean])[] = [
      ["scaled: what overflows when unscaled is applied", "scaled", [1, 1e38], true],
      ["unscaled: the same is found", "unscaled", [1, 1e38], false],
      ["both: the same is found", "both", [1, 1e38], false],
      ["norm: squares of finite gradients overflow", "norm", [1e20, 1], false],
      ["both: the same is finite", "both", [1e20, 1], true],
    ];
    it.each(looks)("checks %s", async (_, checks, gradient, applied) => {
      const options = { initialScale: 2 ** -14, floor: 2 ** -14, ...(checks === undefined ? {} : { checks }) };
      expect((await reasonOf(options, { checkGradients: false }, gradient)).applied).toBe(applied);
    });

    it("checks norm: also of gradients whose squares are finite one by one", async () => {
      const [a, b] = [weight([1], "a"), weight([1], "b")];
      const scaler = new GradScaler({ checks: "norm", staticScale: 1 });
      const entries = [a, b].map((v) => [v, tensor([1.5e19])] as const);
      const outcome = scaler.step(new optim.SGD([a, b]), scaler.scaledGradients(entries));
      scaler.update();
      expect(await readOutcome(outcome)).toMatchObject({ applied: false, reason: "gradientOverflow", parameters: [] });
    });

    it("says that the preset's system would end the run", async () => {
      const w = weight();
      for (const [options, ends] of [
        [{ preset: "deepspeed", initialScale: 1, hysteresis: 1 }, true],
        [{ preset: "deepspeed-zero0", initialScale: 1 }, false],
        [{ preset: "fairseq", initialScale: 2 ** -13 }, true],
        [{}, false],
      ] as const) {
        const scaler = new GradScaler(options);
        const outcome = scaler.step(new optim.SGD([w]), scaler.scaledGradients([[w, tensor([1, Number.NaN])]]));
        scaler.update();
        const read = await readOutcome(outcome);
        expect(read).toMatchObject({ applied: false, exhausted: ends });
        if (ends) expect(read.lossScaleAfter).toBe(read.lossScaleBefore);
      }
    });
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

  describe("accumulation", () => {
    const setup = (options: GradScalerOptions = { initialScale: 4, growthInterval: 1 }) => {
      const w = weight();
      const scaler = new GradScaler(options);
      const optimizer = new optim.AdamW([w], { lr: 0.1 });
      const accumulator = new optim.GradientAccumulator<"scaled">([w], { scaler });
      const micro = compile((factor: Tensor) =>
        accumulator.add(gradients(scaler.scale(w.read().square().mul(factor).sum()), [w])),
      );
      const apply = compile(() => {
        const outcome = scaler.step(optimizer, scaler.unscale(accumulator.take()));
        scaler.update();
        return outcome;
      });
      return { w, scaler, optimizer, accumulator, micro, apply };
    };

    it("gives the mean of the micro-steps at one scale, and begins anew", async () => {
      const s = setup();
      const [plain, control] = [weight(), new optim.AdamW([weight()], { lr: 0.1 })];
      const one = new optim.AdamW([plain], { lr: 0.1 });
      for (const factors of [[1, 2, 3], [4], [5, 6]]) {
        for (const factor of factors) await s.micro(tensor(factor));
        expect(await s.accumulator.microSteps.read().item()).toBe(factors.length);
        expect((await readOutcome(await s.apply())).applied).toBe(true);
        const mean = factors.reduce((a, b) => a + b) / factors.length;
        one.apply(gradients(plain.read().square().mul(mean).sum(), [plain]));
      }
      expect(await s.scaler.lossScale.item()).toBe(32);
      const [got, want] = [await valuesOf(s.w), await valuesOf(plain)];
      got.forEach((v, i) => {
        expect(v).toBeCloseTo(want[i] ?? Number.NaN, 6);
      });
      expect(control.parameters().length).toBe(1);
    });

    it("skips a window with one bad micro-step, byte for byte, and says whether its loss was finite", async () => {
      for (const [bad, reason] of [
        [1e38, "gradientOverflow"],
        [Number.POSITIVE_INFINITY, "forwardOverflow"],
      ] as const) {
        const s = setup();
        const before = await bytesOf([s.w, ...s.optimizer.namedState().values()]);
        for (const factor of [1, bad, 1]) await s.micro(tensor(factor));
        expect(await readOutcome(await s.apply())).toMatchObject({ applied: false, reason, lossScaleAfter: 2 });
        expect(await bytesOf([s.w, ...s.optimizer.namedState().values()])).toEqual(before);
        await s.micro(tensor(1));
        expect((await readOutcome(await s.apply())).applied).toBe(true);
      }
    });

    it("takes back the running statistics of a whole window that is skipped", async () => {
      const layer = new nn.BatchNorm1d(2);
      const scaler = new GradScaler({ initialScale: 4 });
      const optimizer = new optim.SGD(layer, { lr: 0.1 });
      const accumulator = new optim.GradientAccumulator<"scaled">(layer, { scaler });
      const micro = compile((x: Tensor, poison: Tensor) => {
        const grads = gradients(scaler.scale(layer.forward(x).square().mean()), layer);
        accumulator.add(mapGradients(grads, (g) => g.add(poison)));
      });
      const apply = compile(() => {
        const outcome = scaler.step(optimizer, accumulator.take());
        scaler.update();
        return outcome;
      });
      const batch = (seed: number): Tensor => tensor(Float32Array.of(seed, 2, -seed, 5), { shape: [2, 2] });
      const window = async (seeds: readonly number[], bad: number): Promise<boolean> => {
        for (const seed of seeds) await micro(batch(seed), tensor(seed === bad ? Number.NaN : 0));
        return (await readOutcome(await apply())).applied;
      };
      const state = (): Promise<readonly string[]> => bytesOf([...layer.parameters(), ...layer.buffers()]);
      expect(await window([1, 2], 0)).toBe(true);
      const before = await state();
      for (const bad of [3, 4]) {
        expect(await window([3, 4], bad)).toBe(false);
        expect(await state()).toEqual(before);
      }
      expect(await window([5], 0)).toBe(true);
      expect(await state()).not.toEqual(before);
    });

    it("keeps the scale of the first micro-step where the scale moves within the window", async () => {
      const [moved, fixed] = [setup(), setup()];
      for (const s of [moved, fixed]) {
        await s.micro(tensor(1));
        if (s === moved) s.scaler.setScale(64);
        await s.micro(tensor(2));
        await s.apply();
      }
      expect(await valuesOf(moved.w)).toEqual(await valuesOf(fixed.w));
    });

    it("goes on from a checkpoint in the middle of a window to the same bits", async () => {
      const variables = (s: ReturnType<typeof setup>): readonly Variable[] => [
        s.w,
        ...[s.optimizer, s.scaler, s.accumulator].flatMap((part) => [...part.namedState().values()]),
      ];
      const [whole, resumed] = [setup(), setup()];
      for (const factor of [1, 2]) await whole.micro(tensor(factor));
      for (const [i, v] of variables(whole).entries()) await variables(resumed)[i]?.load(await v.bytes());
      for (const s of [whole, resumed]) {
        await s.micro(tensor(3));
        await s.apply();
      }
      expect(await bytesOf(variables(resumed))).toEqual(await bytesOf(variables(whole)));
    });

    it("refuses gradients that are not its own, and changes nothing", async () => {
      const s = setup();
      const other = new GradScaler();
      const v = weight([1, 1], "v");
      const order = expect.objectContaining({ code: "scaler.order" });
      expect(() => s.accumulator.add(gradients(other.scale(s.w.read().sum()), [s.w]))).toThrow(order);
      expect(() =>
        new optim.GradientAccumulator([s.w]).add(gradients(other.scale(s.w.read().sum()), [s.w]) as never),
      ).toThrow(order);
      expect(() => s.accumulator.add(gradients(s.scaler.scale(v.read().sum()), [v]))).toThrow(
        expect.objectContaining({ code: "gradient.missing", message: expect.stringMatching(/no gradient belongs/) }),
      );
      expect(() => new optim.GradientAccumulator([])).toThrow(expect.objectContaining({ code: "option.invalid" }));
      expect(await s.accumulator.microSteps.read().item()).toBe(0);
    });

    it("without a scaler it sums true gradients", async () => {
      const w = weight();
      const accumulator = new optim.GradientAccumulator([w]);
      for (const factor of [1, 3]) accumulator.add(gradients(w.read().mul(factor).sum(), [w]));
      new optim.SGD([w], { lr: 1 }).apply(accumulator.take());
      expect(await valuesOf(w)).toEqual([-1, -1]);
    });
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
