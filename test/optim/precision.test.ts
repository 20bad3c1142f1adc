/** What mixed precision is for: runs that fail without scaling or without float32 weights, and pass with them. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  GradScaler,
  gradients,
  linear,
  meanSquaredError,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const wave = (length: number, shift: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => Math.sin(12.9898 * i + shift));

/** Weighs the loss so little that the cotangents of the float16 product are below half of its least subnormal, 2^-24. */
const LOSS_WEIGHT = 2 ** -17;

/** Fits a linear map; the last loss over that of zero weights. */
async function fitted(options: ConstructorParameters<typeof GradScaler>[0], steps = 40): Promise<number> {
  const w = new Variable("w", [4, 8], "float32");
  const x = tensor(wave(32, 1), { shape: [4, 8] });
  const y = tensor(
    wave(16, 2).map((v) => v * 0.01),
    { shape: [4, 4] },
  );
  const scaler = new GradScaler(options);
  const optimizer = new optim.SGD([w], { lr: 0.5 / LOSS_WEIGHT });
  const step = compile((x: Tensor, y: Tensor) => {
    const loss = meanSquaredError(autocast("float16", () => linear(x, w.read())).cast("float32"), y);
    scaler.step(optimizer, gradients(scaler.scale(loss.mul(LOSS_WEIGHT)), [w]));
    scaler.update();
    return loss;
  });
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) losses.push(await (await step(x, y)).item());
  return (losses[steps - 1] ?? Number.NaN) / (losses[0] ?? Number.NaN);
}

/** Trains y = w x by AdamW at a small rate. */
async function train(dtype: "float32" | "bfloat16", masterWeights: "float32" | "none"): Promise<number> {
  const shape = [8, 8];
  const target = tensor(wave(64, 5), { shape });
  const w = new Variable(
    "w",
    shape,
    dtype,
    dtype === "float32" ? new Float32Array(64).fill(1) : new Uint16Array(64).fill(0x3f80),
  );
  const optimizer = new optim.AdamW([w], { lr: 1e-3, weightDecay: 0, masterWeights });
  const x = tensor(wave(128, 3), { shape: [16, 8] });
  const step = compile((x: Tensor) => {
    const product = autocast("bfloat16", () => linear(x, w.read())).cast("float32");
    const loss = meanSquaredError(product, linear(x, target));
    optimizer.apply(gradients(loss, [w]));
    return loss;
  });
  let last = Number.NaN;
  for (let i = 0; i < 150; i++) last = await (await step(x)).item();
  return last;
}

describe.each(DEVICES)("mixed precision on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("float16 gradients underflow without scaling, and the loss stays; scaled by 65536 they do not", async () => {
    const unscaled = await fitted({ enabled: false });
    const scaled = await fitted({});
    expect(unscaled).toBe(1);
    // The inputs have rank 2: the rest of the loss cannot be fitted.
    expect(scaled).toBeLessThan(0.4);
  });

  it("float16 overflows until the scale has come down, and then trains", async () => {
    const w = new Variable("w", [1, 4], "float32");
    const scaler = new GradScaler({ initialScale: 2 ** 24 });
    const optimizer = new optim.SGD([w], { lr: 0.1 });
    const step = compile((x: Tensor) => {
      const loss = autocast("float16", () => linear(x, w.read()))
        .cast("float32")
        .sub(3)
        .square()
        .mean();
      const outcome = scaler.step(optimizer, gradients(scaler.scale(loss), [w]));
      scaler.update();
      return outcome;
    });
    const applied: boolean[] = [];
    for (let i = 0; i < 16; i++)
      applied.push((await readOutcome(await step(tensor(wave(4, 0), { shape: [1, 4] })))).applied);
    const first = applied.indexOf(true);
    expect(first).toBeGreaterThan(5);
    expect(applied.slice(first).every((one) => one)).toBe(true);
    expect(await scaler.lossScale.item()).toBe(2 ** (24 - first));
  });

  it("bfloat16 weights without a float32 master train measurably worse", async () => {
    const reference = await train("float32", "float32");
    const master = await train("bfloat16", "float32");
    const rounded = await train("bfloat16", "none");
    expect(master).toBeLessThan(reference * 1.05);
    expect(rounded).toBeGreaterThan(reference * 1.2);
  });
});
