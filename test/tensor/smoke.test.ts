import { expect, it } from "vitest";
import { autocast, compile, crossEntropy, gradients, gradientsOf, layerNorm, linear, scaledDotProductAttention, tensor, Tensor, useDevice, Variable } from "binade";
import { print } from "../../src/ir/print.ts";
useDevice("reference");
it("adds", async () => {
  const x = tensor([[1, 2], [3, 4]]);
  expect([...(await x.matmul(x.transpose()).data())]).toEqual([5, 11, 11, 25]);
  const [g] = gradientsOf(x.mul(x).sum(), [x]);
  expect([...(await (g as Tensor).data())]).toEqual([2, 4, 6, 8]);
});
it("trains", async () => {
  const rnd = (n: number, s: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898 + s) * 0.5);
  const w1 = new Variable("w1", [16, 8], "float32", rnd(128, 1)), b1 = new Variable("b1", [16], "float32"), w2 = new Variable("w2", [4, 16], "float32", rnd(64, 2));
  const step = compile((x: Tensor, y: Tensor) => {
    const loss = autocast("bfloat16", () => crossEntropy(linear(linear(x, w1.read(), b1.read()).gelu(), w2.read()), y));
    const g = gradients(loss, [w1, b1, w2]);
    for (const [v, d] of g) v.assign(v.read().sub(d.mul(0.5)));
    return { loss };
  });
  const x = tensor(rnd(64, 5), { shape: [8, 8] }), y = tensor(new Int32Array([0, 1, 2, 3, 0, 1, 2, 3]));
  const losses: number[] = [];
  for (let i = 0; i < 20; i++) losses.push(await (await step(x, y)).loss.item());
  console.log(losses.map((l) => l.toFixed(3)).join(" "));
  expect(losses[19]).toBeLessThan((losses[0] as number) * 0.7);
  const loss = autocast("bfloat16", () => crossEntropy(linear(linear(x, w1.read(), b1.read()).gelu(), w2.read()), y));
  console.log(print([loss.node, ...[...gradients(loss, [w1, b1]).values()].map((t) => t.node)]));
});
it("attends", async () => {
  const q = tensor(Float32Array.from({ length: 2 * 5 * 3 * 4 }, (_, i) => Math.sin(i)), { shape: [2, 5, 3, 4] });
  const o = scaledDotProductAttention(q, q, q, { causal: true });
  const [g] = gradientsOf(layerNorm(o).square().mul(o).sum(), [q]);
  expect((await (g as Tensor).data()).every(Number.isFinite)).toBe(true);
});
