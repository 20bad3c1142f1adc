import { beforeAll, describe, expect, it } from "vitest";
import v8 from "node:v8"; import vm from "node:vm";
import { compile } from "../../src/tensor/compile.ts";
import { tensor, zeros } from "../../src/tensor/create.ts";
import { useDevice, defaultDevice } from "../../src/tensor/devices.ts";
import { gradientsOf, gradients } from "../../src/tensor/gradients.ts";
import { scaledDotProductAttention as sdpa, layerNorm, crossEntropy } from "../../src/tensor/functions.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { Variable } from "../../src/tensor/variable.ts";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import * as nn from "../../src/nn/index.ts";
v8.setFlagsFromString("--expose-gc"); const gc = vm.runInNewContext("gc") as () => void;
const settle = async () => { for (let i = 0; i < 6; i++) { gc(); await new Promise((r) => setTimeout(r, 10)); } };
beforeAll(() => { useDevice("cpu"); });
it("eager loops do not leak", async () => {
  const d = defaultDevice(); await settle(); const before = d.live;
  const w = new Variable("w", [100], "float32");
  for (let i = 0; i < 300; i++) { const x = tensor(new Float32Array(1000)); const y = x.exp().sum(); w.assign(w.read().add(y)); await y.data(); }
  await settle();
  console.log(before, d.live);
  expect(d.live.buffers - before.buffers).toBeLessThan(8);
});
it("cached program does not hold its first leaves", async () => {
  const d = defaultDevice(); await settle(); const before = d.live;
  await (async () => { const x = tensor(new Float32Array(1e6)); await x.square().mul(3).sum().item(); })();
  await settle();
  expect(d.live.byteLength - before.byteLength).toBeLessThan(1e6);
});
it("compiled loops do not leak", async () => {
  const d = defaultDevice(); 
  const w = new Variable("w", [1000], "float32");
  const step = compile((x: Tensor) => { w.assign(w.read().add(x)); return { s: w.read().sum(), y: w.read().mul(2) }; });
  await step(zeros([1000]).add(1)); await settle(); const before = d.live;
  for (let i = 0; i < 300; i++) await step(tensor(new Float32Array(1000)));
  await settle();
  console.log(before, d.live);
  expect(d.live.buffers - before.buffers).toBeLessThan(8);
});
it("failing runs do not leak", async () => {
  const d = defaultDevice(); await settle(); const before = d.live;
  const t = tensor([[1, 2]]);
  for (let i = 0; i < 50; i++) { const g = t.gather(tensor(Int32Array.of(5 + i))); const p = g.data(); const q = g.mul(2).data(); let bad = 0; try { await p } catch { bad++ } try { await q } catch { bad++ } if (bad !== 2) throw new Error("x"); }
  await settle();
  console.log(before, d.live);
  expect(d.live.buffers - before.buffers).toBeLessThan(8);
});
it("second derivatives: attention causal Tk<Tq, norm, softmax, matmul finite & right", async () => {
  for (const dev of ["reference", "cpu"] as const) {
    useDevice(dev);
    const q = tensor(Array.from({ length: 6 }, (_, i) => Math.sin(i)), { shape: [1, 3, 1, 2] }), k = tensor(Array.from({ length: 4 }, (_, i) => Math.cos(i)), { shape: [1, 2, 1, 2] });
    const f = (qq: Tensor) => sdpa(qq, k, k, { causal: true }).square().sum();
    const [g] = gradientsOf(f(q), [q]) as [Tensor];
    const [h] = gradientsOf(g.square().sum(), [q]) as [Tensor];
    const hv = [...await h.data()];
    expect(hv.every(Number.isFinite)).toBe(true);
    // numeric: d/dq sum(g^2)
    const base = [...await q.data()]; const num: number[] = [];
    for (let i = 0; i < 6; i++) { const ev = async (e: number) => { const p = base.slice(); p[i] = (p[i] as number) + e; const t = tensor(p, { shape: [1, 3, 1, 2] }); const [gg] = gradientsOf(f(t), [t]) as [Tensor]; return gg.square().sum().item(); }; num.push((await ev(1e-2) - await ev(-1e-2)) / 2e-2); }
    hv.forEach((v, i) => expect(v).toBeCloseTo(num[i] as number, 1.5));
  }
  useDevice("cpu");
});
it("dropout: forward mask is backward mask, bias gradients too, compiled", async () => {
  const lin = new nn.Linear(4, 6), drop = new nn.Dropout(0.5);
  const step = compile((x: Tensor) => { const y = drop.forward(lin.forward(x)); const g = gradients(y.sum(), [lin.bias as Variable, lin.weight]); return { y, db: g.get(lin.bias as Variable) as Tensor, dw: g.get(lin.weight) as Tensor }; });
  for (let s = 0; s < 3; s++) {
    const x = tensor(Array.from({ length: 32 }, (_, i) => i + 1), { shape: [8, 4] });
    const { y, db, dw } = await step(x);
    const yv = [...await y.data()], d = [...await db.data()], w = [...await dw.data()], xs = [...await x.data()];
    for (let c = 0; c < 6; c++) { let n = 0; const acc = [0, 0, 0, 0]; for (let r = 0; r < 8; r++) if (yv[r * 6 + c] !== 0) { n += 2; for (let k = 0; k < 4; k++) acc[k] = (acc[k] as number) + 2 * (xs[r * 4 + k] as number); } expect(d[c]).toBe(n); expect(w.slice(c * 4, c * 4 + 4)).toEqual(acc); }
  }
});
it("threads: a GPT step gives the same bits", async () => {
  const addon = loadAddon().addon; if (addon === null) return;
  const out: string[] = [];
  for (const t of [1, 2, 3, 8]) {
    addon.setThreads(t);
    nn.manualSeed?.(1);
    const model = new nn.GPT({ vocabulary: 64, context: 32, width: 48, layers: 2, heads: 3 } as never);
    const step = compile((x: Tensor, y: Tensor) => { const loss = crossEntropy(model.forward(x), y); const g = gradients(loss, model); return [loss, ...g.values()]; });
    const ids = Int32Array.from({ length: 128 }, (_, i) => (i * 7) % 64);
    const r = await step(tensor(ids, { shape: [4, 32] }), tensor(ids, { shape: [4, 32] }));
    out.push((await Promise.all(r.map(async (v) => Buffer.from(await v.bytes()).toString("base64")))).join());
  }
  addon.setThreads(2);
  expect(new Set(out).size).toBe(1);
});
it("8 pending runs and file reads", async () => {
  const fs = await import("node:fs/promises");
  const step = compile((x: Tensor) => x.matmul(x).matmul(x).sum());
  const x = tensor(new Float32Array(160000), { shape: [400, 400] });
  const r = await Promise.all([...Array.from({ length: 8 }, async () => (await step(x)).item()), ...Array.from({ length: 20 }, async () => (await fs.readFile("package.json")).length)]);
  expect(r.slice(0, 8)).toEqual(Array(8).fill(0));
});
it("fuzz words", async () => {
  const addon = loadAddon().addon; if (addon === null) return;
  const good: BigInt64Array[] = []; const orig = addon.createProgram.bind(addon);
  const { CpuBackend } = await import("../../src/backends/cpu/backend.ts");
  const { Device } = await import("../../src/tensor/device.ts");
  const spy = new Proxy(addon, { get: (t, k) => k === "createProgram" ? (w: BigInt64Array) => { good.push(w.slice()); return orig(w); } : (t as never as Record<PropertyKey, (...a: unknown[]) => unknown>)[k]?.bind(t) });
  const dev = new Device(new CpuBackend(spy as never));
  const T = (n: number[], dtype: "float32" | "bfloat16" = "float32") => tensor(Array.from({ length: n.reduce((a, b) => a * b, 1) }, (_, i) => i % 5), { shape: n, device: dev, dtype });
  await T([4, 6]).exp().sum({ axes: 0 }).data(); await T([4, 6]).softmax().data(); await T([4, 6], "bfloat16").matmul(T([6, 5], "bfloat16")).data();
  await T([4, 6]).gather(tensor(Int32Array.of(1, 2), { device: dev })).data(); await T([4, 6]).argMax({ axes: 1 }).data(); await T([1, 3, 2, 4]).transpose().exp().data();
  { const q = T([1, 3, 2, 4]); const o = sdpa(q, q, q); await Promise.all([o.data(), ...gradientsOf(o.sum(), [q]).map((g) => g.data())]); }
  { const q = T([5, 4]); await Promise.all(gradientsOf(q.gather(tensor(Int32Array.of(1, 2), { device: dev })).sum(), [q]).map((g) => g.data())); }
  await layerNorm(T([4, 6])).data(); await crossEntropy(T([4, 6]), tensor(Int32Array.of(0, 1, 2, 3), { device: dev })).data();
  let seed = 12345; const rnd = (n: number) => { seed = (Math.imul(seed, 1103515245) + 12345) >>> 0; return Math.floor(seed / 2 ** 32 * n); };
  let ran = 0, refused = 0;
  const SPECIAL = [0n, 1n, -1n, 2n, 3n, 7n, 64n, 255n, 1n << 31n, (1n << 31n) - 1n, 1n << 40n, -(1n << 40n), 1n << 62n, -(1n << 63n), (1n << 63n) - 1n, 1n << 44n];
  for (let i = 0; i < 20000; i++) {
    const w = (good[rnd(good.length)] as BigInt64Array).slice();
    for (let m = 0; m <= rnd(3); m++) { const at = 1 + rnd(w.length - 1); w[at] = rnd(2) ? SPECIAL[rnd(SPECIAL.length)] as bigint : (w[at] as bigint) + BigInt(rnd(9) - 4); }
    if (w[1]! > 1n << 20n) continue;
    try {
      const h = orig(rnd(20) === 0 ? w.slice(0, rnd(w.length)) : w);
      const n = Number(w[2]); if (n > 16 || n < 0) continue;
      try { (addon as never as { runSync: (h: unknown, b: unknown[]) => void }).runSync(h, Array.from({ length: n }, () => new Uint8Array(1024))); ran++; } catch { refused++; }
    } catch { refused++; }
  }
  console.log({ good: good.length, ran, refused });
  expect(ran).toBeGreaterThan(100);
}, 120000);
