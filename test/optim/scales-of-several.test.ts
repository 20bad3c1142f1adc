/** What a step's outcome says of each of several scalers: its scale before and after, and whether it made the step skip. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  addGradients,
  autocast,
  compile,
  GradScaler,
  type GradScalerOptions,
  gradients,
  initialLossScale,
  type LossScaleRule,
  lossScaleRule,
  nextLossScale,
  optim,
  readOutcome,
  type StepOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { uniforms } from "../support/random.ts";

const INFINITE = Number.POSITIVE_INFINITY;
const weight = (name: string, values: readonly number[] = [1, 1]): Variable =>
  new Variable(name, [values.length], "float32", Float32Array.from(values));
const scaler = (name: string, initialScale: number, options: GradScalerOptions = {}): GradScaler =>
  new GradScaler({ name, initialScale, ...options });
/** One scaler of an outcome, as it should be read. */
const part = (
  name: string,
  [lossScaleBefore, lossScaleAfter]: readonly [number, number],
  reason: optim.SkipReason | null = null,
  atFloor = false,
): optim.ScalerReading => ({ name, lossScaleBefore, lossScaleAfter, reason, atFloor, exhausted: false });

describe.each(DEVICES)("scales of several scalers on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe("of a sum of gradients", () => {
    const setup = (options: { readonly a?: GradScalerOptions; readonly b?: GradScalerOptions } = {}) => {
      const w = weight("w");
      // The weights stay, and with them what overflows.
      const optimizer = new optim.SGD([w], { lr: 0 });
      const [a, b] = [scaler("a", 4, options.a), scaler("b", 16, options.b)] as const;
      const step = (first: Tensor, second: Tensor, how: optim.StepOptions = {}): StepOutcome => {
        const sum = addGradients(
          a.unscale(gradients(a.scale(w.read().mul(first).sum()), [w])),
          b.unscale(gradients(b.scale(w.read().mul(second).sum()), [w])),
        );
        const outcome = a.step(optimizer, sum, { checkGradients: false, ...how });
        a.update();
        b.update();
        return outcome;
      };
      return { a, b, step };
    };

    const rows: readonly (readonly [string, number, number, readonly optim.ScalerReading[]])[] = [
      ["both clean", 1, 2, [part("a", [4, 4]), part("b", [16, 16])]],
      ["a's gradients", 1e38, 2, [part("a", [4, 2], "gradientOverflow"), part("b", [16, 16])]],
      ["b's loss", 1, INFINITE, [part("a", [4, 4]), part("b", [16, 8], "forwardOverflow")]],
      ["each its own", 1e38, INFINITE, [part("a", [4, 2], "gradientOverflow"), part("b", [16, 8], "forwardOverflow")]],
    ];
    it.each(rows)("%s, compiled and as it is written", async (_, first, second, scalers) => {
      const [compiled, written] = [setup(), setup()];
      const step = compile((x: Tensor, y: Tensor) => compiled.step(x, y));
      for (const outcome of [await step(tensor(first), tensor(second)), written.step(tensor(first), tensor(second))]) {
        const read = await readOutcome(outcome);
        expect(read.scalers).toEqual(scalers);
        expect([read.lossScaleBefore, read.lossScaleAfter]).toEqual([4, scalers[0]?.lossScaleAfter]);
        expect(read.applied).toBe(scalers.every(({ reason }) => reason === null));
      }
    });

    it("in random order, each scale moves as it would alone, and each says what was its own", async () => {
      const [a, b] = [0, 1].map(() => lossScaleRule({ initialScale: 8, growthInterval: 2, floor: 2, ceiling: 64 }));
      const { step } = setup({
        a: { initialScale: 8, growthInterval: 2, floor: 2, ceiling: 64 },
        b: { initialScale: 8, growthInterval: 2, floor: 2, ceiling: 64 },
      });
      const compiled = compile((x: Tensor, y: Tensor) => step(x, y));
      const kinds = [1, 1, 1e38, INFINITE] as const;
      const reasonOf = (factor: number): optim.SkipReason | null =>
        factor === 1 ? null : factor === INFINITE ? "forwardOverflow" : "gradientOverflow";
      let states = [a, b].map((rule) => initialLossScale(rule as LossScaleRule));
      const draws = uniforms(71, 48, 0, kinds.length);
      for (let i = 0; i < draws.length; i += 2) {
        // 1e38 times a scale of 2 is finite: an overflow only above that.
        const factors = [0, 1].map((k) => kinds[Math.floor(draws[i + k] ?? 0)] ?? 1);
        const reasons = factors.map((factor, k) =>
          factor === 1e38 && (states[k]?.scale ?? 0) <= 2 ? null : reasonOf(factor),
        );
        const next = states.map((state, k) => nextLossScale(state, a as LossScaleRule, reasons[k] === null));
        const read = await readOutcome(await compiled(tensor(factors[0] ?? 1), tensor(factors[1] ?? 1)));
        expect(read.applied, `step ${i / 2}`).toBe(reasons.every((reason) => reason === null));
        expect(read.scalers, `step ${i / 2}: ${factors}`).toEqual(
          ["a", "b"].map((name, k) => {
            const [before, after] = [states[k]?.scale ?? 0, next[k]?.scale ?? 0];
            return part(name, [before, after], reasons[k], before === 2);
          }),
        );
        states = next;
      }
    });

    it("what only the sum shows is everybody's reason, and moves no scale", async () => {
      const { step } = setup();
      const norm = await readOutcome(step(tensor(3), tensor(4), { skipNormAbove: 5 }));
      expect(norm.scalers).toEqual([part("a", [4, 4], "normAboveLimit"), part("b", [16, 16], "normAboveLimit")]);
      // 1.5e38 and its double are finite; their sum over both scalers is not.
      const w = weight("w");
      const both = [0, 1].map((i) => new GradScaler({ name: `half ${i}`, staticScale: 1 }));
      const halves = both.map((one) => one.unscale(gradients(one.scale(w.read().mul(1.5e38).sum()), [w])));
      const [first, second] = halves.map((grads) => addGradients(grads, grads)) as [
        (typeof halves)[0],
        (typeof halves)[0],
      ];
      const outcome = both[0]?.step(new optim.SGD([w]), addGradients(first as never, second as never));
      const late = await readOutcome(outcome as StepOutcome);
      expect(late).toMatchObject({ applied: false, reason: "gradientOverflow" });
      expect(late.scalers?.map(({ reason }) => reason)).toEqual(["gradientOverflow", "gradientOverflow"]);
    });

    it("a scale beyond use is that scaler's reason", async () => {
      const w = weight("w");
      const [a, b] = [
        new GradScaler({ name: "a", staticScale: 2 ** -130 }),
        new GradScaler({ name: "b", staticScale: 4 }),
      ];
      const sum = addGradients(
        a.unscale(gradients(a.scale(w.read().sum()), [w])),
        b.unscale(gradients(b.scale(w.read().sum()), [w])),
      );
      const read = await readOutcome(b.step(new optim.SGD([w]), sum));
      expect(read).toMatchObject({ applied: false, reason: "scaleOutOfRange", lossScaleBefore: 4 });
      expect(read.scalers?.map(({ name, reason }) => [name, reason])).toEqual([
        ["a", "scaleOutOfRange"],
        ["b", null],
      ]);
    });

    it.each([
      ["b is at its floor and to blame", 1, 1e38, true],
      ["b is at its floor, and a to blame", 1e38, 1, false],
      ["both are to blame, and a can fall", 1e38, 1e38, false],
    ])("no scale can fall where %s: the stall detector follows those to blame", async (_, first, second, atFloor) => {
      const { step } = setup({ b: { floor: 16 } });
      const read = await readOutcome(step(tensor(first), tensor(second)));
      expect(read).toMatchObject({ applied: false, atFloor });
      const stall = new optim.StallDetector({ after: 1 }).observe(read);
      expect(stall?.kind).toBe(atFloor ? "stalled" : "adapting");
    });

    it("a preset that ends the run does so from any place", async () => {
      const { step } = setup({ b: { preset: "deepspeed", initialScale: 1, hysteresis: 1 } });
      const read = await readOutcome(step(tensor(1), tensor(INFINITE)));
      expect(read).toMatchObject({ applied: false, exhausted: true });
      expect(read.scalers?.map(({ exhausted }) => exhausted)).toEqual([false, true]);
    });

    it("an optimizer is judged by the scalers of its own parameters alone", async () => {
      const [v, w] = [weight("v"), weight("w")];
      const [a, b] = [scaler("a", 4), scaler("b", 16)];
      const optimizers = [v, w].map((one) => new optim.SGD([one], { lr: 1 }));
      const step = compile((second: Tensor) => {
        const sum = addGradients(
          a.unscale(gradients(a.scale(v.read().sum()), [v])),
          b.unscale(gradients(b.scale(w.read().mul(second).sum()), [w])),
        );
        const outcomes = optimizers.map((optimizer) => a.step(optimizer, sum));
        a.update();
        b.update();
        return outcomes;
      });
      const read = await Promise.all((await step(tensor(1e38))).map(readOutcome));
      expect(read.map(({ applied, scalers }) => [applied, scalers])).toEqual([
        [true, undefined],
        [false, undefined],
      ]);
      expect([await a.lossScale.item(), await b.lossScale.item()]).toEqual([4, 8]);
    });
  });

  it("one scaler says what it always said", async () => {
    const w = weight("w");
    const one = new GradScaler();
    const outcome = one.step(new optim.SGD([w]), gradients(one.scale(w.read().sum()), [w]));
    one.update();
    expect(await readOutcome(outcome)).toEqual({ applied: true, lossScaleBefore: 65536, lossScaleAfter: 65536 });
  });

  it("names begin those of the variables, so that a checkpoint holds the state of both", async () => {
    const [a, b, plain] = [scaler("a", 4), scaler("b", 16), new GradScaler()];
    const all = new Map([...a.namedState(), ...b.namedState(), ...plain.namedState()]);
    expect([...all.keys()]).toEqual([
      "a.lossScale.scale",
      "a.lossScale.growthTracker",
      "b.lossScale.scale",
      "b.lossScale.growthTracker",
      "lossScale.scale",
      "lossScale.growthTracker",
    ]);
    expect([a.name, plain.name]).toEqual(["a", "scaler"]);
  });

  describe("over a border", () => {
    /** hidden = lower · x in float16; above it, times `slope` in float16, plus the upper weight. */
    const setup = (upperScale = 2 ** 8, lowerScale = 2 ** 4) => {
      const [lower, upper] = [weight("lower"), weight("upper")];
      const [top, bottom] = [scaler("top", upperScale), scaler("bottom", lowerScale, { growthInterval: 2 })];
      const optimizers = [lower, upper].map((v) => new optim.SGD([v], { lr: 2 ** -20 })) as [optim.SGD, optim.SGD];
      const step = compile((x: Tensor, slope: Tensor) => {
        const loss = autocast("float16", () => {
          const hidden = bottom.rescale(lower.read().cast("float16").mul(x.cast("float16")), top);
          return hidden.mul(slope.cast("float16")).cast("float32").sum().add(upper.read().sum());
        });
        const grads = gradients(top.scale(loss), [lower, upper]);
        const outcomes = [
          bottom.step(optimizers[0], bottom.scaledGradients(grads, optimizers[0])),
          top.step(optimizers[1], top.unscale(grads, optimizers[1])),
        ];
        for (const one of [bottom, top]) one.update();
        return outcomes;
      });
      const run = async (x: number, slope: number) =>
        Promise.all((await step(tensor([x, x]), tensor([slope, slope]))).map(readOutcome));
      return { lower, upper, top, bottom, run };
    };

    it("an overflow above it is the upper scaler's, whose scale falls until it fits; the lower one's holds", async () => {
      const s = setup();
      const seen: unknown[] = [];
      for (let i = 0; i < 4; i++) {
        const [below, above] = await s.run(1, 1000);
        seen.push([
          below?.applied,
          below?.scalers?.map((p) => [p.name, p.lossScaleBefore, p.lossScaleAfter, p.reason]),
        ]);
        expect(above?.applied).toBe(true);
      }
      expect(seen).toEqual([
        [
          false,
          [
            ["bottom", 16, 16, null],
            ["top", 256, 128, "gradientOverflow"],
          ],
        ],
        [
          false,
          [
            ["bottom", 16, 16, null],
            ["top", 128, 64, "gradientOverflow"],
          ],
        ],
        [
          true,
          [
            ["bottom", 16, 16, null],
            ["top", 64, 64, null],
          ],
        ],
        [
          true,
          [
            ["bottom", 16, 32, null],
            ["top", 64, 64, null],
          ],
        ],
      ]);
    });

    it("an overflow below it is the lower scaler's, and the upper one's counts as clean", async () => {
      const s = setup(2 ** 4, 2 ** 16);
      const [below, above] = await s.run(256, 1);
      expect(below).toMatchObject({
        applied: false,
        reason: "gradientOverflow",
        parameters: ["lower"],
        atFloor: false,
      });
      expect(below?.scalers).toEqual([
        part("bottom", [2 ** 16, 2 ** 15], "gradientOverflow"),
        part("top", [2 ** 4, 2 ** 4]),
      ]);
      expect(above).toEqual({ applied: true, lossScaleBefore: 2 ** 4, lossScaleAfter: 2 ** 4 });
      expect(await s.top.state()).toMatchObject({ growthTracker: 1 });
    });

    it("an infinite loss is a forward overflow on both sides", async () => {
      const s = setup();
      const [below, above] = await s.run(1, INFINITE);
      expect(below).toMatchObject({ applied: false, reason: "forwardOverflow" });
      expect(below?.scalers?.map(({ name, reason }) => [name, reason])).toEqual([
        ["bottom", null],
        ["top", "forwardOverflow"],
      ]);
      expect(above?.applied).toBe(true);
    });

    it("of three parts, the blame goes to where it began", async () => {
      const v = weight("v");
      const [top, middle, bottom] = [scaler("top", 2), scaler("middle", 2 ** 15), scaler("bottom", 8)];
      const optimizer = new optim.SGD([v], { lr: 2 ** -20 });
      const step = compile((slope: Tensor) => {
        const half = (x: Tensor): Tensor => x.mul(slope.cast("float16"));
        const low = bottom.rescale(v.read().cast("float16"), middle);
        const high = middle.rescale(half(low), top);
        const grads = gradients(top.scale(high.cast("float32").sum()), [v]);
        const outcome = bottom.step(optimizer, bottom.scaledGradients(grads, optimizer));
        bottom.update();
        return outcome;
      });
      const read = await readOutcome(await step(tensor([4, 4])));
      expect(read.applied).toBe(false);
      expect(read.scalers?.map(({ name, reason }) => [name, reason])).toEqual([
        ["bottom", null],
        ["middle", "gradientOverflow"],
        ["top", null],
      ]);
      expect(await bottom.state()).toMatchObject({ scale: 8, growthTracker: 0 });
    });

    it("refuses what came over it before an update of either side", () => {
      const lower = weight("lower");
      for (const early of ["top", "bottom"] as const) {
        const scalers = { top: scaler("top", 4), bottom: scaler("bottom", 8) };
        const { top, bottom } = scalers;
        const optimizer = new optim.SGD([lower]);
        const other = weight("other");
        const loss = bottom.rescale(lower.read(), top).sum().add(other.read().sum());
        const grads = gradients(top.scale(loss), [lower, other]);
        const own = scalers[early];
        own.step(new optim.SGD([other]), gradients(own.scale(other.read().sum()), [other]));
        own.update();
        expect(() => bottom.step(optimizer, bottom.scaledGradients(grads, [lower] as never))).toThrow(
          expect.objectContaining({ code: "option.invalid" }),
        );
        expect(() => bottom.step(optimizer, bottom.scaledGradients(grads, optimizer))).toThrow(
          expect.objectContaining({
            code: "scaler.order",
            message: expect.stringMatching(new RegExp(`from top to bottom before the last update\\(\\) of ${early}`)),
          }),
        );
      }
    });
  });
});
