import { beforeAll, describe, expect, it } from "vitest";
import * as B from "../../src/index.ts";
import { compile, debug } from "../../src/tensor/compile.ts";
import { tensor, full, zeros, ones, arange } from "../../src/tensor/create.ts";
import { useDevice } from "../../src/tensor/devices.ts";
import { crossEntropy, where, scaledDotProductAttention as sdpa } from "../../src/tensor/functions.ts";
import { gradients, gradientsOf } from "../../src/tensor/gradients.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { HostNumber, Variable } from "../../src/tensor/variable.ts";
import { RandomStream } from "../../src/tensor/random.ts";

const list = async (x: Tensor): Promise<number[]> => [...(await x.data())];
const counter = (value = 0, name = "count"): Variable => new Variable(name, [], "float32", Float32Array.of(value));

async function both(make: () => Tensor | Tensor[]): Promise<[unknown, unknown]> {
  const out: unknown[] = [];
  for (const d of ["reference", "cpu"] as const) {
    useDevice(d);
    try {
      const r = make();
      const rs = Array.isArray(r) ? r : [r];
      const vals = [];
      for (const t of rs) vals.push([t.dtype, t.shape, await list(t)]);
      out.push(vals);
    } catch (e) { out.push(`ERR ${(e as Error).message}`); }
  }
  return out as [unknown, unknown];
}
const same = (name: string, make: () => Tensor | Tensor[]) => it(`same: ${name}`, async () => {
  const [r, c] = await both(make);
  if (typeof r === "string" || typeof c === "string") { console.log(name, "R:", typeof r === "string" ? r : "ok", "C:", typeof c === "string" ? c : "ok"); }
  expect(c).toEqual(r);
});

