/** Every cast of a small step has a reason that names its op and rule. */
import { beforeAll, expect, it } from "vitest";
import { autocast, crossEntropy, describeCast, explain, linear, tensor, useDevice, Variable } from "../../src/index.ts";

beforeAll(() => {
  useDevice("reference");
});

it("names the op, its class and the parameter, and leaves casts by hand to the program", () => {
  const weight = new Variable("head.weight", [3, 4], "float32", new Float32Array(12).fill(0.5));
  const x = tensor([[1, 2, 3, 4]]);
  const loss = autocast("bfloat16", () => crossEntropy(linear(x, weight.read()), tensor(Int32Array.of(1)))).cast(
    "float16",
  );
  const casts = explain(loss);
  expect(casts.map(describeCast)).toEqual([
    "input f32[1, 4] float32 → bfloat16: linear (matmul) is narrow, it computes in the region's dtype",
    "head.weight float32 → bfloat16: linear (matmul) is narrow, it computes in the region's dtype",
    "matmul bf16[1, 3] bfloat16 → float32: crossEntropy (crossEntropyRows) is wide, it computes in float32",
    "notEqual bool[1] bool → float32: stated by the program",
    "div f32[] float32 → float16: stated by the program",
  ]);
  expect(casts[1]?.byteLength).toBe(24);
});

it("has nothing to say outside of a region", () => {
  const x = tensor([
    [1, 2],
    [3, 4],
  ]);
  expect(explain(x.matmul(x).sum())).toEqual([]);
});
