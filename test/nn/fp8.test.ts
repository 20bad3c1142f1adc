/** 8-bit recipes of linear layers: what each product sees, in training and evaluation, and what is remembered. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  amaxOf,
  autocast,
  checkpoint,
  compile,
  currentScale,
  type Float8DType,
  GradScaler,
  gradients,
  gradientsOf,
  nn,
  optim,
  quantizeByBlock,
  quantizeByTensor,
  type Tensor,
  tensor,
  useDevice,
  type Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { uniforms } from "../support/random.ts";
import { bytesOf } from "../support/variables.ts";

/** Not divisible by 32, and more than one block along every axis that a product sums over. */
const [ROWS, IN, OUT] = [40, 70, 36];
/** Uniform numbers, in every second row and column that much larger or smaller: blocks along another axis lose others. */
const spread = (seed: number, rows: number, columns: number, byRow: number, byColumn: number): Float32Array =>
  Float32Array.from(
    uniforms(seed, rows * columns, -3, 3),
    (v, i) => v * (Math.floor(i / columns) % 2 === 0 ? 1 : byRow) * ((i % columns) % 2 === 0 ? 1 : byColumn),
  );
const X = spread(1, ROWS, IN, 2 ** 9, 2 ** -20);
const W = spread(3, OUT, IN, 2 ** -20, 2 ** 20);
const G = spread(2, ROWS, OUT, 2 ** -9, 2 ** 20);

type Matrix = { readonly data: Float32Array; readonly rows: number; readonly columns: number };
const matrix = (data: Float32Array, rows: number, columns: number): Matrix => ({ data, rows, columns });
const transposed = ({ data, rows, columns }: Matrix): Matrix =>
  matrix(
    data.map((_, i) => data[(i % rows) * columns + Math.floor(i / rows)] as number),
    columns,
    rows,
  );

/** a bᵀ in float64. */
function productOf(a: Matrix, b: Matrix): Float64Array {
  const out = new Float64Array(a.rows * b.rows);
  for (let i = 0; i < out.length; i++) {
    const [row, column] = [Math.floor(i / b.rows) * a.columns, (i % b.rows) * b.columns];
    let sum = 0;
    for (let k = 0; k < a.columns; k++) sum += (a.data[row + k] as number) * (b.data[column + k] as number);
    out[i] = sum;
  }
  return out;
}

/** a bᵀ, up to the order of float32 sums. */
function expectProduct(actual: ArrayLike<number>, a: Matrix, b: Matrix): void {
  const magnitudes = (m: Matrix): Matrix => matrix(m.data.map(Math.abs), m.rows, m.columns);
  const sizes = productOf(magnitudes(a), magnitudes(b));
  const far = Array.from(productOf(a, b)).flatMap((v, i) =>
    Math.abs(v - (actual[i] as number)) <= 2 ** -16 * (sizes[i] as number) ? [] : [i],
  );
  expect(far).toEqual([]);
  expect(actual).toHaveLength(sizes.length);
}

const byTensor = ({ data, rows, columns }: Matrix, format: Float8DType): Matrix =>
  matrix(
    quantizeByTensor(data, currentScale(amaxOf(data), format, { powerOfTwo: false, minimumAmax: 0 }), format),
    rows,
    columns,
  );
