/** Invariant 4 where it is easiest to see: 16-bit sums stop at 256 (bfloat16) or 2048 (float16) when ones are added. */
import { beforeAll, describe, expect, it } from "vitest";
import { linear, ones, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const COUNT = 4608;
const SUMS: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  matmul: (x) => x.reshape([1, COUNT]).matmul(x.reshape([COUNT, 1])),
  linear: (x) => linear(x.reshape([1, COUNT]), x.reshape([1, COUNT])),
  "sum of a row": (x) => x.reshape([1, COUNT]).sum({ axes: 1 }),
  "sum of a column": (x) => x.reshape([COUNT, 1]).sum({ axes: 0 }),
  mean: (x) => x.mean().mul(COUNT),
};

describe.each(DEVICES)("sums on %s accumulate in float32", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(Object.keys(SUMS))("%s", async (name) => {
    for (const dtype of ["bfloat16", "float16"] as const) {
      const x = tensor(new Float32Array(COUNT).fill(1)).cast(dtype);
      expect((await SUMS[name]?.(x).cast("float32").data())?.[0], dtype).toBe(COUNT);
    }
  });

  it("the anchors themselves: adding one by one in 16 bits stops", async () => {
    const grow = (dtype: "bfloat16" | "float16", from: number): Promise<number> =>
      ones([], dtype).mul(from).add(ones([], dtype)).cast("float32").item();
    expect(await grow("bfloat16", 256)).toBe(256);
    expect(await grow("float16", 2048)).toBe(2048);
  });
});
