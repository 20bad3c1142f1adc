import { beforeAll, describe, expect, it } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/backend.ts";
import { Device } from "../../src/index.ts";
import { compile, debug } from "../../src/tensor/compile.ts";
import { tensor, full, zeros, ones, arange } from "../../src/tensor/create.ts";
import { useDevice, defaultDevice } from "../../src/tensor/devices.ts";
import { gradients, gradientsOf } from "../../src/tensor/gradients.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { HostNumber, Variable } from "../../src/tensor/variable.ts";
import { RandomStream } from "../../src/tensor/random.ts";
const list = async (x: Tensor): Promise<number[]> => [...(await x.data())];
const counter = (value = 0, name = "count"): Variable => new Variable(name, [], "float32", Float32Array.of(value));
const f32 = (b: Uint8Array) => new Float32Array(b.slice().buffer)[0];
beforeAll(() => { useDevice("cpu"); });

it("host number snapshot at call", async () => {
  const rate = new HostNumber("r", 1);
  const step = compile((x: Tensor) => x.mul(rate.read()));
  await step(tensor(1));
  const p = []; for (let i = 1; i <= 4; i++) { rate.value = i; p.push(step(tensor(10))); }
  expect(await Promise.all(p.map(async (q) => (await q).item()))).toEqual([10, 20, 30, 40]);
});
it("bytes after un-awaited step", async () => {
  const w = counter(0); const step = compile((x: Tensor) => { w.assign(w.read().add(x)); return x; });
  void step(tensor(1)); void step(tensor(1));
  expect(f32(await w.bytes())).toBe(2);
});
it("read after un-awaited step", async () => {
  const w = counter(0); const step = compile((x: Tensor) => { w.assign(w.read().add(x)); return x; });
  void step(tensor(1));
  expect(await w.read().item()).toBe(1);
  void step(tensor(1));
  expect(await w.read().item()).toBe(2);
});
it("assign after un-awaited step", async () => {
  const w = counter(0); const step = compile((x: Tensor) => { w.assign(w.read().add(x)); return w.read(); });
  const p = step(tensor(1)); w.assign(tensor(100));
  expect(await (await p).item()).toBe(1);
  expect(await w.read().item()).toBe(100);
});
it("load after un-awaited step", async () => {
  const w = counter(0); const step = compile((x: Tensor) => { w.assign(w.read().add(x)); return w.read(); });
  const p = step(tensor(1)); const l = w.load(new Uint8Array(Float32Array.of(50).buffer));
  expect(await (await p).item()).toBe(1);
  await l;
  expect(await w.read().item()).toBe(50);
});
it("foreign assignment during recording", async () => {
  const w = counter(0), v = counter(0, "v"), big = new Variable("big", [300, 300], "float32");
  const step = compile((x: Tensor) => { w.assign(w.read().add(x)); return w.read(); });
  big.assign(big.read().matmul(big.read()));
  const p = step(tensor(1));
  for (let i = 0; i < 3; i++) await Promise.resolve();
  v.assign(v.read().add(1));
  await p; await step(tensor(1)); await step(tensor(1));
  expect(await v.read().item()).toBe(1);
});
it("two devices pending", async () => {
  const other = new Device(new ReferenceBackend());
  const w = counter(0); w.assign(w.read().add(1));
  const o = new Variable("o", [], "float32", Float32Array.of(1), other);
  expect(await o.read().mul(2).item()).toBe(2);
  expect(await w.read().item()).toBe(1);
});
it("failed prepare restores variables", async () => {
  const w = counter(3);
  w.assign(tensor(2, { dtype: "float64" }).mul(2).cast("float32"));
  await expect(w.bytes()).rejects.toThrow();
  expect(await w.read().item()).toBe(3);
});
it("eager draws read one after another", async () => {
  const rs = new RandomStream(1);
  const a = rs.draw([2]), b = rs.draw([2]);
  const x = await list(a); const y = await list(b);
  expect(x).not.toEqual(y);
});
it("dispose and recompute same expr", async () => {
  const x = tensor([1, 2]);
  for (let i = 0; i < 3; i++) { using y = x.add(1); expect(await list(y)).toEqual([2, 3]); }
});
it("dispose does not break another handle", async () => {
  const x = tensor([1, 2]);
  const a = x.mul(7), b = x.mul(7); await list(a); a.dispose();
  expect(await list(b)).toEqual([7, 14]);
});
it("dispose while queued in compiled", async () => {
  const step = compile((x: Tensor) => x.add(1));
  const x = tensor([1, 2]);
  const p = step(x); x.dispose();
  expect(await list(await p)).toEqual([2, 3]);
});
it("debug outside with failure", async () => {
  const w = counter(1);
  const step = compile((x: Tensor) => { w.assign(w.read().add(x)); return w.read(); });
  const a = await Promise.all([1,2,3].map((i) => step(tensor(i))));
  expect(await Promise.all(a.map((t) => t.item()))).toEqual([2, 4, 7]);
});
it("compiled arg is view of assigned variable (lazy)", async () => {
  const v = new Variable("v", [2, 2], "float32", Float32Array.of(1, 2, 3, 4));
  const step = compile((x: Tensor) => { v.assign(v.read().mul(10)); return x.sub(v.read()); });
  expect(await list(await step(v.read().transpose()))).toEqual([-9, -17, -28, -36]);
});
it("assign transposed view of itself / other", async () => {
  const v = new Variable("v", [2, 2], "float32", Float32Array.of(1, 2, 3, 4));
  const u = new Variable("u", [2, 2], "float32", Float32Array.of(5, 6, 7, 8));
  const step = compile(() => { const o = v.read(); v.assign(u.read().transpose()); u.assign(o.transpose()); return [o, v.read(), u.read()]; });
  const r = await step();
  expect(await Promise.all(r.map(list))).toEqual([[1, 2, 3, 4], [5, 7, 6, 8], [1, 3, 2, 4]]);
  const step2 = compile(() => { v.assign(v.read().transpose()); return v.read(); });
  expect(await list(await step2())).toEqual([5, 6, 7, 8]);
  expect(await list(await step2())).toEqual([5, 7, 6, 8]);
});
it("program eviction while in flight + constants changing", async () => {
  const step = compile((x: Tensor) => x.matmul(x).sum());
  const x = tensor(new Float32Array(90000), { shape: [300, 300] });
  const p = []; 
  for (let i = 0; i < 5; i++) p.push(step(x));
  for (let i = 0; i < 100; i++) p.push(tensor([1]).add(i + 0.5).item());
  await Promise.all(p);
  expect(await (await step(x)).item()).toBe(0);
});
