/** 8-bit recipes of linear layers: what each product sees, by path, in training and evaluation, and what a run loses by them. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  amaxOf,
  autocast,
  checkpoint,
  compile,
  crossEntropy,
  currentScale,
  dryRun,
  type Float8DType,
  type Fp8RecipeOptions,
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
import { page, section, tableRows } from "../docs/markdown.ts";
import { DEVICES } from "../support/devices.ts";
import { uniforms } from "../support/random.ts";
import { expectRefusal } from "../support/refusal.ts";

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

const bytesOf = async (variables: Iterable<Variable>): Promise<readonly string[]> =>
  Promise.all([...variables].map(async (v) => Buffer.from(await v.bytes()).toString("hex")));

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

describe("layers by path", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  const model = (): nn.GPT => new nn.GPT({ vocabulary: 8, context: 4, layers: 2, heads: 1, width: 4 });
  const marked = (m: nn.Module): readonly string[] =>
    [...m.namedModules()].flatMap(([path, module]) =>
      module instanceof nn.Linear && module.fp8 !== null ? [path] : [],
    );
  const inBlock = (i: number): readonly string[] =>
    ["attention.qkv", "attention.projection", "feedForward.expand", "feedForward.contract"].map(
      (p) => `blocks.${i}.${p}`,
    );

  it("are all, or those that are chosen and not excepted", () => {
    expect(marked(nn.fp8(model(), {}))).toEqual([...inBlock(0), ...inBlock(1), "head"]);
    expect(marked(nn.fp8(model(), {}, { modules: "blocks.**" }))).toEqual([...inBlock(0), ...inBlock(1)]);
    expect(marked(nn.fp8(model(), {}, { except: ["blocks.0", "head"] }))).toEqual(inBlock(1));
    expect(marked(nn.fp8(nn.fp8(model(), {}), null, { modules: "head" }))).toEqual([...inBlock(0), ...inBlock(1)]);
  });

  it("have their state in named buffers, and nothing new to train", () => {
    const gpt = nn.fp8(model(), { scaling: "delayed" }, { modules: "head" });
    expect([...gpt.namedBuffers()].map(([path, { shape, dtype }]) => `${path} [${shape}] ${dtype}`)).toEqual([
      "random [4] uint32",
      ...["input", "weight", "gradient"].flatMap((role) => [
        `head.fp8.${role}.scale [] float32`,
        `head.fp8.${role}.amaxHistory [1024] float32`,
      ]),
    ]);
    expect([...gpt.namedParameters().keys()]).toEqual([...model().namedParameters().keys()]);
  });

  it("are recorded anew when the recipe changes", async () => {
    const layer = new nn.Linear(1, 1, { bias: false, initialWeight: () => Float32Array.of(1.05) });
    const step = compile((x: Tensor) => layer.forward(x));
    const at = async (): Promise<number> => (await step(tensor([[1]]))).item();
    expect(await at()).toBe(Math.fround(1.05));
    nn.fp8(layer, { scaling: { kind: "current", powerOfTwo: true } });
    expect(await at()).toBe(1);
    nn.fp8(layer, null);
    expect(await at()).toBe(Math.fround(1.05));
  });

  it("are without 8 bits in the float32 twin of a dry run", async () => {
    const layer = nn.fp8(new nn.Linear(8, 8, { seed: 1 }), { scaling: "current" });
    const { outputs } = await dryRun(
      (x: Tensor) => layer.forward(x),
      tensor([Array.from({ length: 8 }, (_, i) => Math.sin(i))]),
    );
    expect(outputs[0]?.relativeError).toBeGreaterThan(2 ** -8);
    expect(outputs[0]?.relativeError).toBeLessThan(2 ** -3);
  });

  it.each([
    [{ modules: "block.**" }, ["fp8: modules", '"block.**"', "blocks.0.attention.qkv"]],
    [{ except: ["head", "tokenEmbedding"] }, ["fp8: except", '"tokenEmbedding"']],
    [{ modules: "blocks.*.norm1" }, ["fp8: modules", '"head"']],
    [{ modules: 3 as unknown as string }, ["fp8: modules", "3"]],
  ])("refuse %j", (options, parts) => {
    const gpt = model();
    expectRefusal(() => nn.fp8(gpt, {}, options), "option.invalid", parts);
    expect(marked(gpt)).toEqual([]);
  });

  it("refuse a model without them", () => {
    expectRefusal(() => nn.fp8(new nn.GELU(), {}), "option.invalid", ["fp8: modules", "the model has none"]);
  });

  it.each([
    ["float64", "float64", "dtype.unsupported"],
    ["bfloat16", "float32", "dtype.mismatch"],
  ] as const)("refuse x of %s with a weight of %s", (dtype, to, code) => {
    const layer = nn.fp8(new nn.Linear(2, 2).to(to), {});
    expectRefusal(() => layer.forward(tensor([[1, 2]], { dtype })), code, ["linear", dtype]);
  });
});

describe.runIf(DEVICES.includes("cpu"))("a small GPT", () => {
  beforeAll(() => {
    useDevice("cpu");
  });
  const [vocabulary, context, batch, steps] = [32, 16, 8, 60] as const;

  /** Sequences that go up by 1 to 5 each time. */
  function batchOf(step: number): readonly [Tensor, Tensor] {
    const draws = uniforms(step, 2 * batch, 0, 1);
    const value = (i: number): number => {
      const row = Math.floor(i / (context + 1));
      const [first, difference] = [
        Math.floor((draws[row] ?? 0) * vocabulary),
        1 + Math.floor((draws[batch + row] ?? 0) * 5),
      ];
      return (first + difference * (i % (context + 1))) % vocabulary;
    };
    const at = (offset: number): Tensor =>
      tensor(
        Int32Array.from({ length: batch * context }, (_, i) =>
          value(Math.floor(i / context) * (context + 1) + (i % context) + offset),
        ),
        { shape: [batch, context] },
      );
    return [at(0), at(1)];
  }

  async function lossAfter(recipe: Fp8RecipeOptions | null, half: "bfloat16" | false): Promise<number> {
    const model = new nn.GPT({ vocabulary, context, layers: 2, heads: 2, width: 32, seed: 1 });
    if (recipe !== null) nn.fp8(model, recipe, { except: "head" });
    const optimizer = new optim.AdamW(model, { lr: 5e-3 });
    const step = compile((x: Tensor, y: Tensor) => {
      const loss = autocast(half, () => crossEntropy(model.forward(x), y));
      optimizer.apply(gradients(loss, model));
      return loss;
    });
    let last = 0;
    for (let i = 1; i <= steps; i++) {
      const loss = await (await step(...batchOf(i))).item();
      if (i > steps - 10) last += loss / 10;
    }
    return last;
  }

  it("trains in every recipe, to the losses that docs/mixed-precision.md states", async () => {
    const runs: Readonly<Record<string, readonly [Fp8RecipeOptions | null, "bfloat16" | false]>> = {
      "float32, no autocast": [null, false],
      bf16: [null, "bfloat16"],
      "8 bits, `current`": [{ scaling: "current" }, "bfloat16"],
      "8 bits, `delayed`": [{ scaling: "delayed" }, "bfloat16"],
      "8 bits, `block`": [{ scaling: "block" }, "bfloat16"],
    };
    const stated = tableRows(section(page("docs/mixed-precision.md"), "What a small GPT loses"));
    expect(stated.map(([name]) => name)).toEqual(Object.keys(runs));
    const losses = new Set<number>();
    for (const [name = "", loss] of stated) {
      const [recipe, half] = runs[name] as (typeof runs)[string];
      const measured = await lossAfter(recipe, half);
      losses.add(measured);
      // Sums in another order, on another instruction set, move it in the third decimal.
      expect(Math.abs(measured - Number(loss)), `${name}: ${measured}`).toBeLessThan(0.02);
    }
    expect(losses.size).toBe(stated.length);
  }, 60_000);
});
