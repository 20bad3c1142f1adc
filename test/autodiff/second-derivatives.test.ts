/** Gradients of gradients, against differences of gradients: products, softmax, norms, attention, losses. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  crossEntropy,
  gradientsOf,
  layerNorm,
  rmsNorm,
  scaledDotProductAttention,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

interface Case {
  readonly shape: readonly number[];
  readonly f: (x: Tensor) => Tensor;
}

const keys = (): Tensor => tensor([0.3, -1, 0.8, 0.1], { shape: [1, 2, 1, 2] });
const CASES: Readonly<Record<string, Case>> = {
  "a product": { shape: [3, 3], f: (x) => x.matmul(x.transpose()).tanh().sum() },
  softmax: { shape: [2, 3], f: (x) => x.softmax().square().sum() },
  "log sum exp": { shape: [2, 3], f: (x) => x.logSumExp().square().sum() },
  "layer norm": {
    shape: [2, 4],
    f: (x) =>
      layerNorm(x, tensor([1, 2, 3, 4]))
        .tanh()
        .sum(),
  },
  "RMS norm": { shape: [2, 4], f: (x) => rmsNorm(x).tanh().sum() },
  "cross entropy": { shape: [2, 3], f: (x) => crossEntropy(x, tensor(Int32Array.of(2, 0))) },
  attention: { shape: [1, 3, 1, 2], f: (x) => scaledDotProductAttention(x, x, x).square().sum() },
  // The first query sees no key.
  "causal attention with fewer keys": {
    shape: [1, 3, 1, 2],
    f: (x) => scaledDotProductAttention(x, keys(), keys(), { causal: true }).square().sum(),
  },
};

/** Σ (∂f/∂x)², whose gradient holds second derivatives. */
function squaredGradient({ f }: Case, x: Tensor): Tensor {
  const [gradient = x] = gradientsOf(f(x), [x]);
  return gradient.square().sum();
}

describe.each(DEVICES)("second derivatives on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(Object.entries(CASES))("of %s", async (_, example) => {
    const { shape } = example;
    const at = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(3 * i + 1));
    const x = tensor(at, { shape });
    const [second = x] = gradientsOf(squaredGradient(example, x), [x]);
    const got = [...(await second.data())];
    const step = 2 ** -9;
    for (const [i, value] of got.entries()) {
      const near = (distance: number): Promise<number> =>
        squaredGradient(example, tensor(at.with(i, (at[i] ?? 0) + distance), { shape })).item();
      const slope = ((await near(step)) - (await near(-step))) / (2 * step);
      expect(Math.abs(value - slope)).toBeLessThan(5e-3 + 0.01 * Math.abs(slope));
    }
  });
});
