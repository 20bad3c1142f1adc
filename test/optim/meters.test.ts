/** Meters against counting by hand, at every binade's border; lost updates against rounding by hand; in a compiled step. */
import { beforeAll, describe, expect, it } from "vitest";
import { round } from "../../src/formats/index.ts";
import {
  autocast,
  compile,
  crossEntropy,
  full,
  GradScaler,
  gradients,
  gradientsFrom,
  measureValues,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { expectRefusal } from "../support/refusal.ts";

const bits = (x: number): number => new Uint32Array(new Float32Array([x]).buffer)[0] ?? 0;
const ofBits = (word: number): number => new Float32Array(new Uint32Array([word]).buffer)[0] ?? 0;

/** Every binade: its first number, its last, one between; both signs; zeros, subnormals, infinities, NaN. */
const awkward = (): Float32Array => {
  const words = Array.from({ length: 255 }, (_, e) => e).flatMap((e) => [
    e << 23,
    (e << 23) + 0x7fffff,
    (e << 23) + 0x7f8001,
  ]);
  const numbers = words.map(ofBits).filter(Number.isFinite);
  return Float32Array.from([
    ...numbers,
    ...numbers.map((x) => -x),
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    Number.NaN,
  ]);
};

describe.each(DEVICES)("meters on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("count every element in the binade of its exponent", async () => {
    const values = awkward();
    const [reading] = await optim.readMeters(optim.meterValues([["x", tensor(values)]]));
    const histogram = new Int32Array(256);
    for (const value of values) {
      const e = Number.isFinite(value) ? (bits(value) >>> 23) & 0xff : 255;
      histogram[e] = (histogram[e] ?? 0) + 1;
    }
    expect(reading?.histogram).toEqual(histogram);
    const share = (holds: (x: number) => boolean): number =>
      values.filter((x) => holds(Math.abs(x))).length / values.length;
    expect(reading).toMatchObject({
      name: "x",
      size: values.length,
      zeroShare: share((x) => x === 0),
      belowSubnormalShare: share((x) => x > 0 && x < 2 ** -24),
      belowNormalShare: share((x) => x > 0 && x < 2 ** -14),
      aboveLargestShare: share((x) => x > 65504 && x < Number.POSITIVE_INFINITY),
      nonFiniteShare: share((x) => !Number.isFinite(x)),
    });
  });

  it.each(["float16", "bfloat16"] as const)("of %s read the exact values", async (half) => {
    const x = tensor([2 ** -20, 3e-5, 1, -1.5, 0, 60000]).cast(half);
    const [reading] = await optim.readMeters(optim.meterValues([["x", x]]));
    const filled = [...(reading?.histogram ?? [])].flatMap((count, e) => (count > 0 ? [[e - 127, count]] : []));
    expect(filled).toEqual([
      [-127, 1],
      [-20, 1],
      [-16, 1],
      [0, 2],
      [15, 1],
    ]);
  });

  it.each(["float16", "bfloat16"] as const)("count the updates that a %s weight would lose", async (half) => {
    const weights = Float32Array.from({ length: 40 }, (_, i) => 1 + i / 40);
    const slopes = Float32Array.from({ length: 40 }, (_, i) => (i % 4 === 0 ? 0 : 2 ** -(i % 14)));
    const weight = new Variable("w", [40], "float32", weights);
    const optimizer = new optim.SGD([weight], { lr: 0.25 });
    const grads = gradientsFrom([[weight, tensor(slopes)]]);
    const [reading] = await optim.readUpdateMeters(optim.meterUpdates(optimizer, grads, half));
    const next = weights.map((w, i) => w - Math.fround((slopes[i] ?? 0) * 0.25));
    const changed = [...weights.keys()].filter((i) => next[i] !== weights[i]);
    const lost = changed.filter((i) => round(next[i] ?? 0, half) === round(weights[i] ?? 0, half));
    expect(lost.length).toBeGreaterThan(2);
    expect(lost.length).toBeLessThan(changed.length - 2);
    expect(reading).toEqual({ name: "w", changed: changed.length, lostShare: lost.length / changed.length });
  });

  it("ride in a compiled step, and change none of its bits", async () => {
    const run = async (metered: boolean) => {
      const model = new nn.Sequential(
        new nn.Linear(4, 8, { seed: 1 }),
        new nn.ReLU(),
        new nn.Linear(8, 3, { seed: 2 }),
      );
      model.namedParameters();
      const optimizer = new optim.AdamW(model, { lr: 1e-2 });
      const scaler = new GradScaler({ initialScale: 1024 });
      const step = compile((x: Tensor, labels: Tensor) => {
        const loss = autocast("float16", () => crossEntropy(model.forward(x), labels));
        const scaled = gradients(scaler.scale(loss), model);
        const grads = scaler.unscale(scaled);
        const meters = metered
          ? {
              scaled: optim.meterValues(scaled),
              updates: optim.meterUpdates(optimizer, grads, "bfloat16"),
            }
          : null;
        scaler.step(optimizer, grads);
        scaler.update();
        return { meters };
      });
      const x = tensor(
        Float32Array.from({ length: 20 }, (_, i) => Math.sin(i)),
        { shape: [5, 4] },
      );
      let last: Awaited<ReturnType<typeof step>> | undefined;
      for (let i = 0; i < 3; i++) last = await step(x, tensor(Int32Array.of(0, 1, 2, 1, 0)));
      return { last, bytes: await Promise.all(model.parameters().map((parameter) => parameter.bytes())) };
    };
    const [metered, plain] = [await run(true), await run(false)];
    expect(metered.bytes).toEqual(plain.bytes);
    const meters = metered.last?.meters;
    if (meters == null) throw new Error("no meters");
    const readings = await optim.readMeters(meters.scaled);
    expect(readings.map(({ name, size }) => [name, size])).toEqual([
      ["layers.0.weight", 32],
      ["layers.0.bias", 8],
      ["layers.2.weight", 24],
      ["layers.2.bias", 3],
    ]);
    for (const { histogram, size } of readings) expect(histogram?.reduce((a, b) => a + b, 0)).toBe(size);
    const updates = await optim.readUpdateMeters(meters.updates);
    expect(updates.map(({ name }) => name)).toEqual(readings.map(({ name }) => name));
    for (const { lostShare } of updates) expect(lostShare).toBeLessThanOrEqual(1);
  });
});

