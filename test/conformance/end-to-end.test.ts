/** Conformance, end to end: underflow and its cure, runs in every precision, resuming after every step, replicas. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  GradScaler,
  type Grads,
  gradients,
  linear,
  nn,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { eventsOf, ofType, temporaryFolder, tinyModel, tinyRun } from "../train/tiny.ts";

/** Normal numbers, the same for the same seed (Box and Muller over a golden-ratio sequence). */
function normals(count: number, seed: number): Float32Array {
  const uniform = (i: number): number =>
    (((i + 1) * 0.6180339887498949 + seed * 0.7548776662466927) % 1) * 0.9999 + 5e-5;
  return Float32Array.from(
    { length: count },
    (_, i) => Math.sqrt(-2 * Math.log(uniform(i))) * Math.cos(2 * Math.PI * uniform(i + 7 * count)),
  );
}

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });
  /** The reference device is slow: it makes the shorter runs where there is another one. */
  const isSlow = device === "reference" && DEVICES.length > 1;

  describe("case 66: two thirds of the gradients underflow in float16", () => {
    /** Cotangents of the float16 product: errors of normal targets over 24 binades, so little weighed that ⅔ are below 2⁻²⁵. */
    const LOSS_WEIGHT = 2 ** -20;
    const target = normals(64, 3);
    const input = normals(256, 5);

    const underflowing = (): number => {
      const errors = target.map((t) => Math.abs((2 * t * LOSS_WEIGHT) / 64));
      return errors.filter((g) => g < 2 ** -25).length / errors.length;
    };

    async function lastLoss(half: "float16" | false, scaler: GradScaler): Promise<number> {
      const weight = new Variable("w", [4, 16], "float32");
      const optimizer = new optim.SGD([weight], { lr: 0.5 / LOSS_WEIGHT });
      const step = compile((x: Tensor, y: Tensor) => {
        const product = autocast(half, () => linear(x, weight.read())).cast("float32");
        const loss = product.sub(y).square().mean();
        scaler.step(optimizer, gradients(scaler.scale(loss.mul(LOSS_WEIGHT)), [weight]));
        scaler.update();
        return loss;
      });
      const x = tensor(input, { shape: [16, 16] });
      const y = tensor(target, { shape: [16, 4] });
      let loss = Number.NaN;
      for (let i = 0; i < 40; i++) loss = await (await step(x, y)).item();
      return loss;
    }

    it("fails without scaling, and passes at × 8", async () => {
      expect(underflowing()).toBeGreaterThan(0.6);
      expect(underflowing()).toBeLessThan(0.75);
      const full = await lastLoss(false, new GradScaler({ enabled: false }));
      const unscaled = await lastLoss("float16", new GradScaler({ enabled: false }));
      const scaled = await lastLoss("float16", new GradScaler({ staticScale: 8 }));
      expect(unscaled).toBeGreaterThan(2 * full);
      expect(scaled).toBeLessThan(1.25 * full);
    });
  });

  it("case 68: stopped after every step and resumed: the same losses", async () => {
    const steps = isSlow ? 2 : 6;
    const options = () => ({
      precision: "fp16-mixed" as const,
      steps,
      lossScale: { initialScale: 2 ** 21, growthInterval: 1 },
      model: tinyModel({ dropout: 0.25 }),
    });
    const lossesOf = (events: Awaited<ReturnType<typeof eventsOf>>): number[] =>
      ofType(events, "step").map(({ loss }) => loss);
    const whole = lossesOf(await eventsOf(tinyRun({ ...options(), out: temporaryFolder() })));
    const out = temporaryFolder();
    const pieces: number[] = [];
    for (let i = 0; i < steps; i++)
      pieces.push(...lossesOf(await eventsOf(tinyRun({ ...options(), out, resume: i > 0 }), 1)));
    expect(pieces).toEqual(whole);
  });

  it("case 69: of two replicas one overflows: both skip, and their scales agree", async () => {
    const replicas = [0, 1].map(() => {
      const weight = new Variable("w", [3], "float32", new Float32Array([1, 2, 3]));
      const scaler = new GradScaler({ initialScale: 8, growthInterval: 2 });
      return { weight, scaler, optimizer: new optim.AdamW([weight], { lr: 0.1 }) };
    });
    /** All-reduce: the sum of both replicas' scaled gradients, given to both. */
    const reduced = (own: readonly Grads<"scaled">[]): readonly Grads<"scaled">[] =>
      replicas.map(({ weight, scaler }) => {
        const parts = own.flatMap((grads) => [...grads.values()]);
        return scaler.scaledGradients([[weight, parts.reduce((a, b) => a.add(b))]]);
      });
    const step = compile((x: Tensor, y: Tensor) => {
      const own = replicas.map(({ weight, scaler }, i) =>
        gradients(
          scaler.scale(
            weight
              .read()
              .mul(i === 0 ? x : y)
              .sum(),
          ),
          [weight],
        ),
      );
      const shared = reduced(own);
      return replicas.map(({ scaler, optimizer }, i) => {
        const outcome = scaler.step(optimizer, shared[i] as Grads<"scaled">);
        scaler.update();
        return { outcome };
      });
    });
    // Of the second replica the loss is finite, and the gradient, times 8 or 4, is not.
    const [clean, bad] = [tensor([1, 2, 3]), tensor([1, 1e38, 3])];
    const seen: string[] = [];
    for (const y of [clean, bad, clean, clean]) {
      const outcomes = await Promise.all((await step(clean, y)).map(({ outcome }) => readOutcome(outcome)));
      expect(outcomes[0]).toEqual(outcomes[1]);
      seen.push(`${outcomes[0]?.applied} ${outcomes[0]?.lossScaleAfter}`);
      const [first, second] = await Promise.all(replicas.map(({ weight }) => weight.bytes()));
      expect(first).toEqual(second);
    }
    expect(seen).toEqual(["true 8", "false 4", "true 4", "true 8"]);
  });
});

