/** Pooling and up-sampling against PyTorch's recorded values and gradients, NaN and ties, 16 bits, and what they refuse. */
import { beforeAll, describe, expect, it } from "vitest";
import { ulp } from "../../src/formats/index.ts";
import {
  adaptiveAvgPool1d,
  adaptiveAvgPool2d,
  adaptiveMaxPool1d,
  adaptiveMaxPool2d,
  autocast,
  avgPool1d,
  avgPool2d,
  compile,
  type DType,
  flatten,
  gradientsOf,
  maxPool1d,
  maxPool2d,
  nn,
  type Tensor,
  tensor,
  upsample,
  useDevice,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { type Recorded, readJson } from "../support/fixtures.ts";
import { expectRefusal } from "../support/refusal.ts";

type Argument = number | readonly number[];
type Options = Readonly<Record<string, number | boolean | string | readonly number[]>>;
interface Case {
  readonly function: keyof typeof FUNCTIONS;
  readonly arguments: readonly Argument[];
  readonly options: Options;
  readonly inputs: { readonly x: Recorded };
  readonly output: Recorded;
  readonly cotangent: Recorded;
  readonly gradients: { readonly x: Recorded };
}
type Compute = (x: Tensor, given: never) => Tensor;

const FUNCTIONS = {
  maxPool1d,
  maxPool2d,
  avgPool1d,
  avgPool2d,
  adaptiveAvgPool1d,
  adaptiveAvgPool2d,
  adaptiveMaxPool1d,
  adaptiveMaxPool2d,
  upsample,
};
const LAYERS: Readonly<Partial<Record<keyof typeof FUNCTIONS, (given: Argument, options: Options) => nn.Layer>>> = {
  maxPool1d: (size, options) => new nn.MaxPool1d(size, options),
  maxPool2d: (size, options) => new nn.MaxPool2d(size, options),
  avgPool1d: (size, options) => new nn.AvgPool1d(size, options),
  avgPool2d: (size, options) => new nn.AvgPool2d(size, options),
  adaptiveAvgPool1d: (size) => new nn.AdaptiveAvgPool1d(size),
  adaptiveAvgPool2d: (size) => new nn.AdaptiveAvgPool2d(size),
  adaptiveMaxPool1d: (size) => new nn.AdaptiveMaxPool1d(size),
  adaptiveMaxPool2d: (size) => new nn.AdaptiveMaxPool2d(size),
  upsample: (_, options) => new nn.Upsample(options),
};
const FIXTURES = readJson<Record<string, Case>>("vision-rows.json");
const NAMES = Object.keys(FIXTURES).filter((name) => /Pool|upsample/.test(name));

const load = ({ shape, data }: Recorded, dtype: DType = "float32"): Tensor =>
  tensor(Float32Array.from(data), { shape }).cast(dtype);
const given = ({ arguments: [size], options }: Case): Argument | Options => size ?? options;
const apply = (recorded: Case, x: Tensor): Tensor =>
  (FUNCTIONS[recorded.function] as Compute)(x, given(recorded) as never);
const isMax = ({ function: name }: Case): boolean => name.includes("ax");

async function expectNear(
  got: Tensor | undefined,
  want: Recorded,
  allowed: (truth: number) => number,
  what: string,
): Promise<void> {
  expect(got?.shape, what).toEqual(want.shape);
  const values = (await got?.cast("float32").data()) ?? [];
  want.data.forEach((truth, i) => {
    expect(Math.abs(Number(values[i]) - truth), `${what}[${i}]: ${values[i]}, expected ${truth}`).toBeLessThanOrEqual(
      allowed(truth),
    );
  });
}

describe.each(DEVICES)("pooling and up-sampling on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(NAMES)("%s, as PyTorch", async (name) => {
    const recorded = FIXTURES[name] as Case;
    const step = compile((x: Tensor, g: Tensor) => {
      const out = apply(recorded, x);
      return { out, found: gradientsOf(out.mul(g).sum(), [x]) };
    });
    const { out, found } = await step(load(recorded.inputs.x), load(recorded.cotangent));
    // Maxima are exact; quotients round in float32; neighbours near position 8 have weights to 2⁻²¹, and differ by up to 4.
    const tolerance = isMax(recorded) ? 0 : recorded.options.mode === "bilinear" ? 4e-6 : 1e-6;
    await expectNear(out, recorded.output, () => tolerance, "value");
    await expectNear(found[0], recorded.gradients.x, () => Math.max(2e-6, tolerance), "∂x");
  });

  it.each(NAMES.filter((name) => !name.startsWith("upsample")))("%s in 16 bits is rounded once", async (name) => {
    const recorded = FIXTURES[name] as Case;
    for (const dtype of ["bfloat16", "float16"] as const) {
      // Eighths up to 1 are numbers of both formats.
      const out = apply(recorded, load(recorded.inputs.x, dtype));
      expect(out.dtype).toBe(dtype);
      await expectNear(out, recorded.output, (truth) => 0.5001 * ulp(truth, dtype) + 1e-7, dtype);
      expect(autocast(dtype, () => apply(recorded, load(recorded.inputs.x))).dtype).toBe("float32");
    }
  });

  it("up-samples in float32 under autocast, as PyTorch's CUDA list says", () => {
    const x = zeros([1, 1, 2, 2], "bfloat16");
    expect(upsample(x, { scaleFactor: 2 }).dtype).toBe("bfloat16");
    expect(autocast("bfloat16", () => upsample(x, { scaleFactor: 2 })).dtype).toBe("float32");
    expect(autocast("bfloat16", () => maxPool2d(x, { kernelSize: 2 })).dtype).toBe("bfloat16");
  });

  it("passes NaN and infinities on within their windows only", async () => {
    const x = tensor(
      Float32Array.of(
        1,
        Number.NaN,
        2,
        3,
        Number.POSITIVE_INFINITY,
        4,
        Number.NEGATIVE_INFINITY,
        Number.NEGATIVE_INFINITY,
      ),
      {
        shape: [1, 1, 8],
      },
    );
    const windows = { kernelSize: 2 };
    expect([...(await maxPool1d(x, windows).data())]).toEqual([Number.NaN, 3, Infinity, -Infinity]);
    expect([...(await avgPool1d(x, windows).data())]).toEqual([Number.NaN, 2.5, Infinity, -Infinity]);
    expect([...(await adaptiveAvgPool1d(x, 4).data())]).toEqual([Number.NaN, 2.5, Infinity, -Infinity]);
    const [g] = gradientsOf(
      maxPool1d(x, windows)
        .cast("float32")
        .mul(tensor([1, 2, 3, 4]))
        .sum(),
      [x],
    );
    expect([...((await g?.data()) ?? [])]).toEqual([0, 1, 0, 2, 3, 0, 4, 0]);
  });

  it("gives the whole gradient to the first of equal maxima, row by row, also beside padding", async () => {
    const x = zeros([1, 1, 3, 3]).add(-1);
    const [g] = gradientsOf(maxPool2d(x, { kernelSize: 2, stride: 2, padding: 1 }).sum(), [x]);
    expect([...((await g?.data()) ?? [])]).toEqual([1, 1, 0, 1, 1, 0, 0, 0, 0]);
    const [h] = gradientsOf(maxPool2d(x, { kernelSize: 3 }).sum(), [x]);
    expect([...((await h?.data()) ?? [])]).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  it("sums gradients of overlapping windows in float32, and rounds them once", async () => {
    const x = zeros([1, 1, 1, 400], "bfloat16");
    const [g] = gradientsOf(
      maxPool2d(x, { kernelSize: [1, 400], stride: 1 })
        .cast("float32")
        .sum(),
      [x],
    );
    expect([...((await g?.cast("float32").data()) ?? [])].slice(0, 2)).toEqual([1, 0]);
    const wide = zeros([1, 1, 1, 301], "bfloat16");
    const [h] = gradientsOf(
      upsample(wide.slice(3, 0, 1), { size: [1, 301] })
        .cast("float32")
        .sum(),
      [wide],
    );
    expect([...((await h?.cast("float32").data()) ?? [])].slice(0, 2)).toEqual([300, 0]); // 301 is a tie; sums in bfloat16 stop at 256
  });

  it.each(NAMES)("%s is the layer's too", async (name) => {
    const recorded = FIXTURES[name] as Case;
    const { kernelSize, ...options } = recorded.options;
    const size = recorded.arguments[0] ?? (kernelSize as Argument);
    const layer = LAYERS[recorded.function]?.(size, options);
    const x = load(recorded.inputs.x);
    expect([...((await layer?.forward(x).data()) ?? [])]).toEqual([...(await apply(recorded, x).data())]);
  });

  it("flattens", () => {
    expect(new nn.Flatten().forward(zeros([2, 3, 4, 5])).shape).toEqual([2, 60]);
    expect(flatten(zeros([2, 3, 4, 5]), 0, 1).shape).toEqual([6, 4, 5]);
    expect(new nn.Flatten(-2).forward(zeros([2, 3, 4, 5])).shape).toEqual([2, 3, 20]);
  });
});

