/** Modules: names, modes, counts; initial values: the same everywhere, of the stated distribution. */
import { createHash } from "node:crypto";
import { beforeEach, describe, expect, it } from "vitest";
import { philoxSource } from "../../src/formats/index.ts";
import { compile, nn, RandomStream, type Tensor, tensor, useDevice, Variable } from "../../src/index.ts";

beforeEach(() => {
  useDevice("reference");
});

class Inner extends nn.Module {
  readonly gain = new Variable("gain", [3], "float32");
  readonly average = this.buffer(new Variable("average", [3], "float32"));
}

class Outer extends nn.Module {
  readonly note = "not a parameter";
  readonly first = new Inner();
  readonly list = [new Inner(), [new nn.Linear(2, 4)]] as const;
  readonly again = this.first;
  readonly random = new RandomStream(5);
  readonly drop = new nn.Dropout(0.5, { random: this.random });
  readonly loop: nn.Module = this;
}

describe("names", () => {
  it("are the paths of fields, each variable once", () => {
    const model = new Outer();
    expect([...model.namedParameters().keys()]).toEqual([
      "first.gain",
      "list.0.gain",
      "list.1.0.weight",
      "list.1.0.bias",
    ]);
    expect([...model.namedBuffers().keys()]).toEqual(["first.average", "list.0.average", "random"]);
    expect(model.parameters().map(({ name }) => name)).toEqual([...model.namedParameters().keys()]);
    expect(model.parameterCount).toBe(3 + 3 + 8 + 4);
  });

  it("given by the whole are not shortened by asking a part", () => {
    const model = new Outer();
    model.parameters();
    expect([...model.first.namedParameters().keys()]).toEqual(["gain"]);
    expect(model.first.gain.name).toBe("first.gain");
  });

  it("of a sequence go through its layers", () => {
    const model = new nn.Sequential(new nn.Linear(2, 3), new nn.ReLU(), new nn.LayerNorm(3));
    expect([...model.namedParameters().keys()]).toEqual([
      "layers.0.weight",
      "layers.0.bias",
      "layers.2.weight",
      "layers.2.bias",
    ]);
  });

  it("of a GPT are fixed", () => {
    const block = (i: number) =>
      [
        "norm1.weight",
        "norm1.bias",
        "attention.qkv.weight",
        "attention.qkv.bias",
        "attention.projection.weight",
        "attention.projection.bias",
        "norm2.weight",
        "norm2.bias",
        "feedForward.expand.weight",
        "feedForward.expand.bias",
        "feedForward.contract.weight",
        "feedForward.contract.bias",
      ].map((name) => `blocks.${i}.${name}`);
    const model = new nn.GPT({ vocabulary: 5, context: 4, layers: 2, heads: 2, width: 4 });
    expect(model.parameters().map(({ name }) => name)).toEqual([
      "tokenEmbedding.weight",
      "positionEmbedding.weight",
      ...block(0),
      ...block(1),
      "finalNorm.weight",
      "finalNorm.bias",
      "head.weight",
    ]);
    expect([...model.namedBuffers().keys()]).toEqual(["random"]);
  });
});

describe("modes", () => {
  it("reach every module inside, and record compiled functions anew", async () => {
    const model = new Outer();
    const step = compile((x: Tensor) => model.drop.forward(x));
    const x = tensor(new Float32Array(64).fill(1));
    const zerosIn = async (): Promise<number> => (await (await step(x)).data()).filter((v: number) => v === 0).length;
    expect(model.training).toBe(true);
    expect(await zerosIn()).toBeGreaterThan(0);
    expect(model.evaluate().drop.training).toBe(false);
    expect(await zerosIn()).toBe(0);
    expect(model.train().first.training).toBe(true);
    expect(await zerosIn()).toBeGreaterThan(0);
    expect(step.traces).toBe(2);
  });
});

const digest = (values: Float32Array): string =>
  createHash("sha256").update(new Uint8Array(values.buffer)).digest("hex").slice(0, 16);

