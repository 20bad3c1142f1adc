/** Convolutions against PyTorch's recorded values and gradients, in three dtypes; what they refuse; the layers around them. */
import { beforeAll, describe, expect, it } from "vitest";
import { ulp } from "../../src/formats/index.ts";
import {
  autocast,
  BinadeError,
  conv1d,
  conv2d,
  convTranspose1d,
  convTranspose2d,
  type DType,
  gradients,
  gradientsOf,
  nn,
  type Tensor,
  tensor,
  useDevice,
  Variable,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { type Recorded, readJson } from "../support/fixtures.ts";

interface Case {
  readonly function: keyof typeof FUNCTIONS;
  readonly options: Readonly<Record<string, number | "same">>;
  readonly inputs: { readonly x: Recorded; readonly weight: Recorded; readonly bias?: Recorded };
  readonly output: Recorded;
  readonly cotangent: Recorded;
  readonly gradients: { readonly x: Recorded; readonly weight: Recorded; readonly bias?: Recorded };
}

const FUNCTIONS = { conv1d, conv2d, convTranspose1d, convTranspose2d };
const FIXTURES = readJson<Record<string, Case>>("convolution.json");

const load = ({ shape, data }: Recorded, dtype: DType = "float32"): Tensor =>
  tensor(Float32Array.from(data), { shape }).cast(dtype);

/** The recorded sums are exact in float32, so what is left is the one rounding to the result's dtype. */
async function expectRounded(got: Tensor | undefined, want: Recorded, dtype: DType, what: string): Promise<void> {
  expect([got?.dtype, got?.shape], what).toEqual([dtype, want.shape]);
  const values = (await got?.cast("float32").data()) ?? [];
  want.data.forEach((truth, i) => {
    const allowed = dtype === "float32" ? 0 : ulp(truth, dtype) / 2;
    expect(Math.abs(Number(values[i]) - truth), `${what}[${i}]: ${values[i]}, expected ${truth}`).toBeLessThanOrEqual(
      allowed,
    );
  });
}

describe.each(DEVICES)("convolutions on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(Object.keys(FIXTURES))("%s, as PyTorch", async (name) => {
    const recorded = FIXTURES[name] as Case;
    const { inputs, options } = recorded;
    for (const dtype of ["float32", "bfloat16", "float16"] as const) {
      const [x, weight] = [load(inputs.x, dtype), load(inputs.weight, dtype)];
      const operands = inputs.bias === undefined ? [x, weight] : [x, weight, load(inputs.bias)];
      const out = FUNCTIONS[recorded.function](x, weight, operands[2], options);
      await expectRounded(out, recorded.output, dtype, `${dtype} value`);
      const loss = out.cast("float32").mul(load(recorded.cotangent)).sum();
      const found = gradientsOf(loss, operands);
      await expectRounded(found[0], recorded.gradients.x, dtype, `${dtype} ∂x`);
      await expectRounded(found[1], recorded.gradients.weight, dtype, `${dtype} ∂weight`);
      if (recorded.gradients.bias !== undefined)
        await expectRounded(found[2], recorded.gradients.bias, "float32", `${dtype} ∂bias`);
    }
  });

  it("gives a variable its gradient in float32, and rounds values once, after the bias", async () => {
    const weight = new Variable("w", [1, 1, 1, 1], "float32", Float32Array.of(1));
    const bias = new Variable("b", [1], "float32", Float32Array.of(2 ** -9));
    const x = tensor(new Float32Array(301).fill(1), { shape: [7, 1, 43, 1] });
    const out = autocast("bfloat16", () => conv2d(x, weight.read(), bias.read()));
    expect(out.dtype).toBe("bfloat16");
    const values = await out.cast("float32").data();
    expect(values[0]).toBe(1); // 1 + 2⁻⁹ rounds to 1, and not a cast of the bias
    const [w = new Float32Array(), b = new Float32Array()] = await Promise.all(
      [weight, bias].map((v) => gradients(out.sum(), [v]).get(v)?.data()),
    );
    expect([w[0], b[0]]).toEqual([301, 301]); // no value of bfloat16, in which sums stop at 256
  });

  it("convolutions of no pictures have no elements, and a gradient of zeros", async () => {
    const weight = zeros([2, 3, 3, 3]);
    const out = conv2d(zeros([0, 3, 5, 5]), weight);
    expect(out.shape).toEqual([0, 2, 3, 3]);
    const [g] = gradientsOf(out.sum(), [weight]);
    expect([...((await g?.data()) ?? [1])].every((v) => v === 0)).toBe(true);
  });

  it("layers hold (out, in / groups, …) weights with PyTorch's bounds, and transposed ones (in, out / groups, …)", async () => {
    const layer = new nn.Conv2d(4, 8, [3, 1], { groups: 2, stride: 2, padding: [1, 0], seed: 1 });
    expect(layer.weight.shape).toEqual([8, 2, 3, 1]);
    expect(layer.forward(zeros([2, 4, 5, 5])).shape).toEqual([2, 8, 3, 3]);
    const bound = 1 / Math.sqrt(2 * 3);
    const parameters = [layer.weight, ...(layer.bias === null ? [] : [layer.bias])];
    for (const parameter of parameters) {
      const values = [...(await parameter.read().data())].map((v) => Math.abs(Number(v)));
      expect(Math.max(...values)).toBeLessThanOrEqual(bound);
      expect(Math.max(...values)).toBeGreaterThan(bound / 4);
    }
    const up = new nn.ConvTranspose2d(4, 6, 2, { stride: 2, groups: 2, bias: false });
    expect([up.weight.shape, up.bias]).toEqual([[4, 3, 2, 2], null]);
    expect(up.forward(zeros([1, 4, 3, 3])).shape).toEqual([1, 6, 6, 6]);
    expect(new nn.Conv1d(2, 3, 5, { padding: "same" }).forward(zeros([1, 2, 7])).shape).toEqual([1, 3, 7]);
    expect(new nn.ConvTranspose1d(2, 3, 4, { stride: 2, padding: 1 }).forward(zeros([1, 2, 7])).shape).toEqual([
      1, 3, 14,
    ]);
  });
});