describe("meters", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it("of every op are measured on request, with shares of float16's range", async () => {
    const layer = new nn.Linear(2, 2, { seed: 1 });
    layer.namedParameters();
    const step = (x: Tensor) => {
      const loss = autocast("float16", () => layer.forward(x))
        .cast("float32")
        .mul(2 ** -26)
        .sum();
      gradients(loss, layer);
      return loss;
    };
    const values = await measureValues(
      step,
      tensor([
        [1e5, 0],
        [0, 1],
      ]),
    );
    expect(values.find(({ op, isGradient }) => op === "input" && !isGradient)).toBeDefined();
    const argument = values.find(({ aboveLargestShare }) => aboveLargestShare > 0);
    expect(argument).toMatchObject({ op: "input", aboveLargestShare: 0.25, zeroShare: 0.5, largest: 1e5 });
    expect(values.find(({ nonFinite }) => nonFinite > 0)).toMatchObject({
      op: "cast",
      function: "linear",
      nonFinite: 1,
    });
    for (const { histogram, shape } of values)
      expect(histogram.reduce((a, b) => a + b, 0)).toBe(shape.reduce((a, b) => a * b, 1));
    // 10⁵ lies between 2^16 and 2^17, 1 in its own binade; two elements are 0.
    expect([...(argument?.histogram ?? [])].flatMap((count, e) => (count > 0 ? [[e - 127, count]] : []))).toEqual([
      [-127, 2],
      [0, 1],
      [16, 1],
    ]);
    const tiny = values.filter(({ isGradient, belowSubnormalShare }) => isGradient && belowSubnormalShare === 1);
    expect(tiny.length).toBeGreaterThan(0);
    expect(
      values
        .filter(({ isGradient, dtype }) => isGradient && dtype === "float16")
        .every(({ zeroShare }) => zeroShare === 1),
    ).toBe(true);
  });

  it("of no elements have no share of anything", async () => {
    const [reading] = await optim.readMeters(optim.meterValues([["none", full([0], 1)]]));
    expect(reading).toEqual({
      name: "none",
      size: 0,
      zeroShare: 0,
      belowSubnormalShare: 0,
      belowNormalShare: 0,
      aboveLargestShare: 0,
      nonFiniteShare: 0,
      histogram: new Int32Array(256),
    });
  });

  it.each<[string, () => unknown, string, readonly string[]]>([
    [
      "of updates in another dtype",
      () => {
        const weight = new Variable("w", [2], "float32");
        const grads = gradientsFrom([[weight, full([2], 1)]]);
        return optim.meterUpdates(new optim.SGD([weight], { lr: 1 }), grads, "float32" as "float16");
      },
      "option.invalid",
      ["meterUpdates", '"float32"'],
    ],
    ["of nothing", () => optim.meterValues([]), "option.invalid", ["at least one tensor"]],
    ["of integers", () => optim.meterValues([["ids", full([2], 1, "int32")]]), "dtype.unsupported", ["ids", "int32"]],
    [
      "of updates of 16-bit parameters",
      () => {
        const weight = new Variable("w", [2], "bfloat16");
        const grads = gradientsFrom([[weight, full([2], 1, "bfloat16")]]);
        return optim.meterUpdates(new optim.SGD([weight], { lr: 1 }), grads, "bfloat16");
      },
      "option.invalid",
      ["no float32 parameter"],
    ],
  ])("are refused %s", (_, act, code, parts) => {
    expectRefusal(act, code, parts);
  });
});
