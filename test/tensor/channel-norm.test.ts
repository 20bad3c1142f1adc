/** Batch norm and group norm against PyTorch's recorded steps, in 16 bits, with large means, and what they refuse. */
import { beforeAll, describe, expect, it } from "vitest";
import { ulp } from "../../src/formats/index.ts";
import {
  autocast,
  batchNorm,
  compile,
  type DType,
  gradientsOf,
  groupNorm,
  nn,
  type Tensor,
  tensor,
  useDevice,
  Variable,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { type Recorded, readJson } from "../support/fixtures.ts";
import { uniforms } from "../support/random.ts";
import { expectRefusal } from "../support/refusal.ts";

interface Differentiated {
  readonly inputs: Readonly<Record<"x" | "weight" | "bias", Recorded>>;
  readonly output: Recorded;
  readonly cotangent: Recorded;
  readonly gradients: Readonly<Record<"x" | "weight" | "bias", Recorded>>;
}
interface Step extends Differentiated {
  readonly runningMean: Recorded;
  readonly runningVariance: Recorded;
}
interface Case extends Partial<Differentiated> {
  readonly function: string;
  readonly arguments: readonly number[];
  readonly options: { readonly momentum?: number; readonly eps: number };
  readonly steps?: readonly Step[];
}
const FIXTURES = readJson<Record<string, Case>>("vision-rows.json");
const named = (name: string): readonly string[] => Object.keys(FIXTURES).filter((key) => key.startsWith(name));

const load = ({ shape, data }: Recorded): Tensor => tensor(Float32Array.from(data), { shape });

async function expectNear(got: Tensor | undefined, want: Recorded, relative: number, what: string): Promise<void> {
  expect([got?.dtype, got?.shape], what).toEqual(["float32", want.shape]);
  const values = (await got?.data()) ?? [];
  const scale = Math.max(1, ...want.data.map(Math.abs));
  want.data.forEach((truth, i) => {
    expect(Math.abs(Number(values[i]) - truth), `${what}[${i}]: ${values[i]}, expected ${truth}`).toBeLessThanOrEqual(
      relative * scale,
    );
  });
}

async function expectDifferentiated(
  { inputs, output, cotangent, gradients }: Differentiated,
  compute: (x: Tensor, weight: Tensor, bias: Tensor) => Tensor,
  relative: number,
): Promise<void> {
  const leaves = [load(inputs.x), load(inputs.weight), load(inputs.bias)] as const;
  const step = compile((x: Tensor, weight: Tensor, bias: Tensor, g: Tensor) => {
    const out = compute(x, weight, bias);
    return { out, found: gradientsOf(out.mul(g).sum(), [x, weight, bias]) };
  });
  const { out, found } = await step(...leaves, load(cotangent));
  await expectNear(out, output, relative, "value");
  for (const [i, key] of (["x", "weight", "bias"] as const).entries())
    await expectNear(found[i], gradients[key], 4 * relative, `∂${key}`);
}

/** A dozen float32 roundings; x − mean of values near 300 keeps 2⁻²⁴ · 300 of them. */
const toleranceOf = (name: string): number => (name.includes("large mean") ? 1e-4 : 1e-6);

const spread = (x: readonly number[] | ArrayLike<number>): { mean: number; variance: number } => {
  const values = Array.from(x);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return { mean, variance: values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length };
};

describe.each(DEVICES)("norms of channels on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(
    named("batchNorm"),
  )("%s, as PyTorch, with running statistics over three steps and in evaluation", async (name) => {
    const { steps = [], options } = FIXTURES[name] as Case;
    const channels = steps[0]?.runningMean.shape ?? [];
    const ones = new Float32Array(channels[0] ?? 0).fill(1);
    const running = {
      mean: new Variable("mean", channels, "float32"),
      variance: new Variable("variance", channels, "float32", ones),
    };
    expect(steps).toHaveLength(4);
    for (const [i, step] of steps.entries()) {
      const training = i < 3;
      await expectDifferentiated(
        step,
        (x, weight, bias) => batchNorm(x, weight, bias, { ...options, running, training }),
        toleranceOf(name),
      );
      await expectNear(running.mean.read(), step.runningMean, 1e-6, "running mean");
      await expectNear(running.variance.read(), step.runningVariance, 1e-6, "running variance");
    }
  });

  it.each(named("groupNorm"))("%s, as PyTorch", async (name) => {
    const recorded = FIXTURES[name] as Case & Differentiated;
    const [groups = 1] = recorded.arguments;
    await expectDifferentiated(recorded, (x, w, b) => groupNorm(x, groups, w, b, recorded.options), toleranceOf(name));
  });

  it.each(["bfloat16", "float16"] as const)("values of %s are those of float32, rounded once", async (dtype) => {
    const x = tensor(Float32Array.from(uniforms(1, 3 * 4 * 5, -3, 5)), { shape: [3, 4, 5] }).cast(dtype);
    const [w, b] = [2, 3].map((seed) => tensor(Float32Array.from(uniforms(seed, 4)), { shape: [4] }));
    const wide = x.cast("float32");
    for (const [narrow, truth] of [
      [batchNorm(x, w, b), batchNorm(wide, w, b)],
      [groupNorm(x, 2, w, b), groupNorm(wide, 2, w, b)],
    ] as const) {
      expect(narrow.dtype).toBe(dtype);
      const want = await truth.data();
      (await narrow.cast("float32").data()).forEach((value, i) => {
        expect(Math.abs(Number(value) - Number(want[i]))).toBeLessThanOrEqual(0.5001 * ulp(Number(want[i]), dtype));
      });
    }
  });

  it("keeps x's dtype under autocast, as PyTorch; group norm gives float32", () => {
    autocast("bfloat16", () => {
      for (const dtype of ["float32", "bfloat16"] as const) {
        expect(batchNorm(zeros([2, 4, 3], dtype)).dtype).toBe(dtype);
        expect(groupNorm(zeros([2, 4, 3], dtype), 2).dtype).toBe("float32");
      }
    });
  });

  it("finds the variance beside a mean of 10⁴ deviations, in one pass over more than one chunk", async () => {
    const shape = [3, 2, 130, 71];
    const noise = Float32Array.from(uniforms(5, 3 * 2 * 130 * 71, -1, 1));
    // Multiples of 2⁻¹⁰ within float32 beside 4096: the values themselves are exact.
    const values = noise.map(
      (v, i) => (Math.floor(i / (130 * 71)) % 2 === 0 ? 4096 : -4096) + Math.round(v * 1024) / 1024,
    );
    const layer = new nn.BatchNorm2d(2, { momentum: 1 });
    await layer.forward(tensor(values, { shape })).data();
    const [means, variances] = [await layer.runningMean.read().data(), await layer.runningVariance.read().data()];
    for (const channel of [0, 1]) {
      const { mean, variance } = spread(values.filter((_, i) => Math.floor(i / (130 * 71)) % 2 === channel));
      expect(Math.abs(Number(means[channel]) - mean)).toBeLessThan(2 ** -11);
      expect(Number(variances[channel]) / variance).toBeCloseTo((3 * 130 * 71) / (3 * 130 * 71 - 1), 4);
    }
  });

  it.each([
    [new nn.BatchNorm1d(3), [2, 3], [2, 3, 4], [2, 3, 4, 5]],
    [new nn.BatchNorm2d(3), [2, 3, 4, 5], [2, 3, 1, 1], [2, 3, 4]],
  ] as const)("layers take their ranks and no others", (layer, one, other, wrong) => {
    expect(layer.forward(zeros(one)).shape).toEqual(one);
    expect(layer.forward(zeros(other)).shape).toEqual(other);
    expect(() => layer.forward(zeros(wrong))).toThrow(expect.objectContaining({ code: "shape.invalid" }));
    expect([...layer.namedBuffers().keys()]).toEqual(["runningMean", "runningVariance"]);
    expect([...layer.namedParameters().keys()]).toEqual(["weight", "bias"]);
  });

  it("GroupNorm is groupNorm with parameters", async () => {
    const layer = new nn.GroupNorm(2, 4, { eps: 1e-3 });
    const x = tensor(Float32Array.from(uniforms(9, 24)), { shape: [2, 4, 3] });
    expect([...(await layer.forward(x).data())]).toEqual([
      ...(await groupNorm(x, 2, undefined, undefined, { eps: 1e-3 }).data()),
    ]);
  });
});

