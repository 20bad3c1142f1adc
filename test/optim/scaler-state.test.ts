/** The state of a scaler across compiled steps: loading, static scales, the reason of a skip. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  compile,
  GradScaler,
  type GradScalerOptions,
  gradients,
  gradientsFrom,
  mapGradients,
  optim,
  readOutcome,
  SCALE_PRESETS,
  type ScalePreset,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { weight } from "../support/variables.ts";

describe.each(DEVICES)("the state of a scaler on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("logMax learns from gradients that came by other means than unscale, and from none of no elements", async () => {
    const [w, empty] = [weight(), weight([], "empty")];
    const scaler = new GradScaler({ logMax: {} });
    const optimizer = new optim.SGD([w, empty], { lr: 0 });
    const entries = [
      [w, tensor([0.25, -0.5])],
      [empty, tensor([])],
    ] as const;
    scaler.step(optimizer, gradientsFrom(entries));
    scaler.update();
    expect(await scaler.state()).toMatchObject({ mean: -1, scale: 2 ** 16 });
    scaler.step(optimizer, scaler.unscale(scaler.scaledGradients(entries)));
    scaler.update();
    expect(await scaler.state()).toMatchObject({ growthTracker: 2 });
  });

  it("loading other factors records compiled steps anew", async () => {
    const w = weight();
    const scaler = new GradScaler({ initialScale: 8 });
    const optimizer = new optim.SGD([w], { lr: 0 });
    const step = compile(() => {
      scaler.step(optimizer, gradients(scaler.scale(w.read().sum()), [w]));
      scaler.update();
    });
    await step();
    await scaler.load({ scale: 8, growthFactor: 4, backoffFactor: 0.5, growthInterval: 1, growthTracker: 0 });
    await step();
    expect(await scaler.lossScale.item()).toBe(32);
    expect(step.traces).toBe(2);
  });

  it("tells a forward overflow from a gradient overflow", async () => {
    const w = weight([1]);
    const scaler = new GradScaler();
    const optimizer = new optim.SGD([w]);
    const step = compile((factor: Tensor) => {
      const outcome = scaler.step(optimizer, gradients(scaler.scale(w.read().mul(factor).sum()), [w]));
      scaler.update();
      return { outcome };
    });
    const reasonAt = async (factor: number): Promise<string> => {
      const read = await readOutcome((await step(tensor(factor))).outcome);
      return read.applied ? "applied" : read.reason;
    };
    expect(await reasonAt(Number.POSITIVE_INFINITY)).toBe("forwardOverflow");
    expect(await reasonAt(3e38)).toBe("gradientOverflow");
    expect(await reasonAt(1)).toBe("applied");
  });

  it("a static scale never moves", async () => {
    const w = weight([1]);
    const scaler = new GradScaler({ staticScale: 1000 });
    const optimizer = new optim.SGD([w], { lr: 1 });
    for (const [gradient, value] of [
      [Number.NaN, 1],
      [500, 0.5],
    ] as const) {
      const outcome = scaler.step(optimizer, scaler.scaledGradients([[w, tensor([gradient])]]));
      scaler.update();
      expect(await readOutcome(outcome)).toMatchObject({ lossScaleBefore: 1000, lossScaleAfter: 1000 });
      expect(await w.read().item()).toBeCloseTo(value, 6);
    }
  });

  it("a scale that is 2 only after this step is the scale of the next", async () => {
    const w = weight([1]);
    const scaler = new GradScaler({ initialScale: 1, growthInterval: 1 });
    const optimizer = new optim.SGD([w], { lr: 0 });
    const step = compile(() => {
      const outcome = scaler.step(optimizer, gradients(scaler.scale(w.read().sum()), [w]));
      scaler.update();
      return outcome;
    });
    for (const [lossScaleBefore, lossScaleAfter] of [
      [1, 2],
      [2, 4],
    ] as const) {
      expect(await readOutcome(await step())).toEqual({ applied: true, lossScaleBefore, lossScaleAfter });
    }
  });

  /** Every kind of scale that moves. */
  const kinds: readonly (readonly [string, GradScalerOptions])[] = [
    ["logMax", { logMax: { recoveryInterval: 2 } }],
    ["a tolerance and hysteresis", { tolerance: 0.2, hysteresis: 2, growthInterval: 3 }],
    ...Object.keys(SCALE_PRESETS).map(
      (preset) => [preset, { preset: preset as ScalePreset, growthInterval: 3 }] as const,
    ),
  ];
  it.each(kinds)("goes on from a checkpoint, or a saved state, to the same bits: %s", async (_, options) => {
    const make = () => {
      const w = weight([0.5, 2]);
      const scaler = new GradScaler(options);
      const optimizer = new optim.AdamW([w], { lr: 0.01 });
      const step = compile((poison: Tensor) => {
        const scaled = gradients(scaler.scale(w.read().square().sum()), [w]);
        const outcome = scaler.step(
          optimizer,
          mapGradients(scaled, (g) => g.add(poison)),
        );
        scaler.update();
        return outcome;
      });
      const variables = [w, ...optimizer.namedState().values(), ...scaler.namedState().values()];
      return { scaler, step, variables, bytes: () => Promise.all(variables.map(async (v) => String(await v.bytes()))) };
    };
    const flags = [0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0].map((bad) => tensor(bad === 1 ? Number.NaN : 0));
    const [whole, loaded] = [make(), make()];
    let resumed = make();
    for (const flag of flags) {
      const next = make();
      for (const [i, v] of next.variables.entries()) await v.load((await resumed.variables[i]?.bytes()) as Uint8Array);
      resumed = next;
      await loaded.scaler.load(JSON.parse(JSON.stringify(await loaded.scaler.state())) as optim.SavedScaler);
      for (const s of [whole, resumed, loaded]) await s.step(flag);
      expect(await resumed.bytes()).toEqual(await whole.bytes());
    }
    expect(await loaded.bytes()).toEqual(await whole.bytes());
    expect(await resumed.scaler.state()).toEqual(await whole.scaler.state());
    expect(
      new Set(await Promise.all([whole, make()].map(async (s) => JSON.stringify(await s.scaler.state())))).size,
    ).toBe(2);
  });

  it("refuses a state with other fields than its own, and changes nothing", async () => {
    const [counting, logMax] = [new GradScaler({ hysteresis: 2 }), new GradScaler({ logMax: {} })];
    const [a, b] = [await counting.state(), await logMax.state()];
    const refused = { code: "scaler.state" };
    await expect(counting.load(b)).rejects.toMatchObject(refused);
    await expect(logMax.load(a)).rejects.toMatchObject(refused);
    await expect(counting.load({ ...a, more: 1 } as never)).rejects.toMatchObject(refused);
    await expect(counting.load(await new GradScaler().state())).rejects.toMatchObject(refused);
    await expect(logMax.load({ ...b, scale: 2 ** 30 } as never)).rejects.toMatchObject(refused);
    await expect(logMax.load({ ...b, penalty: 0.5 } as never)).rejects.toMatchObject(refused);
    expect([await counting.state(), await logMax.state()]).toEqual([a, b]);
  });
});
