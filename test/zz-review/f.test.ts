import { beforeAll, expect, it } from "vitest";
import { compile, tensor, Variable, gradients, clipByGlobalNorm, useDevice, type Tensor, GradScaler } from "../../src/index.ts";
import * as optim from "../../src/optim/index.ts";
for (const d of ["reference", "cpu"] as const) {
beforeAll(() => { useDevice("cpu"); });
it("300 adds " + d, async () => { useDevice(d); let t = tensor([0]); for (let i = 0; i < 300; i++) t = t.add(tensor([i])); expect(await t.item()).toBe(44850); });
it("300 adds wide" + d, async () => { useDevice(d); let t = tensor(new Float32Array(1000)); for (let i = 0; i < 300; i++) t = t.add(tensor(new Float32Array(1000).fill(i))); expect((await t.data())[7]).toBe(44850); });
it("300 outputs" + d, async () => { useDevice(d); const s = compile((x: Tensor) => Array.from({ length: 300 }, (_, i) => x.mul(i))); const r = await s(tensor([1, 2])); expect([...await r[299]!.data()]).toEqual([299, 598]); });
it("300 outputs tanh chain" + d, async () => { useDevice(d); const s = compile((x: Tensor) => { const o = []; let t = x; for (let i = 0; i < 300; i++) { t = t.add(1); o.push(t); } return o; }); const r = await s(tensor([1, 2])); expect([...await r[299]!.data()]).toEqual([301, 302]); });
it("40 reductions of one operand" + d, async () => { useDevice(d); const s = compile((x: Tensor) => Array.from({ length: 40 }, (_, i) => x.mul(i).sum({ axes: 1 }))); const r = await s(tensor([[1, 2]])); expect(await Promise.all(r.map((t) => t.item()))).toEqual(Array.from({ length: 40 }, (_, i) => 3 * i)); });
it("300 parameters" + d, async () => { useDevice(d);
  const ps = Array.from({ length: 300 }, (_, i) => new Variable(`p${i}`, [2], "float32", Float32Array.of(1, 2)));
  const o = new optim.AdamW(ps, { lr: 0.1 }), sc = new GradScaler();
  const s = compile((x: Tensor) => { const loss = ps.reduce((a, p) => a.add(p.read().mul(x).sum()), tensor(0)); const g = sc.unscale(gradients(sc.scale(loss), ps)); const r = sc.step(o, clipByGlobalNorm(g, 1)); sc.update(); return r.applied; });
  expect(await (await s(tensor([1, 2]))).item()).toBe(1);
}, 60000);
it("rank 20" + d, async () => { useDevice(d); expect(await tensor([1, 2], { shape: [...Array(19).fill(1), 2] }).exp().sum().item()).toBeCloseTo(10.107, 2); });
it("rank 17 of 2 permuted" + d, async () => { useDevice(d); const n = 17; const t = tensor(Float32Array.from({ length: 2 ** n }, (_, i) => i), { shape: Array(n).fill(2) }).permute(Array.from({ length: n }, (_, i) => (i * 5) % n)).add(1); expect((await t.data())[3]).toBeGreaterThan(0); });
}
