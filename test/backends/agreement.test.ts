/** The cpu device against the reference on edges: positions of random numbers, empty shapes, infinities, extreme integers. Bit for bit. */
import { describe, expect, it } from "vitest";
import {
  BinadeError,
  crossEntropy,
  full,
  gradientsOf,
  RandomStream,
  scaledDotProductAttention,
  type Tensor,
  tensor,
  useDevice,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const INF = Number.POSITIVE_INFINITY;
const NAN = Number.NaN;
const int32 = (...values: number[]): Tensor => tensor(Int32Array.from(values));
const draw = (...shape: number[]): Tensor => new RandomStream(3).draw(shape);
const attend = (queries: number, keys: number): Tensor[] => {
  const [q, k, v] = [queries, keys, keys].map((n) => full([1, n, 2, 4], 1).add(0.5)) as [Tensor, Tensor, Tensor];
  const out = scaledDotProductAttention(q, k, v, { causal: true });
  return [out, ...gradientsOf(out.sum(), [q, k, v])];
};
const infinities = (): Tensor =>
  tensor([
    [INF, 0],
    [-INF, 0],
    [NAN, 0],
    [-INF, -INF],
    [INF, INF],
    [1, -INF],
  ]);
const signedZeros = (): [Tensor, Tensor] => [tensor([-0, 0, NAN, 1]), tensor([0, -0, 1, NAN])];

const CASES: Readonly<Record<string, () => Tensor | readonly Tensor[]>> = {
  "random numbers summed over the first axis": () => draw(8, 16).sum({ axes: 0 }),
  "random numbers times others, summed over the first axis": () =>
    draw(8, 16)
      .mul(tensor(Array.from({ length: 16 }, (_, i) => i)))
      .sum({ axes: 0 }),
  "the maximum of random numbers over a middle axis": () => draw(4, 5, 6).max({ axes: 1 }),
  "a random mask counted over outer axes": () =>
    draw(4, 5, 6)
      .greaterEqual(0.5)
      .cast("float32")
      .sum({ axes: [0, 2] }),
  "random numbers seen in another order": () => draw(4, 5, 6).permute([2, 0, 1]).add(1),
  "a filled float16 tensor in an expression": () =>
    full([4], 0.1, "float16").mul(tensor([1, 3, 7, 9], { dtype: "float16" })),
  "filled integers out of range": () => [
    full([2], 3e9, "int32").add(0),
    full([2], NAN, "int32").add(0),
    full([2], -1, "uint32").add(0),
    full([2], 300, "uint8").cast("float32"),
    full([2], 2, "bool").cast("float32"),
  ],
  "extremes over no axes, and of scalars": () => [
    tensor([3, 1, 2]).max({ axes: [] }),
    tensor([3, 1, 2]).argMax({ axes: [] }),
    tensor([[3, 1]]).min({ axes: [], keepAxes: true }),
    tensor(5).max(),
    tensor(5).argMin(),
  ],
  "extremes of signed zeros and NaN": () => [
    tensor([-0, 0]).max(),
    tensor([0, -0]).max(),
    tensor([-0, 0]).min(),
    tensor([0, -0]).min(),
    tensor([1, NAN, 7, NAN]).argMax(),
    tensor([NAN, 1]).min(),
    signedZeros()[0].maximum(signedZeros()[1]),
    signedZeros()[0].minimum(signedZeros()[1]),
  ],
  "softmax of infinite rows": () => infinities().softmax(),
  "log softmax of infinite rows": () => infinities().logSoftmax(),
  "log sum exp of infinite rows": () => infinities().logSumExp(),
  "cross entropy of infinite rows": () =>
    crossEntropy(infinities(), int32(0, 0, 1, 0, 1, 1), { reduction: "none", ignoreLabel: -1 }),
  "products over nothing": () => [
    zeros([2, 0])
      .matmul(zeros([0, 3]))
      .add(tensor([1, 2, 3])),
    zeros([2, 0], "float16")
      .matmul(zeros([0, 3], "float16"))
      .add(1),
    zeros([0, 4, 2]).matmul(zeros([0, 2, 3])),
  ],
  "attention without queries": () => attend(0, 3),
  "attention with queries that see no key": () => attend(3, 1),
  "attention without keys": () => attend(3, 0),
  "softmax of empty rows": () => zeros([3, 0]).softmax(),
  "log sum exp of empty rows": () => zeros([3, 0]).logSumExp(),
  "softmax of no rows": () => zeros([0, 3]).softmax(),
  "cross entropy without classes": () => crossEntropy(zeros([2, 0]), int32(-100, -100), { reduction: "none" }),
  "an index out of range into empty rows": () => zeros([5, 0]).gather(int32(1, 100)),
  "an index into no rows": () => zeros([0, 3]).gather(int32(0)),
  "integers that wrap around": () => [
    int32(2147483647, -2147483648).add(int32(1, -1)),
    int32(2147483647, 65537).mul(int32(2147483647, 65537)),
    int32(2147483647, 1).sum(),
    int32(-2147483648).neg(),
    tensor(Uint32Array.of(4294967295, 2)).sum(),
  ],
  "casts of extreme numbers": () => {
    const x = tensor([NAN, INF, -INF, 3e9, -3e9, 5e9, 0.5, -0.5, 255.9, 256, -1, 1e-40, 464, 465]);
    return (["int32", "uint32", "uint8", "bool", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] as const).map(
      (dtype) => x.cast(dtype).cast("float32"),
    );
  },
  "a sum of ten axes": () =>
    tensor(
      Array.from({ length: 1024 }, (_, i) => i % 3),
      { shape: Array(10).fill(2) },
    )
      .permute([9, 7, 5, 3, 1, 0, 2, 4, 6, 8])
      .sum({ axes: [0, 3, 8] }),
};

/** dtype, shape and elements of each tensor, or the code of the error. */
async function outcomeOn(device: (typeof DEVICES)[number], make: () => Tensor | readonly Tensor[]): Promise<unknown> {
  useDevice(device);
  try {
    const made = make();
    const tensors: readonly Tensor[] = Array.isArray(made) ? made : [made];
    return await Promise.all(tensors.map(async (t) => [t.dtype, t.shape, [...(await t.data())]]));
  } catch (error) {
    if (error instanceof BinadeError) return [error.code, error.message];
    throw error;
  }
}

describe.runIf(DEVICES.includes("cpu"))("cpu and reference agree", () => {
  it.each(Object.entries(CASES))("on %s", async (_, make) => {
    expect(await outcomeOn("cpu", make)).toEqual(await outcomeOn("reference", make));
  });
});

describe.each(DEVICES)("on %s", (device) => {
  it.each([
    ["attention without keys", "shape.invalid"],
    ["softmax of empty rows", "shape.invalid"],
    ["cross entropy without classes", "shape.invalid"],
    ["an index out of range into empty rows", "index.outOfRange"],
    ["an index into no rows", "index.outOfRange"],
  ])("%s is refused", async (name, code) => {
    expect(await outcomeOn(device, CASES[name] ?? (() => []))).toContain(code);
  });

  it("labels are integers", () => {
    useDevice(device);
    expect(() => crossEntropy(zeros([1, 2]), tensor([0.5]))).toThrow(/labels are float32, expected integers/);
    expect(() => crossEntropy(zeros([1, 2]), int32(0), { ignoreLabel: 0.5 })).toThrow(
      /ignoreLabel: expected an integer/,
    );
  });

  it("a row of −∞ has the gradient 0", async () => {
    useDevice(device);
    const x = tensor([
      [-INF, -INF],
      [0, 0],
    ]);
    const [gradient] = gradientsOf(x.logSumExp().sum(), [x]);
    expect([...((await gradient?.data()) ?? [])]).toEqual([0, 0, 0.5, 0.5]);
  });
});
