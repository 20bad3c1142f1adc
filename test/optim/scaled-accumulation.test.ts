/** Micro-steps at one loss scale: their mean, skipped windows, resuming within one. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  addGradients,
  compile,
  GradScaler,
  type GradScalerOptions,
  type Grads,
  gradients,
  mapGradients,
  nn,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  type Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { bytesOf, valuesOf, weight } from "../support/variables.ts";

describe.each(DEVICES)("scaled accumulation on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
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

    it("takes back what the windows of two accumulators moved, whichever began", async () => {
      const layer = new nn.BatchNorm1d(2);
      const scalers = [new GradScaler({ initialScale: 4 }), new GradScaler({ initialScale: 8 })] as const;
      const optimizer = new optim.SGD(layer, { lr: 0.1 });
      const parts = scalers.map((scaler) => {
        const sums = new optim.GradientAccumulator<"scaled">(layer, { scaler });
        const add = compile((x: Tensor) => {
          sums.add(gradients(scaler.scale(layer.forward(x).square().sum()), layer));
        });
        return { scaler, sums, add };
      });
      const apply = compile(() => {
        const [first, second] = parts.map(({ scaler, sums }) => scaler.unscale(sums.take())) as [
          Grads<"true">,
          Grads<"true">,
        ];
        const outcome = scalers[0].step(optimizer, addGradients(first, second));
        for (const scaler of scalers) scaler.update();
        return outcome;
      });
      const batch = (value: number): Tensor => tensor(Float32Array.of(value, 2, -3, 5), { shape: [2, 2] });
      const state = (): Promise<readonly string[]> => bytesOf(layer.buffers());
      const start = await state();
      for (const order of [[0, 1], [1, 0], [0, 0, 1], [1]]) {
        for (const [i, part] of order.entries())
          await parts[part]?.add(batch(i === order.length - 1 ? Number.POSITIVE_INFINITY : i));
        expect((await readOutcome(await apply())).applied).toBe(false);
        expect(await state()).toEqual(start);
      }
      for (const { add } of parts) await add(batch(1));
      expect((await readOutcome(await apply())).applied).toBe(true);
      expect(await state()).not.toEqual(start);
    });

    // Of three calls, of which the first is bad, the run ends after this many; the resumed one makes the rest, if any.
    it.each(
      [1, 2, 3].flatMap((made) => [true, false].map((isCompiled) => [made, isCompiled] as const)),
    )("takes back statistics of a window that was resumed after %i calls (compiled: %s)", async (made, isCompiled) => {
      const setup = () => {
        const layer = new nn.BatchNorm1d(2);
        const scaler = new GradScaler({ initialScale: 4 });
        const optimizer = new optim.SGD(layer, { lr: 0.1 });
        const sums = new optim.GradientAccumulator<"scaled">(layer, { scaler });
        const add = (x: Tensor, poison: Tensor) =>
          sums.add(
            mapGradients(gradients(scaler.scale(layer.forward(x).square().mean()), layer), (g) => g.add(poison)),
          );
        const apply = () => {
          const outcome = scaler.step(optimizer, sums.take());
          scaler.update();
          return outcome;
        };
        const parts = [optimizer, scaler, sums].flatMap((part) => [...part.namedState().values()]);
        return {
          layer,
          add: isCompiled ? compile(add) : add,
          apply: isCompiled ? compile(apply) : apply,
          variables: [...layer.parameters(), ...layer.buffers(), ...parts],
        };
      };
      const x = (seed: number): Tensor => tensor(Float32Array.of(seed, 2, -seed, 5), { shape: [2, 2] });
      const first = setup();
      await first.add(x(1), tensor(0));
      await first.apply();
      const before = await bytesOf(first.layer.buffers());
      const calls = [2, 3, 4].map((seed) => [x(seed), tensor(seed === 2 ? Number.NaN : 0)] as const);
      for (const call of calls.slice(0, made)) await first.add(...call);
      expect(await bytesOf(first.layer.buffers())).not.toEqual(before);
      const resumed = setup();
      for (const [i, v] of first.variables.entries()) await resumed.variables[i]?.load(await v.bytes());
      for (const call of calls.slice(made)) await resumed.add(...call);
      expect((await readOutcome(await resumed.apply())).applied).toBe(false);
      expect(await bytesOf(resumed.layer.buffers())).toEqual(before);
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
});
