/** In which dtypes ops compute, beside PyTorch on CUDA and on the CPU (test/fixtures/autocast-classes.json): every difference has a reason. */
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import {
  adaptiveAvgPool2d,
  autocast,
  avgPool2d,
  batchNorm,
  binaryCrossEntropy,
  binaryCrossEntropyWithLogits,
  concatenate,
  conv1d,
  conv2d,
  convTranspose1d,
  convTranspose2d,
  crossEntropy,
  embedding,
  groupNorm,
  gruCell,
  layerNorm,
  linear,
  lstmCell,
  maxPool2d,
  meanSquaredError,
  rmsNorm,
  scaledDotProductAttention,
  type Tensor,
  tensor,
  upsample,
  useDevice,
  zeros,
} from "../../src/index.ts";

interface Recorded {
  /** Dtypes of the results of float32 and of bfloat16 operands. */
  readonly cpu: readonly [string, string];
  /** The list that has it; "listed": one of them, "unlisted": none. */
  readonly cuda: "narrow" | "wide" | "widest" | "refuse" | "listed" | "unlisted";
}
const { version, ...RECORDED } = JSON.parse(
  readFileSync(new URL("../fixtures/autocast-classes.json", import.meta.url), "utf8"),
) as { version: string } & Record<string, Recorded>;

const labels = (): Tensor => tensor(Int32Array.of(1, 0, 2));
type Call = (make: (...shape: readonly number[]) => Tensor) => Tensor;
const CALLS: Readonly<Record<string, Call>> = {
  linear: (x) => linear(x(3, 4), x(2, 4)),
  matmul: (x) => x(3, 4).matmul(x(4, 2)),
  conv1d: (x) => conv1d(x(1, 2, 5), x(3, 2, 2)),
  conv2d: (x) => conv2d(x(1, 2, 5, 5), x(3, 2, 2, 2)),
  convTranspose1d: (x) => convTranspose1d(x(1, 2, 5), x(2, 3, 2)),
  convTranspose2d: (x) => convTranspose2d(x(1, 2, 5, 5), x(2, 3, 2, 2)),
  scaledDotProductAttention: (x) => scaledDotProductAttention(x(1, 3, 2, 4), x(1, 3, 2, 4), x(1, 3, 2, 4)),
  gruCell: (x) => gruCell(x(2, 3), x(2, 2), { inputWeight: x(6, 3), hiddenWeight: x(6, 2) }),
  lstmCell: (x) =>
    lstmCell(x(2, 3), { hidden: x(2, 2), cell: x(2, 2) }, { inputWeight: x(8, 3), hiddenWeight: x(8, 2) }).hidden,
  exp: (x) => x(6).exp(),
  expm1: (x) => x(6).expm1(),
  log: (x) => x(6).log(),
  log1p: (x) => x(6).log1p(),
  reciprocal: (x) => x(6).reciprocal(),
  rsqrt: (x) => x(6).rsqrt(),
  pow: (x) => x(6).pow(x(6)),
  square: (x) => x(6).square(),
  softplus: (x) => x(6).softplus(),
  sum: (x) => x(6).sum(),
  mean: (x) => x(6).mean(),
  softmax: (x) => x(3, 4).softmax(),
  logSoftmax: (x) => x(3, 4).logSoftmax(),
  logSumExp: (x) => x(3, 4).logSumExp(),
  layerNorm: (x) => layerNorm(x(3, 4)),
  rmsNorm: (x) => rmsNorm(x(3, 4)),
  groupNorm: (x) => groupNorm(x(2, 4, 3), 2),
  batchNorm: (x) => batchNorm(x(3, 4, 2)),
  crossEntropy: (x) => crossEntropy(x(3, 4), labels()),
  meanSquaredError: (x) => meanSquaredError(x(6), x(6)),
  binaryCrossEntropyWithLogits: (x) => binaryCrossEntropyWithLogits(x(6), x(6)),
  binaryCrossEntropy: (x) => binaryCrossEntropy(x(6), x(6)),
  add: (x) => x(6).add(x(6)),
  mul: (x) => x(6).mul(x(6)),
  div: (x) => x(6).div(x(6)),
  maximum: (x) => x(6).maximum(x(6)),
  concatenate: (x) => concatenate([x(6), x(6)]),
  relu: (x) => x(6).relu(),
  gelu: (x) => x(6).gelu(),
  silu: (x) => x(6).silu(),
  sigmoid: (x) => x(6).sigmoid(),
  tanh: (x) => x(6).tanh(),
  sqrt: (x) => x(6).sqrt(),
  max: (x) => x(6).max(),
  embedding: (x) => embedding(x(4, 3), labels()),
  maxPool2d: (x) => maxPool2d(x(1, 1, 4, 4), { kernelSize: 2 }),
  avgPool2d: (x) => avgPool2d(x(1, 1, 4, 4), { kernelSize: 2 }),
  adaptiveAvgPool2d: (x) => adaptiveAvgPool2d(x(1, 1, 4, 4), 1),
  upsampleNearest: (x) => upsample(x(1, 1, 2, 2), { scaleFactor: 2, mode: "nearest" }),
  upsampleBilinear: (x) => upsample(x(1, 1, 2, 2), { scaleFactor: 2, mode: "bilinear" }),
  reshape: (x) => x(6).reshape([2, 3]),
};