const x = (...shape: readonly number[]): Tensor => zeros(shape);
const REFUSALS: readonly (readonly [string, () => unknown, string, readonly string[]])[] = [
  [
    "one value per channel in training",
    () => batchNorm(x(1, 3, 1)),
    "shape.invalid",
    ["[1, 3, 1]", "one value", "batch"],
  ],
  ["one axis", () => batchNorm(x(3)), "shape.invalid", ["[3]", "(batch, channels"]],
  ["other channels", () => batchNorm(x(2, 3), x(4)), "shape.mismatch", ["[2, 3]", "3 channels", "weight", "[4]"]],
  ["another bias", () => groupNorm(x(2, 4), 2, x(4), x(2)), "shape.mismatch", ["bias", "[2]"]],
  [
    "evaluation without statistics",
    () => batchNorm(x(2, 3), x(3), x(3), { training: false }),
    "option.invalid",
    ["running"],
  ],
  ["a momentum above 1", () => new nn.BatchNorm2d(3, { momentum: 2 }), "value.range", ["BatchNorm2d: momentum", "2"]],
  ["a negative eps", () => new nn.GroupNorm(1, 3, { eps: -1 }), "value.range", ["eps", "-1"]],
  ["no channels", () => new nn.BatchNorm1d(0), "value.range", ["channels", "0"]],
  ["groups that do not divide", () => new nn.GroupNorm(2, 3), "shape.invalid", ["3 channels", "2 groups", "divides"]],
  ["the same in the function", () => groupNorm(x(2, 3), 2), "shape.invalid", ["3 channels", "2 groups"]],
  ["integers", () => batchNorm(zeros([2, 3], "int32" as DType)), "dtype.unsupported", ["int32"]],
  ["an integer weight", () => batchNorm(x(2, 3), zeros([3], "int32" as DType)), "dtype.unsupported", ["int32"]],
  ["another option", () => new nn.BatchNorm1d(3, { affine: false } as object), "option.unknown", ["affine"]],
];

describe("norms of channels refuse", () => {
  it.each(REFUSALS)("%s", (_, act, code, parts) => {
    useDevice("reference");
    expectRefusal(act, code, parts);
  });
});
