/** Clipping by the global norm: its value over the whole range of float32, and what it leaves of a gradient. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  clipByGlobalNorm,
  compile,
  GradScaler,
  type Grads,
  globalNorm,
  gradients,
  gradientsFrom,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const [a, b] = ["a", "b"].map((name) => new Variable(name, [2], "float32")) as [Variable, Variable];
const pair = (first: Tensor, second: Tensor) =>
  gradientsFrom([
    [a, first],
    [b, second],
  ]);

describe.each(DEVICES)("clipping on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  // 2^62 is the last of which float32 holds the sum of squares, 2^125 the last of which it holds the norm.
  it.each([0, 1, 40, 62, 63, 64, 90, 125, -20, -62])("the norm of gradients of 2^%d", async (exponent) => {
    const norm = compile((first: Tensor, second: Tensor) => globalNorm(pair(first, second)));
    const unit = 2 ** exponent;
    const got = await (await norm(tensor([2 * unit, -unit]), tensor([0, 2 * unit]))).item();
    expect(got).toBe(3 * unit);
  });

  it.each([1e10, 1e20, 1e37])("finite gradients of %d keep their direction", async (size) => {
    const clipped = [...clipByGlobalNorm(pair(tensor([size, 0]), tensor([0, -size])), 1).values()];
    const values = await Promise.all(clipped.map(async (gradient) => [...(await gradient.data())]));
    const root = Math.SQRT1_2;
    for (const [i, want] of [root, 0, 0, -root].entries()) expect(values.flat()[i]).toBeCloseTo(want, 6);
  });

  it("scaled gradients are not made true ones by another way to make them", () => {
    const scaled = gradients(new GradScaler().scale(a.read().sum()), [a]) as unknown as Grads<"true">;
    for (const misuse of [() => gradientsFrom(scaled), () => clipByGlobalNorm(scaled, 1), () => globalNorm(scaled)])
      expect(misuse).toThrow(
        expect.objectContaining({ code: "scaler.order", message: expect.stringContaining("of a are scaled") }),
      );
  });

  it("an infinity is not clipped away", async () => {
    const clipped = [...clipByGlobalNorm(pair(tensor([Infinity, 1]), tensor([1, 1])), 1).values()];
    expect(await (await clipped[0]?.data())?.[0]).toBeNaN();
  });
});