/** 300 steps four times: on the fastest device. */
describe.each(DEVICES.slice(-1))("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("case 67: float32, bfloat16 and scaled float16 end alike, unscaled float16 measurably worse", async () => {
    const steps = 300;
    const points = normals(32 * 8, 9);
    /** Which of the first four coordinates is the largest. */
    const labels = tensor(
      Int32Array.from({ length: 32 }, (_, i) => {
        const four = points.subarray(8 * i, 8 * i + 4);
        return four.indexOf(Math.max(...four));
      }),
    );
    const LOSS_WEIGHT = 2 ** -20;
    /** A classifier whose loss is weighed down until the largest cotangent of a logit, ¾ · 2⁻²⁰ / 32, rounds to 0 in float16. */
    const run = async (half: "float16" | "bfloat16" | false, enabled: boolean): Promise<number> => {
      const model = new nn.Sequential(
        new nn.Linear(8, 32, { seed: 1 }),
        new nn.GELU(),
        new nn.Linear(32, 4, { seed: 2 }),
      );
      const optimizer = new optim.SGD(model, { lr: 0.5 / LOSS_WEIGHT, momentum: 0.9 });
      const scaler = new GradScaler({ enabled, initialScale: 2 ** 10 });
      const step = compile((x: Tensor, targets: Tensor) => {
        const loss = autocast(half, () => crossEntropy(model.forward(x), targets));
        scaler.step(optimizer, gradients(scaler.scale(loss.mul(LOSS_WEIGHT)), model));
        scaler.update();
        return loss;
      });
      const x = tensor(points, { shape: [32, 8] });
      let loss = Number.NaN;
      for (let i = 0; i < steps; i++) loss = await (await step(x, labels)).item();
      return loss;
    };
    const full = await run(false, false);
    const first = Math.log(4);
    const progress = (loss: number): number => (first - loss) / (first - full);
    expect(full).toBeLessThan(0.2 * first);
    expect(progress(await run("bfloat16", false))).toBeGreaterThan(0.97);
    expect(progress(await run("float16", true))).toBeGreaterThan(0.97);
    expect(progress(await run("float16", false))).toBeLessThan(0.1);
  });
});