describe("cpu vs reference", () => {
  same("random sum axis 0", () => new RandomStream(3).draw([8, 16]).sum({ axes: 0 }));
  same("random mul sum axis 0", () => new RandomStream(3).draw([8, 16]).mul(tensor(Array.from({length:16},(_, i)=>i))).sum({ axes: 0 }));
  same("random max middle axis", () => new RandomStream(3).draw([4, 5, 6]).max({ axes: 1 }));
  same("random greater sum all but", () => new RandomStream(3).draw([4, 5, 6]).greaterEqual(0.5).cast("float32").sum({ axes: [0, 2] }));
  same("random permute", () => new RandomStream(3).draw([4, 5, 6]).permute([2, 0, 1]).add(1));
  same("random permute sum", () => new RandomStream(3).draw([4, 5, 6]).permute([2, 0, 1]).sum({axes: 0}));
  same("full f16 inlined", () => full([4], 0.1, "float16").cast("float32").mul(3));
  same("full f16 mul", () => full([4], 0.1, "float16").mul(tensor([1, 3, 7, 9], { dtype: "float16" })));
  same("full bf16 where", () => full([4], 0.1, "bfloat16").cast("float32"));
  same("full int32 3e9", () => full([2], 3e9, "int32").add(0));
  same("full int32 nan", () => full([2], NaN, "int32").add(0));
  same("full uint32 -1", () => full([2], -1, "uint32").add(0));
  same("full uint8 300", () => full([2], 300, "uint8").cast("float32"));
  same("full bool 2", () => full([2], 2, "bool").cast("float32"));
  same("full bool 2 not", () => full([2], 2, "bool").equal(full([2],1,"bool")));
  same("f8 full", () => full([2], 1000, "float8_e4m3fn").cast("float32"));
  for (const s of [[0], [0, 3], [3, 0], [2, 0, 3], []] as number[][]) {
    same(`zero ${s}: exp`, () => zeros(s).exp());
    same(`zero ${s}: sum`, () => zeros(s).sum());
    same(`zero ${s}: mean`, () => zeros(s).mean());
    same(`zero ${s}: max`, () => zeros(s).max());
    if (s.length) same(`zero ${s}: softmax`, () => zeros(s).softmax());
    if (s.length) same(`zero ${s}: lse`, () => zeros(s).logSumExp());
    if (s.length) same(`zero ${s}: sum0`, () => zeros(s).sum({ axes: 0 }));
    if (s.length) same(`zero ${s}: norm`, () => B.layerNorm(zeros(s)));
  }
  same("matmul k0", () => zeros([2, 0]).matmul(zeros([0, 3])));
  same("matmul m0", () => zeros([0, 2]).matmul(zeros([2, 3])));
  same("matmul batch 0", () => zeros([0, 4, 2]).matmul(zeros([0, 2, 3])));
  same("matmul k0 + bias", () => zeros([2, 0]).matmul(zeros([0, 3])).add(tensor([1, 2, 3])));
  same("matmul k0 f16", () => zeros([2, 0], "float16").matmul(zeros([0, 3], "float16")).add(1));
  same("rank6", () => tensor(Array.from({ length: 64 }, (_, i) => i), { shape: [2, 2, 2, 2, 2, 2] }).permute([5, 3, 1, 0, 2, 4]).sum({ axes: [1, 4] }));
  same("rank8 permute exp", () => tensor(Array.from({ length: 256 }, (_, i) => i % 3), { shape: [2, 2, 2, 2, 2, 2, 2, 2] }).permute([7, 5, 3, 1, 0, 2, 4, 6]).add(1));
  same("rank10", () => tensor(Array.from({ length: 1024 }, (_, i) => i % 3), { shape: Array(10).fill(2) }).permute([9, 7, 5, 3, 1, 0, 2, 4, 6, 8]).add(1));
  same("max axes []", () => tensor([3, 1, 2]).max({ axes: [] }));
  same("argmax axes []", () => tensor([3, 1, 2]).argMax({ axes: [] }));
  same("max scalar", () => tensor(5).max());
  same("argmax scalar", () => tensor(5).argMax());
  same("argmax nan", () => tensor([1, NaN, 7, NaN]).argMax());
  same("max nan -0", () => [tensor([-0, 0]).max(), tensor([0, -0]).max(), tensor([-0, 0]).min(), tensor([NaN, 1]).min(), tensor([-0, 0]).maximum(tensor([0, -0])), tensor([-0, 0]).minimum(tensor([0, -0]))]);
  same("int ops", () => [tensor(Int32Array.of(2147483647, -2147483648, 7)).add(tensor(Int32Array.of(1, -1, -9))), tensor(Int32Array.of(2147483647, -2147483648, 65537)).mul(tensor(Int32Array.of(2147483647, -1, 65537))), tensor(Int32Array.of(2147483647, 1)).sum(), tensor(Uint32Array.of(4294967295, 2)).sum(), tensor(Uint32Array.of(4294967295, 2)).mul(tensor(Uint32Array.of(4294967295, 2147483648)))]);
  same("int neg min", () => [tensor(Int32Array.of(-2147483648)).neg(), tensor(Uint32Array.of(1)).neg()]);
  same("uint cmp", () => [tensor(Uint32Array.of(4294967295, 2)).greater(tensor(Uint32Array.of(1, 2))), tensor(Uint32Array.of(4294967295, 2)).maximum(tensor(Uint32Array.of(1, 2147483648)))]);
  same("cast edge", () => { const x = tensor([NaN, Infinity, -Infinity, 3e9, -3e9, 5e9, 0.5, -0.5, 255.9, 256, -1, 1e-40]); return [x.cast("int32"), x.cast("uint32"), x.cast("uint8"), x.cast("bool"), x.cast("float16").cast("float32"), x.cast("bfloat16").cast("float32"), x.cast("float8_e4m3fn").cast("float32"), x.cast("float8_e5m2").cast("float32"), x.cast("float16").cast("int32"), x.cast("uint8").cast("int32")]; });
  same("int casts", () => { const x = tensor(Int32Array.of(16777217, 2147483647, -2147483648, 33554435, 65520, 2049, 257)); return [x.cast("float32"), x.cast("float16").cast("float32"), x.cast("bfloat16").cast("float32"), x.cast("uint32"), x.cast("uint8")]; });
  same("uint casts", () => { const x = tensor(Uint32Array.of(16777217, 4294967295, 2147483648, 4294967041, 4278255361)); return [x.cast("float32"), x.cast("float16").cast("float32"), x.cast("bfloat16").cast("float32"), x.cast("int32"), x.cast("uint8")]; });
  same("sdpa no queries", () => { const q = zeros([1, 0, 2, 4]).add(0), k = ones([1, 3, 2, 4]).add(0), v = ones([1, 3, 2, 4]).add(0); const o = sdpa(q, k, v); return [o, ...gradientsOf(o.sum(), [q, k, v])]; });
  same("sdpa no keys", () => { const q = ones([1, 3, 2, 4]).add(0), k = zeros([1, 0, 2, 4]).add(0), v = zeros([1, 0, 2, 4]).add(0); const o = sdpa(q, k, v); return [o, ...gradientsOf(o.sum(), [q, k, v])]; });
  same("sdpa width 0", () => { const q = ones([1, 3, 2, 0]).add(0), k = zeros([1, 2, 2, 0]).add(0), v = zeros([1, 2, 2, 0]).add(0); const o = sdpa(q, k, v, {scale: 1}); return [o, ...gradientsOf(o.sum(), [q, k, v])]; });
  same("sdpa Tk<Tq causal", () => { const q = ones([1, 3, 1, 2]).add(0), k = ones([1, 1, 1, 2]).add(0), v = ones([1, 1, 1, 2]).add(1); const o = sdpa(q, k, v, { causal: true }); return [o, ...gradientsOf(o.sum(), [q, k, v])]; });
  same("embedding uint8", () => tensor([[1, 2], [3, 4]]).gather(tensor(Uint8Array.of(1, 0, 1))));
  same("embedding rank0 idx", () => tensor([[1, 2], [3, 4]]).gather(tensor(1, { dtype: "int32" })));
  same("embedding rank2 axis1", () => tensor([[1, 2], [3, 4]]).gather(tensor([[1, 0], [0, 1]], { dtype: "int32" }), 1));
  same("embedding oob empty inner", () => zeros([5, 0]).gather(tensor(Int32Array.of(100))));
  same("embedding from 0 rows", () => zeros([0, 3]).gather(tensor(Int32Array.of(0))));
  same("gather no idx grad", () => { const t = ones([3, 2]).add(0); return gradientsOf(t.gather(tensor([], { dtype: "int32", shape: [0] })).sum(), [t])[0] as Tensor; });
  same("gather int32 table", () => tensor(Int32Array.of(16777217, 5)).gather(tensor(Int32Array.of(1, 0, 0))));
  same("gather bool table", () => tensor([true, false], { dtype: "bool" }).gather(tensor(Int32Array.of(1, 0, 0))));
  same("scatter f16 300", () => { const t = ones([3, 1], "float16").add(0); const g = gradientsOf(t.gather(tensor(new Int32Array(3000).fill(1))).cast("float32").sum(), [t])[0] as Tensor; return g; });
  same("labels uint8", () => crossEntropy(tensor([[0, 0, 0]]), tensor(Uint8Array.of(2))));
  same("ce zero classes", () => crossEntropy(zeros([2, 0]), tensor(Int32Array.of(-100, -100)), { reduction: "none" }));
  same("ce zero rows", () => crossEntropy(zeros([0, 4]), tensor([], { dtype: "int32", shape: [0] })));
  same("ce inf", () => crossEntropy(tensor([[Infinity, 0], [-Infinity, 0], [NaN, 0], [-Infinity, -Infinity]]), tensor(Int32Array.of(0, 0, 1, 0)), { reduction: "none" }));
  same("softmax infs", () => tensor([[Infinity, 0], [-Infinity, 0], [NaN, 0], [-Infinity, -Infinity], [Infinity, Infinity]]).softmax());
  same("logsoftmax infs", () => tensor([[Infinity, 0], [-Infinity, 0], [NaN, 0], [-Infinity, -Infinity], [Infinity, Infinity]]).logSoftmax());
  same("lse infs", () => tensor([[Infinity, 0], [-Infinity, 0], [NaN, 0], [-Infinity, -Infinity], [Infinity, Infinity]]).logSumExp());
  same("lse grads infs", () => { const x = tensor([[Infinity, 0], [-Infinity, 0], [-Infinity, -Infinity]]); return gradientsOf(x.logSumExp().sum(), [x])[0] as Tensor; });
  same("norm f16 big", () => B.layerNorm(tensor([[60000, -60000, 1, 2]], { dtype: "float16" })));
  same("rms of zeros eps 0", () => B.rmsNorm(tensor([[0, 0]]), undefined, { eps: 0 }));
  same("f16 overflow", () => [tensor([60000, -60000, 65519], { dtype: "float16" }).add(tensor([10000, -10000, 1], { dtype: "float16" })), tensor([300], { dtype: "float16" }).square(), tensor([12], { dtype: "float16" }).exp()]);
  same("f16 matmul overflow", () => tensor([[300, 300]], { dtype: "float16" }).matmul(tensor([[300], [300]], { dtype: "float16" })));
  same("where NaN", () => { const x = tensor([-1, 0, 4]); const y = where(x.greater(0), x.sqrt(), 0); return [y, gradientsOf(y.sum(), [x])[0] as Tensor]; });
  same("concat empty", () => B.concatenate([zeros([0, 2]), tensor([[1, 2]]), zeros([0, 2])]));
  same("huge sum f16", () => full([100000], 1, "float16").add(0).sum());
  same("huge sum bf16 axis0", () => full([70000, 2], 1, "bfloat16").add(0).sum({ axes: 0 }));
  same("mean f16 no overflow", () => full([100000], 60000, "float16").add(0).mean());
});
