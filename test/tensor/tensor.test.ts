/** Tensors and factories: values, laziness, memory, mistakes. */
import { beforeAll, describe, expect, it } from "vitest";
import type { ErrorCode } from "../../src/errors.ts";
import type { DType } from "../../src/formats/index.ts";
import { autocast } from "../../src/precision/autocast.ts";
import { arange, fromBytes, full, ones, tensor, zeros } from "../../src/tensor/create.ts";
import { defaultDevice, useDevice } from "../../src/tensor/devices.ts";
import {
  concatenate,
  crossEntropy,
  layerNorm,
  linear,
  meanSquaredError,
  rmsNorm,
  scaledDotProductAttention,
  where,
} from "../../src/tensor/functions.ts";
import { gradients, gradientsOf } from "../../src/tensor/gradients.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { Variable } from "../../src/tensor/variable.ts";
import { DEVICES } from "../support/devices.ts";
import { expectError } from "../support/errors.ts";

const list = async (x: Tensor): Promise<number[]> => [...(await x.data())];

const x = (): Tensor =>
  tensor([
    [1, 2, 3],
    [4, 5, 6],
  ]);

describe.each(DEVICES)("tensors on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  const VALUES: readonly (readonly [string, () => Tensor, readonly number[], readonly number[], DType])[] = [
    ["broadcast", () => x().add(tensor([10, 20, 30])), [2, 3], [11, 22, 33, 14, 25, 36], "float32"],
    ["numbers on the right", () => x().sub(1).mul(2), [2, 3], [0, 2, 4, 6, 8, 10], "float32"],
    ["wider operands win", () => x().cast("bfloat16").add(x()), [2, 3], [2, 4, 6, 8, 10, 12], "float32"],
    ["literals adapt", () => x().cast("float16").mul(0.5), [2, 3], [0.5, 1, 1.5, 2, 2.5, 3], "float16"],
    [
      "tensors of ones do not adapt",
      () =>
        x()
          .cast("float16")
          .mul(ones([3])),
      [2, 3],
      [1, 2, 3, 4, 5, 6],
      "float32",
    ],
    ["matrix times matrix", () => x().matmul(x().transpose()), [2, 2], [14, 32, 32, 77], "float32"],
    ["matrix times vector", () => x().matmul(tensor([1, 0, -1])), [2], [-2, -2], "float32"],
    ["vector times matrix", () => tensor([1, -1]).matmul(x()), [3], [-3, -3, -3], "float32"],
    ["vector times vector", () => tensor([1, 2]).matmul(tensor([3, 4])), [], [11], "float32"],
    [
      "batch times vector",
      () =>
        x()
          .reshape([1, 2, 3])
          .matmul(tensor([1, 0, -1])),
      [1, 2],
      [-2, -2],
      "float32",
    ],
    ["vector times batch", () => tensor([1, 1]).matmul(x().reshape([1, 2, 3])), [1, 3], [5, 7, 9], "float32"],
    [
      "batch times matrix",
      () =>
        x()
          .reshape([2, 1, 3])
          .matmul(tensor([[1], [1], [1]])),
      [2, 1, 1],
      [6, 15],
      "float32",
    ],
    [
      "batches broadcast",
      () =>
        x()
          .reshape([2, 1, 1, 3])
          .matmul(ones([2, 3, 1])),
      [2, 2, 1, 1],
      [6, 6, 15, 15],
      "float32",
    ],
    [
      "reductions",
      () =>
        concatenate([x().sum().reshape([1]), x().mean().reshape([1]), x().max().reshape([1]), x().min().reshape([1])]),
      [4],
      [21, 3.5, 6, 1],
      "float32",
    ],
    ["reductions along axes", () => x().sum({ axes: -1 }), [2], [6, 15], "float32"],
    ["reductions that keep axes", () => x().max({ axes: [0], keepAxes: true }), [1, 3], [4, 5, 6], "float32"],
    ["argMax", () => x().neg().argMax({ axes: 1 }), [2], [0, 0], "int32"],
    ["argMin over all", () => x().neg().argMin(), [], [5], "int32"],
    ["variance", () => x().variance({ axes: 1 }), [2], [Math.fround(2 / 3), Math.fround(2 / 3)], "float32"],
    ["reshape with −1", () => x().reshape([3, -1]).transpose(), [2, 3], [1, 3, 5, 2, 4, 6], "float32"],
    ["slices", () => x().slice(-1, 1, 2), [2, 2], [2, 3, 5, 6], "float32"],
    ["gather", () => x().gather(tensor(Int32Array.of(1, 1, 0))), [3, 3], [4, 5, 6, 4, 5, 6, 1, 2, 3], "float32"],
    ["gather along an axis", () => x().gather(tensor(new Uint8Array([2])), 1), [2, 1], [3, 6], "float32"],
    ["where", () => where(x().greater(3), x(), 0), [2, 3], [0, 0, 0, 4, 5, 6], "float32"],
    ["where of numbers", () => where(x().greater(3), 1, -1), [2, 3], [-1, -1, -1, 1, 1, 1], "float32"],
    ["booleans", () => x().less(3).and(x().notEqual(1)).or(x().equal(6)).not(), [2, 3], [1, 0, 1, 1, 1, 0], "bool"],
    ["integers", () => arange(4).mul(3).add(1), [4], [1, 4, 7, 10], "int32"],
    ["truncating casts", () => tensor([1.9, -1.9, 300]).cast("int32"), [3], [1, -1, 300], "int32"],
    ["full", () => full([2], 2.5, "bfloat16").add(zeros([2], "bfloat16")), [2], [2.5, 2.5], "bfloat16"],
    ["permute", () => x().reshape([1, 2, 3]).permute([2, 0, -2]), [3, 1, 2], [1, 4, 2, 5, 3, 6], "float32"],
    ["concatenate", () => concatenate([x(), x().slice(1, 0, 1)], -1), [2, 4], [1, 2, 3, 1, 4, 5, 6, 4], "float32"],
    [
      "linear",
      () =>
        linear(
          x(),
          tensor([
            [1, 0, 0],
            [0, 0, 1],
          ]),
          tensor([10, 20]),
        ),
      [2, 2],
      [11, 23, 14, 26],
      "float32",
    ],
    ["empty tensors", () => zeros([0, 3]).sum({ axes: 0 }), [3], [0, 0, 0], "float32"],
    ["mean squared error", () => meanSquaredError(x(), x().add(2)), [], [4], "float32"],
  ];
  it.each(VALUES)("%s", async (_, make, shape, values, dtype) => {
    const result = make();
    expect([result.shape, result.dtype]).toEqual([shape, dtype]);
    expect((await list(result)).map((v) => v + 0)).toEqual(values);
  });

  const MISTAKES: readonly (readonly [string, () => unknown, ErrorCode, RegExp])[] = [
    ["two −1", () => x().reshape([-1, -1]), "shape.mismatch", /^reshape: the 6 elements of \[2, 3\].*\[-1, -1\]/],
    ["−1 that does not fit", () => x().reshape([-1, 4]), "shape.mismatch", /^reshape: /],
    ["an axis too many", () => x().sum({ axes: 2 }), "shape.invalid", /^sum: axis 2 is outside/],
    ["one axis twice", () => x().sum({ axes: [0, -2] }), "shape.invalid", /^sum: axes \[0, -2\] name one axis twice/],
    ["a slice beyond the end", () => x().slice(0, 1, 2), "shape.invalid", /^slice: /],
    ["a slice of all from 1", () => x().slice(0, 1, 2), "shape.invalid", /^slice: /],
    [
      "inner sizes",
      () => x().matmul(x()),
      "shape.mismatch",
      /^matmul: \[2, 3\] × \[2, 3\] — inner sizes 3 and 2 differ; did you mean b\.transpose\(\)\?/,
    ],
    [
      "batches",
      () => zeros([2, 1, 3]).matmul(zeros([3, 3, 1])),
      "shape.mismatch",
      /^matmul: shapes \[2\] and \[3\] do not broadcast/,
    ],
    [
      "float16 and bfloat16",
      () => x().cast("float16").add(x().cast("bfloat16")),
      "dtype.mismatch",
      /^add: .*float16.*bfloat16.*cast/,
    ],
    ["floats and integers", () => x().add(arange(3)), "dtype.mismatch", /^add: operands are float32 and int32.*cast/],
    ["a fraction times integers", () => arange(3).mul(0.5), "value.range", /0\.5 is not a value of int32/],
    ["sum of booleans", () => x().less(3).sum(), "dtype.unsupported", /^sum: .*bool.*cast/],
    ["ragged rows", () => tensor([[1], [1, 2]]), "shape.mismatch", /^tensor: rows have shapes \[1\] and \[2\]/],
    [
      "a shape that the values do not fill",
      () => tensor([1, 2, 3], { shape: [2] }),
      "shape.mismatch",
      /^tensor: shape \[2\] holds 2 elements, got 3/,
    ],
    [
      "linear of another width",
      () => linear(x(), zeros([4, 2])),
      "shape.mismatch",
      /^linear: x \[2, 3\] and weight \[4, 2\]/,
    ],
    ["item of many", () => x().item(), "shape.mismatch", /^item: the tensor has shape \[2, 3\]/],
    ["float16 of float32", () => x().float16(), "dtype.mismatch", /^float16: the tensor is float32/],
    ["negative eps", () => layerNorm(x(), undefined, undefined, { eps: -1 }), "value.range", /eps is -1/],
    ["norm of a scalar", () => rmsNorm(tensor(1)), "value.range", /shape \[\]/],
    ["axis for axes", () => x().sum({ axis: 0 } as object), "option.unknown", /^sum: unknown option "axis"/],
    ["keepAxes that is text", () => x().max({ keepAxes: "no" } as object), "option.invalid", /^max: keepAxes/],
    ["axis of a variance", () => x().variance({ axis: 0 } as object), "option.unknown", /^variance/],
    [
      "another reduction of a loss",
      () => crossEntropy(x(), tensor(Int32Array.of(0, 1)), { reduction: "meen" } as object),
      "option.invalid",
      /reduction: expected "mean", "sum" or "none", got "meen"/,
    ],
    [
      "PyTorch's name of causal",
      () =>
        scaledDotProductAttention(zeros([1, 2, 1, 4]), zeros([1, 2, 1, 4]), zeros([1, 2, 1, 4]), {
          isCausal: true,
        } as object),
      "option.unknown",
      /unknown option "isCausal"; expected one of scale, causal/,
    ],
    ["a misspelt dtype of a tensor", () => tensor([1], { dtpye: "float16" } as object), "option.unknown", /"dtpye"/],
    [
      "epsilon for eps",
      () => layerNorm(x(), undefined, undefined, { epsilon: 1 } as object),
      "option.unknown",
      /layerNorm/,
    ],
    [
      "a misspelt option of gradients",
      () => gradients(x().sum(), [], { allowunused: true } as object),
      "option.unknown",
      /^gradients/,
    ],
    ["a gradient of nothing", () => gradientsOf(x().sum(), [x()]), "gradient.missing", /does not depend on tensor 0/],
    ["concatenate of nothing", () => concatenate([]), "shape.invalid", /^concatenate: expected at least one/],
    // @ts-expect-error: a promise outlives the region
    ["an asynchronous region", () => autocast("bfloat16", async () => 1), "autocast.async", /returned a promise/],
  ];
  it.each(MISTAKES)("refuses %s", async (_, body, code, sentence) => expectError(body, code, sentence));

  it("keeps booleans, bytes and 16-bit values in their own form", async () => {
    expect([...(await tensor([1, -0.1]).cast("bfloat16").storage())]).toEqual([0x3f80, 0xbdcd]);
    expect([...(await tensor([1, 65520]).cast("float16").storage())]).toEqual([0x3c00, 0x7c00]);
    expect(await fromBytes(Uint8Array.of(0x80, 0x3f), { shape: [], dtype: "bfloat16" }).item()).toBe(1);
    expect(await tensor([true, false]).show()).toBe("float32 [2] [1, 0]");
    expect(await arange(20).show()).toBe("int32 [20] [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, …]");
    expect(String(x())).toBe("Tensor(float32 [2, 3])");
  });

  it("computes a value once and hands out copies", async () => {
    const y = x().exp();
    const [first, second] = [await y.data(), await y.data()];
    first[0] = 99;
    expect(second[0]).not.toBe(99);
    expect((await y.data())[0]).toBe(second[0]);
  });

  it("copies the shape that a caller may change", async () => {
    const shape = [2, 3];
    const wide = tensor([1, 2, 3]).broadcastTo(shape);
    shape[0] = 7;
    expect([wide.shape, await list(wide)]).toEqual([
      [2, 3],
      [1, 2, 3, 1, 2, 3],
    ]);
  });

  it("gives gradients in the order of the tensors", async () => {
    const [p, q] = [tensor([2]), tensor([3])];
    const [gq, gp] = gradientsOf(p.mul(p).mul(q).sum(), [q, p]);
    expect([await gq?.item(), await gp?.item()]).toEqual([4, 12]);
  });

  it("attends to the past alone if causal", async () => {
    const q = tensor(
      Array.from({ length: 12 }, (_, i) => Math.sin(i)),
      { shape: [1, 3, 1, 4] },
    );
    const causal = await list(scaledDotProductAttention(q, q, q, { causal: true }));
    const first = await list(q.slice(1, 0, 1));
    expect(causal.slice(0, 4)).toEqual(first);
    expect(causal).not.toEqual(await list(scaledDotProductAttention(q, q, q)));
  });

  it("releases a disposed tensor's memory, and never a variable's", async () => {
    const here = defaultDevice();
    const y = x().mul(3);
    await y.data();
    const before = here.live;
    y.dispose();
    y.dispose();
    await here.enqueue(async () => undefined);
    expect(here.live).toEqual({ buffers: before.buffers - 1, byteLength: before.byteLength - 24 });
    await expectError(() => y.data(), "tensor.disposed", /its value is gone/);
    const v = new Variable("v", [2], "float32", Float32Array.of(1, 2));
    v.read().dispose();
    expect(await list(v.read())).toEqual([1, 2]);
    const lazy = x().neg();
    lazy.dispose();
    expect((await list(lazy))[0]).toBe(-1);
    {
      using held = x().square();
      await held.data();
    }
  });
});

describe.each(DEVICES)("boundaries on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("fromBytes takes exactly the shape's bytes", async () => {
    await expectError(
      () => fromBytes(new Uint8Array(5), { shape: [3], dtype: "bfloat16" }),
      "shape.mismatch",
      /^fromBytes: .*6 bytes, got 5/,
    );
  });

  it("a norm of 16-bit values takes float32 weights, and gives float32", async () => {
    const normal = layerNorm(x().cast("bfloat16"), ones([3]), zeros([3]));
    expect(normal.dtype).toBe("float32");
    expect((await list(normal)).map((v) => v.toFixed(1))).toEqual(["-1.2", "0.0", "1.2", "-1.2", "0.0", "1.2"]);
  });
});