/** What a pair of result dtypes, of float32 and of bfloat16 operands, says about an op. */
function behaviourOf([wide, narrow]: readonly [string, string]): string {
  if (wide === narrow) return wide === "float32" ? "float32" : "16 bits";
  return "as given";
}
const CUDA: Readonly<Record<Recorded["cuda"], string>> = {
  narrow: "16 bits",
  wide: "float32",
  widest: "as given",
  refuse: "refused",
  listed: "listed",
  unlisted: "as given",
};

function ours(call: Call): string {
  const dtypeOf = (dtype: "float32" | "bfloat16"): string =>
    autocast("bfloat16", () => call((...shape) => zeros(shape, dtype).add(0.5).cast(dtype)).dtype);
  try {
    return behaviourOf([dtypeOf("float32"), dtypeOf("bfloat16")]);
  } catch (error) {
    if ((error as { code?: string }).code === "autocast.refused") return "refused";
    throw error;
  }
}

const ONE_LIST = "one list for every device: PyTorch's CPU list leaves it out";
/** Why Binade differs, by op. "listed": PyTorch's dispatcher has a kernel for autocast, and its tests do not say which. */
const REASONS: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    ["exp", "expm1", "log", "log1p", "pow", "reciprocal", "rsqrt", "softplus", "softmax"].map((op) => [op, ONE_LIST]),
  ),
  ...Object.fromEntries(
    ["logSoftmax", "logSumExp", "layerNorm", "rmsNorm", "groupNorm", "sum"].map((op) => [op, ONE_LIST]),
  ),
  gruCell: ONE_LIST,
  lstmCell: ONE_LIST,
  scaledDotProductAttention: "16 bits on CUDA too: listed with the products, not in the tests",
  square: "x² overflows float16 from 256 on",
  mean: "a mean is a sum: in 16 bits the loss itself would be rounded to 3 digits",
  binaryCrossEntropy: "probabilities near 1 have no 16-bit form on any device",
  upsampleNearest: "weights are sums: float32 on CUDA too, listed with the norms, not in the tests",
  upsampleBilinear: "weights are sums: float32 on CUDA too, listed with the norms, not in the tests",
};

beforeAll(() => {
  useDevice("reference");
});

describe(`autocast beside PyTorch ${version}`, () => {
  it("is asked about every op that was recorded", () => {
    expect(Object.keys(CALLS).sort()).toEqual(Object.keys(RECORDED).sort());
  });

  it("differs only where a reason says why", async () => {
    const lines = Object.entries(CALLS).map(([name, call]) => {
      const { cpu, cuda } = RECORDED[name] as Recorded;
      const row = { own: ours(call), cuda: CUDA[cuda], cpu: behaviourOf(cpu) };
      const differs = row.own !== row.cuda || row.own !== row.cpu;
      expect(REASONS[name] !== undefined, `${name}: ${JSON.stringify(row)}`).toBe(differs);
      return `${name.padEnd(29)}${row.own.padEnd(10)}${row.cuda.padEnd(10)}${row.cpu.padEnd(10)}${REASONS[name] ?? ""}`.trimEnd();
    });
    const header = `${"op".padEnd(29)}${"Binade".padEnd(10)}${"CUDA".padEnd(10)}${"CPU".padEnd(10)}why Binade differs`;
    await expect(`${[header, ...lines].join("\n")}\n`).toMatchFileSnapshot("../golden/autocast-beside-pytorch.txt");
  });
});
