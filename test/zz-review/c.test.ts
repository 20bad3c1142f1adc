import { beforeAll, describe, expect, it } from "vitest";
import { compile } from "../../src/tensor/compile.ts";
import { tensor } from "../../src/tensor/create.ts";
import { useDevice } from "../../src/tensor/devices.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
const rand = (n: number, s = 1) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898 * s) * 43758.5453 % 1);
const raw = async (t: Tensor) => [...(await t.bytes())];
describe.each([[[4, 300, 70]], [[64, 33, 17]], [[3, 5000, 3]], [[2000, 3, 5]], [[1, 40000, 2]], [[700, 1, 9]]])("%s", (shape) => {
  beforeAll(() => { useDevice("cpu"); });
  const n = shape.reduce((a, b) => a * b, 1);
  for (const axes of [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
    for (const [name, other] of [["bias", [shape[2]]], ["rows", [shape[0], 1, 1]], ["mid", [shape[1], 1]]] as [string, number[]][])
      it(`sum ${axes} with ${name}`, async () => {
        const x = tensor(rand(n), { shape }), b = tensor(rand(other.reduce((a, c) => a * c, 1), 3), { shape: other });
        const plain = compile((p: Tensor, q: Tensor) => p.mul(q).tanh().sum({ axes }));
        const seen = compile((p: Tensor, q: Tensor) => { const y = p.mul(q).tanh(); return { s0: y.sum({ axes: 0 }), s1: y.sum({ axes: 1 }), s2: y.sum({ axes: [0, 2] }), s3: y.sum({axes: [1,2]}), m: y.softmax(), s: y.sum({ axes }) }; });
        expect(await raw(await plain(x, b))).toEqual(await raw((await seen(x, b)).s));
      });
});