const x = (...shape: readonly number[]): Tensor => zeros(shape);
const pictures = (): Tensor => x(1, 1, 4, 4);
const REFUSALS: readonly (readonly [string, () => unknown, string, readonly string[]])[] = [
  [
    "a window past the picture",
    () => maxPool2d(pictures(), { kernelSize: 5 }),
    "shape.invalid",
    ["window of 5", "into 4"],
  ],
  ["a dilated one", () => maxPool1d(x(1, 1, 4), { kernelSize: 3, dilation: 2 }), "shape.invalid", ["window of 5"]],
  [
    "too much padding",
    () => avgPool2d(pictures(), { kernelSize: 2, padding: 2 }),
    "shape.invalid",
    ["padding 2", "pad less"],
  ],
  ["matrices", () => maxPool2d(x(4, 4), { kernelSize: 2 }), "shape.invalid", ["[4, 4]", "height"]],
  ["a sequence as a picture", () => adaptiveAvgPool2d(x(1, 2, 4), 2), "shape.invalid", ["[1, 2, 4]", "height"]],
  ["stride 0", () => avgPool1d(x(1, 1, 4), { kernelSize: 2, stride: 0 }), "value.range", ["avgPool1d: stride", "0"]],
  [
    "three numbers for two axes",
    () => maxPool2d(pictures(), { kernelSize: [1, 2, 3] }),
    "option.invalid",
    ["kernelSize", "list of 2"],
  ],
  ["an output of nothing", () => new nn.AdaptiveMaxPool2d(0), "value.range", ["outputSize", "0"]],
  ["pictures of nothing", () => adaptiveMaxPool2d(x(1, 1, 0, 4), 2), "shape.invalid", ["0 elements"]],
  ["integers", () => maxPool2d(zeros([1, 1, 4, 4], "int32"), { kernelSize: 2 }), "dtype.unsupported", ["int32"]],
  [
    "dilated means",
    () => avgPool1d(x(1, 1, 9), { kernelSize: 2, dilation: 2 } as never),
    "option.unknown",
    ["dilation"],
  ],
  ["a size and a factor", () => upsample(pictures(), { size: 8, scaleFactor: 2 }), "option.invalid", ["either"]],
  ["neither", () => new nn.Upsample({}), "option.invalid", ["either"]],
  [
    "another mode",
    () => upsample(pictures(), { size: 8, mode: "cubic" as "nearest" }),
    "option.invalid",
    ["cubic", "bilinear"],
  ],
  [
    "corners of the nearest",
    () => upsample(pictures(), { size: 8, alignCorners: true }),
    "option.invalid",
    ["alignCorners"],
  ],
  ["a factor of 0", () => upsample(pictures(), { scaleFactor: 0 }), "value.range", ["scaleFactor", "0"]],
  ["one that leaves nothing", () => upsample(pictures(), { scaleFactor: 0.1 }), "shape.invalid", ["[1, 1, 0, 0]"]],
  ["bilinear sequences", () => upsample(x(1, 1, 4), { size: 8, mode: "bilinear" }), "shape.invalid", ["[1, 1, 4]"]],
  ["factors for other axes", () => upsample(pictures(), { scaleFactor: [2] }), "option.invalid", ["list of 2"]],
  ["axes that are not there", () => flatten(pictures(), 3, 1), "shape.invalid", ["axes 3 to 1"]],
];

describe("pooling and up-sampling refuse", () => {
  it.each(REFUSALS)("%s", (_, act, code, parts) => {
    useDevice("reference");
    expectRefusal(act, code, parts);
  });
});