describe("initial values", () => {
  const SHAPE = [200, 100];
  const values = (init: nn.Initializer): Float32Array => init(SHAPE, new nn.SeedSequence(1).next());
  const mean = (x: Float32Array): number => x.reduce((a, b) => a + b, 0) / x.length;
  const deviation = (x: Float32Array): number => Math.sqrt(mean(x.map((v) => v * v)) - mean(x) ** 2);

  it("are these bits on every machine", () => {
    expect(digest(values(nn.normal({ deviation: 0.02 })))).toBe("ba4c08a3f4327e04");
    expect(digest(values(nn.uniform()))).toBe("a265eb9d34029cf3");
    expect(digest(values(nn.kaimingUniform()))).toBe("4d068326487c885a");
  });

  it("have their distribution", () => {
    const bell = values(nn.normal({ mean: 3, deviation: 2 }));
    expect(mean(bell)).toBeCloseTo(3, 1);
    expect(deviation(bell)).toBeCloseTo(2, 1);
    const within = bell.filter((v) => Math.abs(v - 3) < 2).length / bell.length;
    expect(within).toBeCloseTo(0.6827, 1);
    for (const [init, bound] of [
      [nn.uniform({ low: -0.5, high: 0.5 }), 0.5],
      [nn.kaimingUniform(), 1 / Math.sqrt(100)],
      [nn.kaimingUniform({ gain: Math.SQRT2 }), Math.sqrt(6 / 100)],
      [nn.xavierUniform(), Math.sqrt(6 / 300)],
    ] as const) {
      const flat = values(init);
      expect(flat.every((v) => Math.abs(v) <= Math.fround(bound))).toBe(true);
      expect(deviation(flat)).toBeCloseTo(bound / Math.sqrt(3), 2);
      expect(Math.max(...flat)).toBeGreaterThan(0.99 * bound);
    }
    expect(values(nn.zeros).every((v) => v === 0) && values(nn.ones).every((v) => v === 1)).toBe(true);
  });

  it("fill odd counts and refuse vectors where a fan-in is needed", () => {
    expect(
      nn
        .normal()([3], philoxSource(1))
        .every((v) => v !== 0),
    ).toBe(true);
    expect(() => nn.kaimingUniform()([3], philoxSource(1))).toThrow(expect.objectContaining({ code: "shape.invalid" }));
    expect(() => nn.uniform({ low: 1, high: 0 })).toThrow(expect.objectContaining({ code: "value.range" }));
    expect(() => nn.normal({ deviation: -1 })).toThrow(expect.objectContaining({ code: "value.range" }));
  });

  it("are functions of seed and place in the sequence", async () => {
    const weights = async (seed: nn.Seed): Promise<readonly number[]> => [
      ...(await new nn.Linear(3, 2, { seed }).weight.read().data()),
    ];
    const [first, second] = [new nn.SeedSequence(4), new nn.SeedSequence(4)];
    expect(await weights(first)).toEqual(await weights(second));
    expect(await weights(first)).not.toEqual(await weights(4));
    expect(await weights(4)).toEqual(await weights(4));
    expect(await weights(4)).not.toEqual(await weights(5));
    nn.manualSeed(9);
    const again = [...(await new nn.Linear(3, 2).weight.read().data())];
    expect(again).toEqual(await weights(9));
    expect(again).not.toEqual([...(await new nn.Linear(3, 2).weight.read().data())]);
  });
});

it("a compiled forward computes with the parameters that to() made", async () => {
  const model = new nn.Sequential(new nn.Linear(2, 1, { bias: false, initialWeight: () => Float32Array.of(1.001, 0) }));
  const forward = compile((x: Tensor) => model.forward(x.cast(model.parameters()[0]?.dtype ?? "float32")));
  const x = tensor([[1, 0]]);
  expect((await forward(x)).dtype).toBe("float32");
  (model.namedModules().get("layers.0") as nn.Linear).to("bfloat16");
  const narrow = await forward(x);
  expect([narrow.dtype, await narrow.item(), forward.traces]).toEqual(["bfloat16", 1, 2]);
});
