/** The matmul and attention kernels through programs: operand words, offsets, epilogues over tiles, presence of views. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decodeArray, encodeArray } from "../../src/formats/index.ts";
import { attention, matmul } from "./programs.ts";
import { addon, at, isas, randomFloats, runKernels, skipReason } from "./words.ts";

describe.skipIf(skipReason !== undefined).each(isas)("contractions on %s", (isa) => {
  beforeAll(() => addon().setIsa(isa));
  afterAll(() => addon().setThreads(2));

  it.each([
    [1, 3, 5, 7],
    [2, 70, 10, 33],
    [3, 40, 1, 9],
    [1, 65, 700, 20],
    [2, 4, 4, 0],
  ] as const)("%d × (%d, %d) products over %d terms, with bias, relu, residual and a transposed bfloat16 store", (batch, m, n, k) => {
    for (const dtype of ["float32", "bfloat16"] as const) {
      const a = encodeArray(randomFloats(batch * m * k, 1), dtype); // (batch, k, m): transposed
      const b = encodeArray(randomFloats(k * n, 2), dtype); // (k, n), used by every product
      const bias = randomFloats(n, 3);
      const residual = randomFloats(batch * m * n, 4);
      const out = new Uint16Array(batch * m * n);
      const kernel = matmul({
        ...{ batch, m, n, k, dtype, bindings: [1, 2], aStrides: [1, m], bStrides: [n, 1] },
        aOffsets: Array.from({ length: batch }, (_, i) => i * m * k),
        bOffsets: Array.from({ length: batch }, () => 0),
        epilogue: {
          registers: 4,
          loads: [
            { reg: 0, buffer: 0 },
            { reg: 1, view: { binding: 3, dtype: "float32", strides: [0, 0, 1] } },
            { reg: 2, view: { binding: 4, dtype: "float32", strides: [m * n, n, 1] } },
          ],
          code: [
            ["add", 0, 0, 1],
            ["constant", 3],
            ["max", 0, 0, 3],
            ["add", 0, 0, 2],
          ],
          stores: [{ reg: 0, view: { binding: 5, dtype: "bfloat16", strides: [m * n, 1, m] } }],
        },
      });
      const runs = [1, 3].map((threads) => {
        addon().setThreads(threads);
        expect(runKernels([kernel], [a, b, bias, residual, out])).toBeNull();
        return out.slice();
      });
      expect(runs[1]).toEqual(runs[0]);
      const [wideA, wideB, actual] = [decodeArray(a, dtype), decodeArray(b, dtype), decodeArray(out, "bfloat16")];
      let worst = 0;
      for (let o = 0; o < batch * m * n; o++) {
        const [p, i, j] = [Math.floor(o / (m * n)), Math.floor(o / n) % m, o % n];
        let sum = 0;
        for (let t = 0; t < k; t++) sum += at(wideA, p * m * k + t * m + i) * at(wideB, t * n + j);
        const expected = Math.max(sum + at(bias, j), 0) + at(residual, o);
        const error = Math.abs(at(actual, p * m * n + j * m + i) - expected);
        worst = Math.max(worst, error / (Math.abs(expected) + 0.01));
      }
      expect(worst).toBeLessThan(2 ** -8 * 1.01);
    }
  });

  /** One product of (150, 20) and (20, 300) with an epilogue: the buffers after it are binding 1, 2, …. */
  const product = (
    epilogue: Parameters<typeof matmul>[0]["epilogue"],
    buffers: readonly (Float32Array | Uint16Array)[],
  ): void => {
    const [m, n, k] = [150, 300, 20];
    const kernel = matmul({
      ...{ batch: 1, m, n, k, dtype: "float32", bindings: [1, 2], aStrides: [k, 1], bStrides: [n, 1] },
      ...{ aOffsets: [0], bOffsets: [0], epilogue },
    });
    expect(runKernels([kernel], [randomFloats(m * k, 1), randomFloats(k * n, 2), ...buffers])).toBeNull();
  };

  it.each([
    ["float32", undefined],
    ["bfloat16", undefined],
    ["float16", undefined],
    ["float32", "roundBfloat16"],
    ["bfloat16", "roundBfloat16"],
    ["float16", "roundFloat16"],
    ["bfloat16", "roundFloat16"],
  ] as const)("stores %s sums after %s without the engine, to the bits that it stores", (dtype, round) => {
    for (const biasDtype of [undefined, "float32", "bfloat16"] as const) {
      const bias = encodeArray(randomFloats(300, 3), biasDtype ?? "float32");
      const results = [1, 2].map((stores) => {
        const outs = [1, 2].map(() => encodeArray(new Float32Array(150 * 303), dtype));
        const view = (binding: number) => ({ reg: 0, view: { binding, dtype, strides: [0, 303, 1] } });
        const biasView = { binding: 3, dtype: biasDtype ?? "float32", strides: [0, 0, 1] };
        product(
          {
            registers: 2,
            loads: [{ reg: 0, buffer: 0 }, ...(biasDtype === undefined ? [] : [{ reg: 1, view: biasView }])],
            code: [
              ...(biasDtype === undefined ? [] : ([["add", 0, 0, 1]] as const)),
              ...(round === undefined ? [] : ([[round, 0, 0]] as const)),
            ],
            stores: [view(4), ...(stores === 2 ? [view(5)] : [])],
          },
          [bias, ...outs] as (Float32Array | Uint16Array)[],
        );
        return outs[0];
      });
      const [direct, engine] = results.map((out) => Buffer.from(out?.buffer ?? new ArrayBuffer(0)));
      expect(engine !== undefined && direct?.equals(engine)).toBe(true);
    }
  });

  it("stores an operand as it was before another store of the epilogue overwrote it", () => {
    const weights = randomFloats(150 * 300, 3);
    const [updated, before] = [weights.slice(), new Float32Array(150 * 300)];
    const strides = [0, 300, 1];
    const epilogue = {
      registers: 3,
      loads: [
        { reg: 0, buffer: 0 },
        { reg: 1, view: { binding: 3, dtype: "float32", strides } },
      ],
      code: [["sub", 2, 1, 0]],
      stores: [
        { reg: 2, view: { binding: 3, dtype: "float32", strides } },
        { reg: 1, view: { binding: 4, dtype: "float32", strides } },
      ],
    } as const;
    product(epilogue, [updated, before]);
    expect(Buffer.from(before.buffer).equals(Buffer.from(weights.buffer))).toBe(true);
    expect(updated[0]).not.toBe(weights[0]);
  });

  it("attention and its backward read and write the views that the words name", () => {
    const [queries, heads, width] = [6, 2, 4];
    const [q, k, v, g] = [1, 2, 3, 4].map((seed) => randomFloats(48, seed));
    if (q === undefined || k === undefined || v === undefined || g === undefined) throw new Error("unreachable");
    const [out, dq, dk, dv] = [new Float32Array(48), new Float32Array(48), new Float32Array(48), new Float32Array(48)];
    const lse = new Float32Array(12);
    const bindings = [q, k, v, out, lse, g, dq, dk, dv];
    expect(runKernels([attention(1, false), attention(1, true)], bindings)).toBeNull();
    const of = (x: Float32Array, t: number, h: number, d: number): number => at(x, (t * heads + h) * width + d);
    /** Sum of g · attention(q, k, v) in float64. */
    const loss = (q64: Float64Array): number => {
      let sum = 0;
      for (let h = 0; h < heads; h++) {
        for (let t = 0; t < queries; t++) {
          const scores = Array.from({ length: t + 1 }, (_, j) => {
            let s = 0;
            for (let d = 0; d < width; d++) s += at(q64, (t * heads + h) * width + d) * of(k, j, h, d);
            return Math.exp(s * 0.5);
          });
          const total = scores.reduce((a, b) => a + b, 0);
          scores.forEach((s, j) => {
            for (let d = 0; d < width; d++) sum += (of(g, t, h, d) * s * of(v, j, h, d)) / total;
          });
        }
      }
      return sum;
    };
    const exact = loss(Float64Array.from(q));
    expect(out.reduce((s, o, i) => s + o * at(g, i), 0)).toBeCloseTo(exact, 4);
    for (const i of [0, 9, 30, 47]) {
      const moved = Float64Array.from(q);
      moved[i] = at(q, i) + 1e-5;
      expect(at(dq, i)).toBeCloseTo((loss(moved) - exact) / 1e-5, 3);
    }
    expect(dk.some((x) => x !== 0) && dv.some((x) => x !== 0)).toBe(true);
    expect(at(lse, 6)).toBeCloseTo(0.5 * [0, 1, 2, 3].reduce((s, d) => s + of(q, 0, 1, d) * of(k, 0, 1, d), 0), 5);
  });
});