const byBlock = ({ data, rows, columns }: Matrix, format: Float8DType): Matrix => {
  const held = Float32Array.from(data);
  for (let r = 0; r < rows; r++)
    held.set(quantizeByBlock(data.subarray(r * columns, (r + 1) * columns), format, "rceil").values, r * columns);
  return matrix(held, rows, columns);
};

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    ["current", byTensor],
    ["block", byBlock],
  ] as const)("%s scaling: each product sees its operands in the format of their role", async (scaling, held) => {
    const layer = nn.fp8(new nn.Linear(IN, OUT, { initialWeight: () => W, initialBias: nn.zeros }), { scaling });
    const x = tensor(X, { shape: [ROWS, IN] });
    const y = layer.forward(x);
    const loss = y.mul(tensor(G, { shape: [ROWS, OUT] })).sum();
    const grads = gradients(loss, layer);
    const [forX] = gradientsOf(loss, [x]);
    const [input, weight, g] = [matrix(X, ROWS, IN), matrix(W, OUT, IN), matrix(G, ROWS, OUT)];
    const [e4m3, e5m2] = ["float8_e4m3fn", "float8_e5m2"] as const;
    expectProduct(await y.data(), held(input, e4m3), held(weight, e4m3));
    // The input's gradient sums over the outputs, the weight's over the rows.
    expectProduct(await (forX as Tensor).data(), held(g, e5m2), held(transposed(weight), e4m3));
    const forWeight = grads.get(layer.weight) as Tensor;
    expectProduct(await forWeight.data(), held(transposed(g), e5m2), held(transposed(input), e4m3));
    // The bias sees no cast.
    const forBias = grads.get(layer.bias as Variable) as Tensor;
    const ones = matrix(new Float32Array(ROWS).fill(1), 1, ROWS);
    expectProduct(await forBias.data(), ones, transposed(g));
  });

  it("delayed scaling casts by the amaxes of earlier steps", async () => {
    const layer = nn.fp8(new nn.Linear(4, 4, { seed: 1, bias: false }), {
      scaling: { kind: "delayed", historyLength: 2 },
    });
    const state = layer.fp8 as nn.Fp8;
    const step = compile((x: Tensor) => {
      const y = layer.forward(x);
      return { y, grads: [...gradients(y.sum(), layer).values()] };
    });
    const scales: number[] = [];
    for (const size of [1000, 1000, 10, 10, 10]) {
      await step(tensor(new Float32Array(8).fill(size), { shape: [2, 4] }));
      scales.push(await (state.input as nn.AmaxHistory).scale.read().item());
    }
    // The scale after each step: the greater of two amaxes is 1000 for one step longer than it is seen.
    expect(scales).toEqual([1000, 1000, 1000, 10, 10].map((a) => Math.fround(448 / a)));
    expect(await (state.gradient as nn.AmaxHistory).scale.read().item()).toBe(57344);
    const history = (state.gradient as nn.AmaxHistory).amaxHistory;
    expect([...(await history.read().data())]).toEqual([0, 1]);
  });

  it("a first step with the scale 1 saturates, and does not overflow", async () => {
    const layer = nn.fp8(new nn.Linear(2, 1, { bias: false, initialWeight: () => Float32Array.of(1, 0) }), {
      scaling: "delayed",
    });
    const y = layer.forward(tensor([[1000, 0]]));
    expect(await y.item()).toBe(448);
  });

  it.each([
    "current",
    "delayed",
    "block",
  ] as const)("%s scaling does not hide an infinite gradient", async (scaling) => {
    const layer = nn.fp8(new nn.Linear(3, 2, { seed: 1, bias: false }), { scaling });
    const x = tensor([[1, 2, 3]]);
    const loss = layer
      .forward(x)
      .mul(tensor([[Infinity, 1]]))
      .sum();
    const [forX] = gradientsOf(loss, [x]);
    const forWeight = gradients(loss, layer).get(layer.weight);
    for (const gradient of [forX, forWeight])
      expect([...(await (gradient as Tensor).data())].every(Number.isFinite)).toBe(false);
  });

  it("amaxes and scales keep their bits in a step that is skipped", async () => {
    const layer = nn.fp8(new nn.Linear(3, 2, { seed: 1 }), { scaling: { kind: "delayed", historyLength: 4 } });
    const optimizer = new optim.SGD(layer, { lr: 0.1 });
    const scaler = new GradScaler();
    const step = compile((x: Tensor) => {
      const grads = scaler.unscale(gradients(scaler.scale(layer.forward(x).sum()), layer));
      scaler.step(optimizer, grads);
      scaler.update();
    });
    await step(tensor([[1, 2, 3]]));
    const before = await bytesOf([...layer.parameters(), ...layer.buffers()]);
    await step(tensor([[1, Infinity, 3]]));
    expect(await bytesOf([...layer.parameters(), ...layer.buffers()])).toEqual(before);
    await step(tensor([[1, 2, 3]]));
    expect(await bytesOf(layer.buffers())).not.toEqual(before.slice(2));
  });

  it("a skipped step of several micro-steps takes back the amaxes of all", async () => {
    const layer = nn.fp8(new nn.Linear(3, 2, { seed: 1 }), { scaling: { kind: "delayed", historyLength: 4 } });
    const optimizer = new optim.SGD(layer, { lr: 0.1 });
    const scaler = new GradScaler();
    const sums = new optim.GradientAccumulator<"scaled">(layer, { scaler });
    const add = compile((x: Tensor) => sums.add(gradients(scaler.scale(layer.forward(x).sum()), layer)));
    const apply = compile(() => {
      scaler.step(optimizer, scaler.unscale(sums.take()));
      scaler.update();
    });
    const before = await bytesOf(layer.buffers());
    for (const [last, moves] of [
      [Infinity, false],
      [1, true],
    ] as const) {
      await add(tensor([[1, 2, 3]]));
      await add(tensor([[1, last, 3]]));
      await apply();
      expect((await bytesOf(layer.buffers())).join() !== before.join()).toBe(moves);
    }
  });

  it("evaluation, and a layer that does not run, leave the state as it is", async () => {
    const recipe = { scaling: { kind: "delayed", historyLength: 4 } } as const;
    const [used, idle] = [new nn.Linear(3, 3, { seed: 1 }), new nn.Linear(3, 3, { seed: 2 })];
    nn.fp8(used, recipe);
    nn.fp8(idle, recipe);
    const fresh = await bytesOf(idle.buffers());
    const evaluated = await used
      .evaluate()
      .forward(tensor([[1, 2, 3]]))
      .data();
    expect(await bytesOf(used.buffers())).toEqual(fresh);
    await used
      .train()
      .forward(tensor([[1, 2, 3]]))
      .data();
    expect(await bytesOf(used.buffers())).not.toEqual(fresh);
    expect(await bytesOf(idle.buffers())).toEqual(fresh);
    // Under other scales the same input gives something else.
    expect([
      ...(await used
        .evaluate()
        .forward(tensor([[1, 2, 3]]))
        .data()),
    ]).not.toEqual([...evaluated]);
  });

  it("a recomputed layer gives the same bits, and remembers its amaxes once", async () => {
    const run = async (recomputed: boolean): Promise<readonly string[]> => {
      const model = new nn.Sequential(
        new nn.Linear(5, 8, { seed: 1 }),
        new nn.GELU(),
        new nn.Linear(8, 2, { seed: 2 }),
      );
      nn.fp8(model, { scaling: { kind: "delayed", historyLength: 3 } });
      const optimizer = new optim.SGD(model, { lr: 0.1 });
      const step = compile((x: Tensor) => {
        const forward = (): Tensor => model.forward(x).square().mean();
        optimizer.apply(gradients(recomputed ? checkpoint(forward) : forward(), model));
      });
      for (const seed of [1, 2, 3]) await step(tensor(Float32Array.from(uniforms(seed, 20)), { shape: [4, 5] }));
      return bytesOf([...model.parameters(), ...model.buffers()]);
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it("under autocast the input is cast first, the weight is not, and the result is narrow", async () => {
    // Above a tie of e4m3; what is rounded to bfloat16 first is the tie, and goes to the even neighbour below.
    const nearTie = 1.0625 + 2 ** -9;
    const resultOf = async (input: number, weight: number): Promise<number> => {
      const layer = new nn.Linear(2, 1, { bias: false, initialWeight: () => Float32Array.of(weight, 0) });
      nn.fp8(layer, { scaling: { kind: "current", powerOfTwo: true } });
      const y = autocast("bfloat16", () => layer.forward(tensor([[input, 0]])));
      expect(y.dtype).toBe("bfloat16");
      expect(gradients(y.sum(), layer).get(layer.weight)?.dtype).toBe("float32");
      return y.item();
    };
    expect(await resultOf(1, nearTie)).toBe(1.125);
    expect(await resultOf(nearTie, 1)).toBe(1);
  });
});