describe("convolutions refuse", () => {
  const x = (...shape: number[]): Tensor => zeros(shape);
  const CASES: readonly (readonly [string, () => unknown, string, readonly string[]])[] = [
    [
      "a kernel past the padded input",
      () => conv2d(x(1, 1, 2, 2), x(1, 1, 5, 1), undefined, { padding: 1 }),
      "shape.invalid",
      ["conv2d: ", "[5, 1]", "[4, 4]", "padding"],
    ],
    [
      "stride 0",
      () => conv1d(x(1, 1, 4), x(1, 1, 1), undefined, { stride: 0 }),
      "value.range",
      ["conv1d: stride", "0"],
    ],
    [
      "a stride of two axes for one",
      () => conv1d(x(1, 1, 4), x(1, 1, 1), undefined, { stride: [1, 1] }),
      "option.invalid",
      ["conv1d: stride", "[1,1]"],
    ],
    [
      "negative padding",
      () => conv1d(x(1, 1, 4), x(1, 1, 1), undefined, { padding: -1 }),
      "value.range",
      ["padding", "-1"],
    ],
    ["dilation 0", () => conv1d(x(1, 1, 4), x(1, 1, 1), undefined, { dilation: 0 }), "value.range", ["dilation"]],
    [
      "other channels",
      () => conv2d(x(1, 3, 4, 4), x(8, 4, 1, 1)),
      "shape.mismatch",
      ["conv2d: ", "3 channels", "takes 4"],
    ],
    [
      "groups that do not divide",
      () => conv2d(x(1, 3, 4, 4), x(4, 1, 1, 1), undefined, { groups: 3 }),
      "shape.invalid",
      ["groups 3"],
    ],
    [
      "options in the bias's place",
      () => conv2d(x(1, 3, 4, 4), x(8, 3, 1, 1), { padding: 1 } as never),
      "option.invalid",
      ["conv2d: bias", "undefined where there is none", "options come last"],
    ],
    [
      "a picture without a batch",
      () => conv2d(x(3, 4, 4), x(8, 3, 1, 1)),
      "shape.invalid",
      ["conv2d: ", "(batch, channels, height, width)"],
    ],
    [
      "same padding with a stride",
      () => conv1d(x(1, 1, 4), x(1, 1, 3), undefined, { stride: 2, padding: "same" }),
      "option.invalid",
      ["same", "[2]"],
    ],
    [
      "a bias of another length",
      () => conv1d(x(1, 1, 4), x(2, 1, 3), x(3)),
      "shape.mismatch",
      ["bias [3]", "2 output channels"],
    ],
    [
      "an unknown option",
      () => conv1d(x(1, 1, 4), x(1, 1, 3), undefined, { strides: 2 } as object),
      "option.unknown",
      ["strides"],
    ],
    [
      "transposed: other channels",
      () => convTranspose2d(x(1, 3, 4, 4), x(4, 2, 3, 3)),
      "shape.mismatch",
      ["convTranspose2d: ", "3 channels", "(in, out / groups, …)"],
    ],
    [
      "transposed: output padding past the stride",
      () => convTranspose1d(x(1, 3, 4), x(3, 2, 3), undefined, { outputPadding: 1 }),
      "value.range",
      ["outputPadding [1]"],
    ],
    [
      "transposed: padding past the result",
      () => convTranspose1d(x(1, 3, 2), x(3, 2, 1), undefined, { padding: 1 }),
      "shape.invalid",
      ["padding [1]", "[2]"],
    ],
    [
      "transposed: groups that do not divide",
      () => convTranspose1d(x(1, 3, 2), x(3, 2, 1), undefined, { groups: 2 }),
      "shape.invalid",
      ["convTranspose1d: ", "groups 2"],
    ],
    ["a layer of no channels", () => new nn.Conv2d(0, 1, 1), "value.range", ["Conv2d: input channels"]],
    [
      "a layer in groups that do not divide",
      () => new nn.Conv2d(4, 6, 1, { groups: 4 }),
      "value.range",
      ["Conv2d: groups 4", "6"],
    ],
    [
      "a layer of three kernel sizes",
      () => new nn.Conv2d(4, 6, [1, 2, 3]),
      "option.invalid",
      ["Conv2d: kernel size", "[1,2,3]"],
    ],
    [
      "a layer with a misspelt option",
      () => new nn.ConvTranspose1d(4, 6, 1, { pad: 1 } as object),
      "option.unknown",
      ["pad"],
    ],
  ];
  it.each(CASES)("%s", (_, body, code, parts) => {
    let caught: unknown;
    try {
      body();
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(BinadeError);
    const { code: got, message } = caught as BinadeError;
    expect(got, message).toBe(code);
    for (const part of parts) expect(message).toContain(part);
  });
});
