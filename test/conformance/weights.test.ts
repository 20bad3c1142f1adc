/** Conformance of weights and optimizer state, cases 53 and 55 to 59: what 16 bits lose, and what keeps it. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  GradScaler,
  gradients,
  gradientsFrom,
  linear,
  mapGradients,
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
  Float32Array.from({ length }, (_, i) => Math.sin(12.9898 * i * i + shift));
const filled = (length: number, bits: number): Uint16Array => new Uint16Array(length).fill(bits);
/** 1 in bfloat16, and the spacing there. */
const [ONE, SPACING] = [0x3f80, 2 ** -7];
const mean = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0) / values.length;

/** `count` bfloat16 ones, to each of which 0.001 is added a thousand times. */
async function afterThousandSteps(masterWeights: optim.MasterWeights, count: number): Promise<ArrayLike<number>> {
  const w = new Variable("w", [count], "bfloat16", filled(count, ONE));
  const optimizer = new optim.SGD([w], { lr: 1, masterWeights });
  const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
  const gradient = tensor(new Float32Array(count).fill(-0.001));
  for (let i = 0; i < 1000; i++) await step(gradient);
  return w.read().data();
}

/** Fits a linear map of 64 × 64; losses of 40 steps of AdamW. */
async function fitted(stateDType: optim.StateDType): Promise<number[]> {
  const shape = [64, 64];
  const w = new Variable("w", shape, "float32");
  const optimizer = new optim.AdamW([w], { lr: 0.01, weightDecay: 0, stateDType });
  const [x, y] = [tensor(wave(96 * 64, 1), { shape: [96, 64] }), tensor(wave(96 * 64, 2), { shape: [96, 64] })];
  const step = compile((x: Tensor, y: Tensor) => {
    const loss = meanSquaredError(linear(x, w.read()), y);
    optimizer.apply(gradients(loss, [w]));
    return loss;
  });
  const losses: number[] = [];
  for (let i = 0; i < 40; i++) losses.push(await (await step(x, y)).item());
  return losses;
}

