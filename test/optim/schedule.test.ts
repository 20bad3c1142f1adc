/** Learning-rate schedules against plain numbers, exact at their corners; clipping by global norm. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  clipByGlobalNorm,
  globalNorm,
  gradientsFrom,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

interface Setting {
  readonly warmup: number;
  readonly total: number;
  readonly peak: number;
  readonly floor: number;
}

/** The documented formula in float64. */
function plain(t: number, { warmup, total, peak, floor }: Setting): number {
  if (t < warmup) return (peak * (t + 1)) / warmup;
  if (t >= total) return floor;
  const w = (1 + Math.cos((Math.PI * (t - warmup)) / (total - warmup))) / 2;
  return w * peak + (1 - w) * floor;
}

const SETTINGS: readonly Setting[] = [
  { warmup: 10, total: 50, peak: 1e-3, floor: 1e-4 },
  { warmup: 0, total: 30, peak: 0.3, floor: 0 },
  { warmup: 3, total: 4, peak: 6e-4, floor: 6e-5 },
  { warmup: 7, total: 1000, peak: 0.1, floor: 0.1 },
];

describe.each(DEVICES)("warmupCosine on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(SETTINGS)("is the formula for %o", async (setting) => {
    const { warmup, total, peak, floor } = setting;
    const rate = optim.warmupCosine(setting);
    const at = [
      ...new Set([
        0,
        1,
        warmup - 1,
        warmup,
        warmup + 1,
        (warmup + total) >> 1,
        total - 1,
        total,
        total + 1,
        10 * total,
      ]),
    ];
    const steps = at.filter((t) => t >= 0);
    for (const t of steps) {
      const got = await rate(tensor(t)).item();
      // Near the floor the two products cancel to an ulp of the peak.
      expect(Math.abs(got - plain(t, setting)), `t = ${t}`).toBeLessThanOrEqual(2e-7 * peak);
    }
    for (const t of [warmup - 1, warmup].filter((t) => t >= 0))
      expect(await rate(tensor(t)).item()).toBe(Math.fround(peak));
    for (const t of [total, 10 * total]) expect(await rate(tensor(t)).item()).toBe(Math.fround(floor));
  });

  it("constant is constant", async () => {
    expect(await optim.constant(0.25)(tensor(7)).item()).toBe(0.25);
  });

  const bad: readonly (readonly [string, Setting])[] = [
    ["option.invalid", { warmup: 5, total: 5, peak: 1, floor: 0 }],
    ["option.invalid", { warmup: 1, total: 5, peak: 1, floor: 2 }],
    ["value.range", { warmup: -1, total: 5, peak: 1, floor: 0 }],
    ["value.range", { warmup: 0.5, total: 5, peak: 1, floor: 0 }],
    ["value.range", { warmup: 0, total: 5, peak: Number.NaN, floor: 0 }],
  ];
  it.each(bad)("%s for %o", (code, setting) => {
    expect(() => optim.warmupCosine(setting)).toThrow(expect.objectContaining({ code }));
  });
});

describe.each(DEVICES)("clipping on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });
  const variable = (name: string, length: number): Variable => new Variable(name, [length], "float32");
  const grads = (...values: readonly (readonly number[])[]) =>
    gradientsFrom(values.map((list, i) => [variable(`p${i}`, list.length), tensor(Float32Array.from(list))]));
  const read = async (tensors: Iterable<Tensor>): Promise<readonly number[]> =>
    (await Promise.all([...tensors].map(async (x) => [...(await x.data())]))).flat();

  it("measures one norm over all gradients", async () => {
    expect(await globalNorm(grads([3], [0, 4])).item()).toBe(5);
  });

  it("divides by norm + 1e-6 where the norm exceeds the limit, and not below", async () => {
    const factor = Math.fround(1 / Math.fround(5 + 1e-6));
    expect(await read(clipByGlobalNorm(grads([3], [0, 4]), 1).values())).toEqual(
      [3, 0, 4].map((g) => Math.fround(g * factor)),
    );
    expect(await read(clipByGlobalNorm(grads([3], [0, 4]), 100).values())).toEqual([3, 0, 4]);
    expect(await read(clipByGlobalNorm(grads([0], [0]), 1).values())).toEqual([0, 0]);
  });

  it("refuses limits that are not positive, and no gradients", () => {
    for (const max of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => clipByGlobalNorm(grads([1]), max)).toThrow(expect.objectContaining({ code: "value.range" }));
    }
    expect(() => globalNorm(gradientsFrom([]))).toThrow(expect.objectContaining({ code: "gradient.missing" }));
  });
});
