import { beforeAll, expect, it } from "vitest";
import { compile, tensor, Variable, gradients, autocast, linear, crossEntropy, useDevice, type Tensor, RandomStream, GradScaler } from "../../src/index.ts";
import * as optim from "../../src/optim/index.ts"; import * as nn from "../../src/nn/index.ts";
beforeAll(() => { useDevice("cpu"); });
const W = (d: "float16" | "bfloat16" | "float32", n = [4, 4]) => new Variable("w", n, "float32", Float32Array.from({ length: n.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i)));
it("mixed f16 bf16 errors", () => {
  const a = tensor([[1]], { dtype: "float16" }), b = tensor([[1]], { dtype: "bfloat16" });
  for (const f of [() => a.add(b), () => a.matmul(b), () => linear(a, b), () => a.maximum(b), () => a.equal(b)]) expect(f).toThrow(/f(loat)?16.*bf(loat)?16|bf(loat)?16.*f(loat)?16/);
});
it("gradient accumulation + two compiled + two optimizers share variables, equals eager", async () => {
  const build = () => { const m = new nn.Linear(3, 2, { seed: 3 } as never); const acc = m.parameters().map((p) => new Variable(`${p.name}.acc`, p.shape, "float32"));
    const a = new optim.SGD([m.weight], { lr: 0.1, momentum: 0.9 }), b = new optim.AdamW([m.bias as Variable], { lr: 0.1 });
    const scaler = new GradScaler({ initialScale: 8 });
    const micro = (x: Tensor, y: Tensor) => { const loss = autocast("float16", () => crossEntropy(m.forward(x), y)); const g = gradients(scaler.scale(loss), m); m.parameters().forEach((p, i) => acc[i]!.assign(acc[i]!.read().add(g.get(p) as Tensor))); return loss; };
    const apply = () => { const g = scaler.unscale(scaler.scaledGradients(m.parameters().map((p, i) => [p, acc[i]!.read()] as const))); const o1 = scaler.step(a, g), o2 = scaler.step(b, g); scaler.update(); for (const v of acc) v.assign(v.read().mul(0)); return [o1.applied, o2.applied]; };
    return { m, micro, apply }; };
  const E = build(), C = build(); const cm = compile(C.micro), ca = compile(C.apply);
  for (let s = 0; s < 4; s++) {
    for (let k = 0; k < 2; k++) { const x = tensor([[s, k, s === 2 ? 1e30 : 1]]), y = tensor(Int32Array.of(k)); const le = E.micro(x, y); void cm(x, y); await le.data(); }
    const eo = E.apply(); const ea = await Promise.all(eo.map((t) => t.item())); const r = ca(); expect(await Promise.all((await r).map((t) => t.item()))).toEqual(ea);
    for (const [i, p] of E.m.parameters().entries()) expect([...await C.m.parameters()[i]!.bytes()]).toEqual([...await p.bytes()]);
  }
});
it("compile zero-size and rank0", async () => {
  const v = new Variable("z", [0, 3], "float32");
  const s = compile((x: Tensor) => { v.assign(v.read().add(x)); return [v.read(), x.sum(), x.matmul(x.transpose())]; });
  const r = await s(tensor([], { shape: [0, 3] }));
  expect(await Promise.all(r.map(async (t) => [t.shape, [...await t.data()]]))).toEqual([[[0, 3], []], [[], [0]], [[0, 0], []]]);
});
it("output that is also assigned + view of other", async () => {
  const u = new Variable("u", [2, 3], "float32", Float32Array.from([1, 2, 3, 4, 5, 6])), v = new Variable("v", [3, 2], "float32");
  const s = compile((x: Tensor) => { const n = u.read().mul(x).tanh(); v.assign(u.read().transpose()); u.assign(n); return { n, t: n.transpose(), old: v.read(), sl: n.slice(0, 1, 1), red: n.sum() }; });
  const r = await s(tensor(0.1));
  const n = [...await r.n.data()];
  expect([...await u.read().data()]).toEqual(n);
  expect([...await r.t.data()]).toEqual([0, 3, 1, 4, 2, 5].map((i) => n[i]));
  expect([...await r.old.data()]).toEqual([1, 4, 2, 5, 3, 6]); expect([...await v.read().data()]).toEqual([1, 4, 2, 5, 3, 6]);
  expect([...await r.sl.data()]).toEqual(n.slice(3));
});
it("16-bit fanin 300", async () => {
  const w = W("float32", [1]);
  const step = compile(() => { const c = w.read().cast("bfloat16"); let t = tensor([0]).cast("bfloat16").mul(c); for (let i = 0; i < 300; i++) t = t.add(c.mul(1)); return gradients(t.sum().cast("float32"), [w]).get(w) as Tensor; });
  expect([...await (await step()).data()]).toEqual([300]);
});
it("random in compiled advances even when unread", async () => {
  const rs = new RandomStream(5); const s = compile(() => [rs.draw([3]), rs.draw([3])]);
  const a = await s(), b = await s(); const all = await Promise.all([...a, ...b].map(async (t) => String([...await t.data()])));
  expect(new Set(all).size).toBe(4);
});