describe.each(DEVICES)("weights and state on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("case 53: fairseq's numbers of one step of Adam over float16 weights with a float32 master", async () => {
    const w = new Variable("w", [1, 1], "float16", filled(1, 0x4200));
    const b = new Variable("b", [1], "float16", filled(1, 0x4500));
    const optimizer = new optim.Adam([w, b], { lr: 0.1 });
    const scaler = new GradScaler({ initialScale: 1, growthInterval: 1 });
    const step = compile((x: Tensor, target: Tensor) => {
      const output = autocast("float16", () => linear(x, w.read(), b.read()));
      const loss = output.cast("float32").sub(target).abs().sum();
      const wide = mapGradients(gradients(scaler.scale(loss), [w, b]), (gradient) => gradient.cast("float32"));
      const grads = scaler.unscale(wide);
      const norm = optim.globalNorm(grads);
      const outcome = scaler.step(optimizer, grads);
      scaler.update();
      return { loss, norm, outcome };
    });
    const { loss, norm, outcome } = await step(tensor([[2]]), tensor([[12]]));
    expect(await loss.item()).toBe(1);
    expect(await norm.item()).toBeCloseTo(2.2361, 4);
    expect(await readOutcome(outcome)).toMatchObject({ applied: true, lossScaleBefore: 1, lossScaleAfter: 2 });
    expect([await w.read().item(), await b.read().item()]).toEqual([3.099609375, 5.1015625]);
    const masters = ["w.master", "b.master"].map((name) => optimizer.namedState().get(name) as Variable);
    for (const [i, want] of [3.1, 5.1].entries()) {
      expect(await (masters[i] as Variable).read().item()).toBeCloseTo(want, 5);
    }
  });

  it("case 56: 1 + 1000 × 0.001 in bfloat16: nearest stays at 1, stochastic rounding and compensation reach 2", async () => {
    const count = 256;
    expect([...Array.from(await afterThousandSteps("none", 2))]).toEqual([1, 1]);
    // One step has a variance of at most spacing · 0.001: the mean of 256 has a deviation of 0.0055.
    expect(Math.abs(mean(await afterThousandSteps("stochastic", count)) - 2)).toBeLessThan(5 * 0.0055);
    // The pending part is a bfloat16, too: each of its roundings is off by at most 2^-9 of half a spacing of the weight.
    const [kahan = 0] = Array.from(await afterThousandSteps("kahan", 1));
    expect(Math.abs(kahan - 2)).toBeLessThanOrEqual(SPACING);
    for (const form of ["split", "float32"] as const)
      expect([...Array.from(await afterThousandSteps(form, 1))]).toEqual([2]);
  });

  it("case 56: AdamW of lr 1e-5 with stochastic rounding follows float32 for 5 steps, on average; nearest does not move", async () => {
    const shape = [256, 256];
    const moved: number[] = [];
    for (const masterWeights of ["stochastic", "none"] as const) {
      const w = new Variable("w", shape, "bfloat16", filled(65536, ONE));
      const optimizer = new optim.AdamW([w], { lr: 1e-5, weightDecay: 0, masterWeights });
      const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
      for (let i = 0; i < 5; i++) await step(tensor(new Float32Array(65536).fill(-1), { shape }));
      moved.push(mean(await w.read().data()) - 1);
    }
    // float32 moves by lr in each step. Each element goes up with probability 5e-5 / spacing: the mean's deviation is 2.4e-6.
    expect(Math.abs((moved[0] ?? 0) - 5e-5)).toBeLessThan(5 * 2.4e-6);
    expect(moved[1]).toBe(0);
  });

  it.each([
    "bfloat16",
    "int8-blockwise",
  ] as const)("case 57: %s state converges as float32 state does", async (state) => {
    const [want, got] = [await fitted("float32"), await fitted(state)];
    expect(want.at(-1)).toBeLessThan(0.5 * (want[0] ?? 0));
    got.forEach((loss, i) => {
      expect(Math.abs(loss / (want[i] ?? 0) - 1), `step ${i}`).toBeLessThan(0.02);
    });
  });

  it("case 59: a master beyond 65504 is reported: its float16 copy is infinite, and the next loss", async () => {
    const w = new Variable("w", [1, 2], "float16", filled(2, 0x7bef)); // 64992
    const optimizer = new optim.SGD([w], { lr: 1 });
    const scaler = new GradScaler({ staticScale: 1 });
    const report = (): Promise<number> => (optimizer.overflowedWeights().get("w") as Tensor).item();
    expect(await report()).toBe(0);
    await compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])))(tensor([[-5008, 0]]));
    expect([...(await w.read().data())]).toEqual([Infinity, 64992]);
    expect([...(await (optimizer.namedState().get("w.master") as Variable).read().data())]).toEqual([70000, 64992]);
    expect(await report()).toBe(1);
    const step = compile((x: Tensor) => {
      const loss = autocast("float16", () => linear(x, w.read()))
        .cast("float32")
        .square()
        .sum();
      const wide = mapGradients(gradients(scaler.scale(loss), [w]), (gradient) => gradient.cast("float32"));
      const outcome = scaler.step(optimizer, wide);
      scaler.update();
      return outcome;
    });
    expect(await readOutcome(await step(tensor([[1, 0]])))).toMatchObject({
      applied: false,
      reason: "forwardOverflow",
    });
  });
});

describe.runIf(DEVICES.includes("cpu"))("stochastic rounding on threads", () => {
  it("case 55: has the same bits for any number of threads", async () => {
    const results: string[] = [];
    for (const threads of [1, 2, 3]) {
      useDevice("cpu", { threads });
      const w = new Variable("w", [257, 513], "bfloat16", filled(257 * 513, ONE));
      const options = { lr: 1, momentum: 0.9, masterWeights: "stochastic", stateDType: "bfloat16" } as const;
      const optimizer = new optim.SGD([w], options);
      const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
      for (let i = 0; i < 2; i++) await step(tensor(wave(257 * 513, i), { shape: [257, 513] }));
      const momentum = optimizer.namedState().get("w.momentum") as Variable;
      results.push(
        `${Buffer.from(await w.bytes()).toString("base64")} ${Buffer.from(await momentum.bytes()).toString("base64")}`,
      );
    }
    expect(new Set(results).size).toBe(1);
  });
});
