/** Conformance e.3, the scaler's interface: cases 21 to 23 and 29 to 35; 24 is in order-mistakes.test.ts, 25 to 28 in skips.test.ts. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  clipByGlobalNorm,
  compile,
  GradScaler,
  type Grads,
  gradients,
  mapGradients,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { readJson } from "../support/fixtures.ts";
import { weight } from "../support/variables.ts";

interface ScalerFixture {
  readonly cases: {
    readonly scale: { tensor: number; list: number[]; nested: [number, number[]] };
    readonly disabled: { scaleOf4: number; getScale: number; state: object; weight: number[] };
    readonly roundTrip: {
      source: optim.ScalerState;
      target: optim.ScalerState;
      beforeFirstUse: object;
      afterFirstUse: object;
    };
  };
}
const { cases } = readJson<ScalerFixture>("scaler.json");

describe.each(DEVICES)("GradScaler on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("21: scales a tensor, a list and nested lists, and nothing else", async () => {
    const scaler = new GradScaler({ initialScale: 2 });
    const four = tensor(4);
    expect(await scaler.scale(four).tensor.item()).toBe(cases.scale.tensor);
    const list = scaler.scale([four, four]);
    expect(await Promise.all(list.map((loss) => loss.tensor.item()))).toEqual(cases.scale.list);
    const [first, rest] = scaler.scale([four, [four, four]]);
    expect([await first.tensor.item(), await Promise.all(rest.map((loss) => loss.tensor.item()))]).toEqual(
      cases.scale.nested,
    );
    const notATensor = Object(4) as Tensor;
    expect(() => scaler.scale(notATensor)).toThrow(expect.objectContaining({ code: "option.invalid" }));
    expect(() => scaler.scale(tensor(new Int32Array([4])))).toThrow(
      expect.objectContaining({ code: "option.invalid" }),
    );
  });

  it("21: a float16 loss is scaled in float32, where 65536 fits", async () => {
    const scaled = new GradScaler().scale(tensor(3, { dtype: "float16" })).tensor;
    expect([scaled.dtype, await scaled.item()]).toEqual(["float32", 3 * 65536]);
  });

  it("22: disabled, everything passes through; infinities are skipped all the same", async () => {
    const scaler = new GradScaler({ enabled: false });
    expect(await scaler.scale(tensor(4)).tensor.item()).toBe(cases.disabled.scaleOf4);
    expect(await scaler.lossScale.item()).toBe(cases.disabled.getScale);
    const w = weight();
    const optimizer = new optim.SGD([w], { lr: 0.5 });
    scaler.step(optimizer, scaler.unscale(gradients(scaler.scale(w.read().sum()), [w])));
    scaler.update();
    expect([...(await w.read().data())]).toEqual(cases.disabled.weight);
    await scaler.load({ scale: 3, growthFactor: 2, backoffFactor: 0.5, growthInterval: 1, growthTracker: 0 });
    expect([await scaler.state(), scaler.namedState().size]).toEqual([cases.disabled.state, 0]);
    const outcome = scaler.step(optimizer, gradients(w.read().div(0).sum(), [w]));
    scaler.update();
    expect(await readOutcome(outcome)).toMatchObject({ applied: false, lossScaleBefore: 1, lossScaleAfter: 1 });
    expect([...(await w.read().data())]).toEqual(cases.disabled.weight);
  });

  it.each([false, true])("23: the state round trip (after first use: %s)", async (used) => {
    const { source, target, beforeFirstUse, afterFirstUse } = cases.roundTrip;
    const make = ({ growthTracker: _, scale: __, ...options }: optim.ScalerState): GradScaler =>
      new GradScaler(options);
    const [from, to] = [make(source), make(target)];
    if (used) for (const scaler of [from, to]) await scaler.scale(tensor(4)).tensor.item();
    await to.load(await from.state());
    expect(await to.state()).toEqual(used ? afterFirstUse : beforeFirstUse);
  });

  it("23: a state that cannot be gone on from changes nothing", async () => {
    const scaler = new GradScaler();
    const before = await scaler.state();
    const good = { scale: 8, growthFactor: 2, backoffFactor: 0.5, growthInterval: 5, growthTracker: 3 };
    for (const bad of [
      {},
      { ...good, scale: 0 },
      { ...good, growthTracker: -1 },
      { ...good, backoffFactor: 2 },
      { ...good, scale: 1e30 },
    ]) {
      await expect(scaler.load(bad)).rejects.toMatchObject({ code: "scaler.state" });
    }
    expect(await scaler.state()).toEqual(before);
  });

  it("31: clean, overflow, overflow, clean: the schedule advances twice", async () => {
    const w = weight([0]);
    const optimizer = new optim.SGD([w], { lr: (step) => step.add(1) });
    const scaler = new GradScaler();
    const step = compile((poison: Tensor) => {
      const scaled = mapGradients(gradients(scaler.scale(w.read().sum()), [w]), (gradient) => gradient.add(poison));
      const outcome = scaler.step(optimizer, scaler.unscale(scaled));
      scaler.update();
      return outcome;
    });
    const skipped: boolean[] = [];
    for (const poison of [0, Number.POSITIVE_INFINITY, Number.NaN, 0]) {
      skipped.push(!(await readOutcome(await step(tensor(poison)))).applied);
    }
    expect(skipped).toEqual([false, true, true, false]);
    expect([await w.read().item(), await optimizer.steps.read().item()]).toEqual([-(1 + 2), 2]);
    expect(await scaler.state()).toMatchObject({ scale: 16384, growthTracker: 1 });
  });

  it.each([
    [true, false],
    [false, true],
  ])("33: an infinity inserted after unscale (checkGradients: %s) is applied: %s", async (checkGradients, applied) => {
    const w = weight();
    const scaler = new GradScaler();
    const optimizer = new optim.SGD([w], { lr: 1 });
    const grads = scaler.unscale(gradients(scaler.scale(w.read().sum()), [w]));
    const poisoned = mapGradients(grads, (gradient) => gradient.div(0));
    const outcome = scaler.step(optimizer, poisoned, { checkGradients });
    scaler.update();
    expect((await readOutcome(outcome)).applied).toBe(applied);
    expect([...(await w.read().data())]).toEqual(applied ? [-Infinity, -Infinity] : [1, 1]);
  });

  it("34: saving and loading between all steps changes nothing", async () => {
    const flags = [0, 0, 1, 0, 0, 0, 1, 1, 0, 0].map((bad) => (bad === 1 ? Number.NaN : 0));
    const options = { initialScale: 64, growthInterval: 2 };
    const run = async (reload: boolean) => {
      const w = weight([0.5]);
      const optimizer = new optim.AdamW([w], { lr: 0.1 });
      let scaler = new GradScaler(options);
      const seen: unknown[] = [];
      for (const flag of flags) {
        if (reload) {
          const state = JSON.parse(JSON.stringify(await scaler.state())) as optim.ScalerState;
          scaler = new GradScaler();
          await scaler.load(state);
        }
        const scaled = mapGradients(gradients(scaler.scale(w.read().square().sum()), [w]), (g) => g.add(flag));
        const outcome = scaler.step(optimizer, scaled);
        scaler.update();
        seen.push(await readOutcome(outcome), await w.read().item());
      }
      return [...seen, await scaler.state()];
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it("35: gradients of a skipped step can be looked at, unscaled", async () => {
    const w = weight();
    const scaler = new GradScaler({ initialScale: 4 });
    const optimizer = new optim.SGD([w]);
    const step = compile((scaled: Tensor) => {
      const grads = scaler.unscale(scaler.scaledGradients([[w, scaled]]));
      const outcome = scaler.step(optimizer, grads);
      scaler.update();
      return { outcome, gradients: [...grads.values()] };
    });
    const result = await step(tensor([8, Number.POSITIVE_INFINITY]));
    expect((await readOutcome(result.outcome)).applied).toBe(false);
    expect([...((await result.gradients[0]?.data()) ?? [])]).toEqual([2, Number.POSITIVE_INFINITY]);
  });

  it("29: an optimizer of one's own gets true gradients, follows the flag, and needs no read", async () => {
    const w = new Variable("w", [2], "float32");
    const custom = {
      parameters: () => [w],
      *updates(grads: Grads<"true">) {
        const gradient = grads.get(w);
        if (gradient !== undefined) yield [w, w.read().add(gradient)] as const;
      },
    };
    const scaler = new GradScaler({ initialScale: 2 });
    const step = compile((scaled: Tensor) => {
      const outcome = scaler.step(custom, scaler.scaledGradients([[w, scaled]]));
      scaler.update();
      return outcome;
    });
    await step(tensor([2, 4]));
    await step(tensor([2, Number.NaN]));
    expect([...(await w.read().data())]).toEqual([1, 2]);
    expect(Object.keys(custom)).toEqual(["parameters", "updates"]);
  });

  it("30: Keras's numbers: lr 0.5, [1, 2, 3, 4] and gradients [1, 6, 7, 2]", async () => {
    const w = weight([1, 2, 3, 4]);
    const scaler = new GradScaler({ preset: "keras" });
    const scaled = tensor([1, 6, 7, 2].map((g) => g * 2 ** 15));
    scaler.step(new optim.SGD([w], { lr: 0.5 }), scaler.scaledGradients([[w, scaled]]));
    scaler.update();
    expect([...(await w.read().data())]).toEqual([0.5, -1, -0.5, 3]);
  });

  it("30: clipping comes after unscaling: 5 → 1 → −5", async () => {
    const w = weight([5]);
    const scaler = new GradScaler({ preset: "keras" });
    const optimizer = new optim.SGD([w], { lr: 2 });
    for (const [max, want] of [
      [2, 1],
      [3, -5],
    ] as const) {
      const grads = scaler.unscale(gradients(scaler.scale(w.read().mul(10).sum()), [w]));
      scaler.step(optimizer, clipByGlobalNorm(grads, max));
      scaler.update();
      expect(await w.read().item()).toBeCloseTo(want, 5);
    }
  });

  it("30: NaN in one share of a batch: nobody updates, and a float16 loss works", async () => {
    const w = weight();
    // Keras's 2^15: the first cotangent of a float16 loss is the scale itself, and 2^16 would overflow there.
    const scaler = new GradScaler({ preset: "keras" });
    const optimizer = new optim.SGD([w], { lr: 1 });
    const accumulator = new optim.GradientAccumulator<"scaled">([w], { scaler });
    const lossOf = (factor: number): Tensor => w.read().cast("float16").mul(factor).sum().cast("float16");
    for (const [factors, want] of [
      [[1, Number.NaN], 1],
      [[1, 3], -1],
    ] as const) {
      for (const factor of factors) accumulator.add(gradients(scaler.scale(lossOf(factor)), [w]));
      const outcome = scaler.step(optimizer, accumulator.take());
      scaler.update();
      expect((await readOutcome(outcome)).applied).toBe(want !== 1);
      expect([...(await w.read().data())]).toEqual([want, want]);
    }
  });

  it("32: of five micro-steps every second has no loss: the scaler is not touched by those", async () => {
    const w = weight();
    const scaler = new GradScaler({ initialScale: 2, growthInterval: 10 });
    const optimizer = new optim.SGD([w], { lr: 1 });
    for (let i = 0; i < 5; i++) {
      const loss = i % 2 === 1 ? null : w.read().sum();
      if (loss === null) continue;
      scaler.step(optimizer, gradients(scaler.scale(loss), [w]));
      scaler.update();
    }
    expect(await scaler.state()).toMatchObject({ growthTracker: 3 });
    expect(await optimizer.steps.read().item()).toBe(3);
  });
});
