/** Layers against plain arithmetic, the GPT's shapes and causality, dropout's masks, and bad options. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  gradients,
  nn,
  RandomStream,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const wave = (...shape: readonly number[]): Tensor =>
  tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(7 * i + 1)),
    { shape },
  );
const numbers = async (x: Tensor): Promise<readonly number[]> => [...(await x.data())];

describe.each(DEVICES)("layers on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("Linear is x wᵀ + b", async () => {
    const layer = new nn.Linear(3, 2, { seed: 1 });
    const [x, w, b] = [
      await numbers(wave(4, 3)),
      await numbers(layer.weight.read()),
      await numbers(layer.bias?.read() ?? wave(2)),
    ];
    const at = (list: readonly number[], i: number): number => list[i] ?? Number.NaN;
    const want = [0, 1, 2, 3].flatMap((r) =>
      [0, 1].map((c) => at(b, c) + [0, 1, 2].reduce((s, k) => s + at(x, 3 * r + k) * at(w, 3 * c + k), 0)),
    );
    const got = await numbers(layer.forward(wave(4, 3)));
    got.forEach((value, i) => {
      expect(value).toBeCloseTo(at(want, i), 5);
    });
    expect(new nn.Linear(3, 2, { bias: false }).parameters()).toHaveLength(1);
  });

  it("Embedding takes rows by uint8, int32 and uint32", async () => {
    const layer = new nn.Embedding(4, 2, { seed: 1 });
    const table = await numbers(layer.weight.read());
    const want = [2, 0].flatMap((row) => table.slice(2 * row, 2 * row + 2));
    for (const make of [Uint8Array, Int32Array, Uint32Array]) {
      expect(await numbers(layer.forward(tensor(make.of(2, 0))))).toEqual(want);
    }
  });

  it("norms have mean 0 and variance 1, or mean square 1", async () => {
    const y = await numbers(new nn.LayerNorm(64).forward(wave(1, 64)));
    expect(y.reduce((a, b) => a + b, 0) / 64).toBeCloseTo(0, 5);
    expect(y.reduce((a, b) => a + b * b, 0) / 64).toBeCloseTo(1, 3);
    const z = await numbers(new nn.RMSNorm(64).forward(wave(1, 64).add(5)));
    expect(z.reduce((a, b) => a + b * b, 0) / 64).toBeCloseTo(1, 3);
  });

  it("activations are the tensors' own", async () => {
    const x = wave(9);
    const pairs = [
      [new nn.ReLU(), x.relu()],
      [new nn.GELU(), x.gelu()],
      [new nn.SiLU(), x.silu()],
      [new nn.Tanh(), x.tanh()],
      [new nn.Sigmoid(), x.sigmoid()],
    ] as const;
    for (const [layer, want] of pairs)
      expect(await numbers(new nn.Sequential(layer).forward(x))).toEqual(await numbers(want));
  });

  describe("dropout", () => {
    const make = (probability: number, seed: number) => {
      const layer = new nn.Dropout(probability, { random: new RandomStream(seed) });
      const step = compile((x: Tensor) => {
        const [a, b] = [layer.forward(x), layer.forward(x)];
        return { a, b };
      });
      const masks = async (): Promise<readonly [string, string]> => {
        const { a, b } = await step(tensor(new Float32Array(256).fill(1)));
        const show = async (t: Tensor): Promise<string> => (await numbers(t)).map((v) => (v === 0 ? 0 : 1)).join("");
        return [await show(a), await show(b)];
      };
      return { layer, masks };
    };

    it("differs between uses, between steps and between seeds, and repeats by seed", async () => {
      const [one, same, other] = [make(0.5, 1), make(0.5, 1), make(0.5, 2)];
      const seen = [...(await one.masks()), ...(await one.masks())];
      expect(new Set(seen).size).toBe(4);
      expect([...(await same.masks()), ...(await same.masks())]).toEqual(seen);
      expect(seen).not.toContain((await other.masks())[0]);
    });

    it("goes on where a saved state stood", async () => {
      const [one, two] = [make(0.5, 1), make(0.5, 3)];
      await one.masks();
      await two.layer.random.state.load(await one.layer.random.state.bytes());
      expect(await two.masks()).toEqual(await one.masks());
      expect([...(await one.layer.random.state.read().data())]).toEqual([1, 0, 2, 0]);
    });

    it("keeps the mean, drops its share, and is the identity in evaluation", async () => {
      const layer = new nn.Dropout(0.25, { random: new RandomStream(7) });
      const x = tensor(new Float32Array(4000).fill(3));
      const y = await numbers(layer.forward(x));
      expect(new Set(y)).toEqual(new Set([0, 4]));
      expect(y.filter((v) => v === 0).length / y.length).toBeCloseTo(0.25, 1);
      layer.evaluate();
      expect(layer.forward(x)).toBe(x);
      expect(new nn.Dropout(0).forward(x)).toBe(x);
    });

    it("has one mask for forward and backward", async () => {
      const layer = new nn.Linear(16, 64, { seed: 1, bias: false });
      const drop = new nn.Dropout(0.5, { random: new RandomStream(3) });
      const step = compile((x: Tensor) => {
        const y = drop.forward(layer.forward(x));
        return { y, gradients: [...gradients(y.sum(), layer).values()] };
      });
      const result = await step(wave(1, 16));
      const [y, g] = [await numbers(result.y), await numbers(result.gradients[0] as Tensor)];
      // Row i of the weight's gradient is 0 exactly where output i was dropped.
      expect(y.map((v) => v === 0)).toEqual(y.map((_, i) => g[16 * i] === 0));
      expect(y.some((v) => v === 0) && y.some((v) => v !== 0)).toBe(true);
    });

    it("keeps the dtype under autocast", () => {
      const half = wave(8).cast("bfloat16");
      expect(autocast("bfloat16", () => new nn.Dropout(0.5).forward(half)).dtype).toBe("bfloat16");
    });
  });

  describe("GPT", () => {
    const options = { vocabulary: 11, context: 6, layers: 1, heads: 2, width: 8 };
    const tokens = (...list: readonly number[]): Tensor => tensor(Int32Array.from(list), { shape: [1, list.length] });

    it("gives logits in the compute dtype", () => {
      const model = new nn.GPT(options);
      expect(model.forward(tokens(1, 2, 3)).shape).toEqual([1, 3, 11]);
      expect(autocast("bfloat16", () => model.forward(tokens(1, 2, 3))).dtype).toBe("bfloat16");
    });

    it("is causal: a later token changes no earlier logit", async () => {
      const model = new nn.GPT(options);
      const [a, b] = [
        await numbers(model.forward(tokens(1, 2, 3, 4))),
        await numbers(model.forward(tokens(1, 2, 3, 9))),
      ];
      expect(a.slice(0, 33)).toEqual(b.slice(0, 33));
      expect(a.slice(33)).not.toEqual(b.slice(33));
    });

    it("takes bytes and starts at the loss of guessing", async () => {
      const model = new nn.GPT(options);
      const loss = crossEntropy(model.forward(tensor(Uint8Array.of(1, 2, 3), { shape: [1, 3] })), tokens(2, 3, 4));
      expect(await loss.item()).toBeCloseTo(Math.log(11), 1);
    });

    it("starts equal by seed, with smaller ends of residual branches", async () => {
      const spread = async (model: nn.GPT, name: string): Promise<number> => {
        const values = await numbers(model.namedParameters().get(name)?.read() ?? wave(1));
        return Math.sqrt(values.reduce((a, b) => a + b * b, 0) / values.length);
      };
      const wide = new nn.GPT({ ...options, layers: 8, width: 32 });
      expect(await spread(wide, "blocks.0.attention.qkv.weight")).toBeCloseTo(0.02, 2);
      for (const end of ["attention.projection.weight", "feedForward.contract.weight"]) {
        expect(await spread(wide, `blocks.3.${end}`)).toBeCloseTo(0.02 / 4, 3);
      }
      expect(await spread(wide, "blocks.0.attention.qkv.bias")).toBe(0);
      const bytes = async (seed: number) =>
        Promise.all(new nn.GPT({ ...options, seed }).parameters().map((p) => p.bytes()));
      expect(await bytes(3)).toEqual(await bytes(3));
      expect(await bytes(3)).not.toEqual(await bytes(4));
    });

    it("trains with dropout, and evaluates without", async () => {
      const model = new nn.GPT({ ...options, dropout: 0.3 });
      const logits = compile((t: Tensor) => model.forward(t));
      const input = tokens(1, 2, 3);
      const twice = async (): Promise<readonly (readonly number[])[]> => [
        await numbers(await logits(input)),
        await numbers(await logits(input)),
      ];
      const [a, b] = await twice();
      expect(a).not.toEqual(b);
      model.evaluate();
      const [c, d] = await twice();
      expect(c).toEqual(d);
    });

    const bad: readonly (readonly [string, string, () => unknown])[] = [
      ["heads that do not divide width", "option.invalid", () => new nn.GPT({ ...options, heads: 3 })],
      ["no layers", "value.range", () => new nn.GPT({ ...options, layers: 0 })],
      ["half a head", "value.range", () => new nn.GPT({ ...options, heads: 0.5 })],
      ["dropout 1", "value.range", () => new nn.GPT({ ...options, dropout: 1 })],
      ["a negative seed", "value.range", () => new nn.GPT({ ...options, seed: -1 })],
      ["a misspelt option", "option.unknown", () => new nn.GPT({ ...options, ...({ head: 2 } as object) })],
      ["too long a sequence", "shape.mismatch", () => new nn.GPT(options).forward(tokens(1, 2, 3, 4, 5, 6, 7))],
      ["tokens without a batch", "shape.mismatch", () => new nn.GPT(options).forward(tensor(Int32Array.of(1)))],
      ["floating tokens", "dtype.unsupported", () => new nn.GPT(options).forward(wave(1, 3))],
      ["a layer of width 0", "value.range", () => new nn.Linear(0, 2)],
      ["an unknown option of a layer", "option.unknown", () => new nn.Linear(1, 2, { biased: true } as object)],
      ["a probability of 1", "value.range", () => new nn.Dropout(1)],
      ["a layer that is none", "option.invalid", () => new nn.Sequential(Object({}) as nn.Layer)],
    ];
    it.each(bad)("refuses %s (%s)", (_, code, make) => {
      expect(make).toThrow(expect.objectContaining({ name: "BinadeError", code }));
    });
  });
});

describe.each(DEVICES)("RandomStream on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("advances once per draw outside of compiled functions", async () => {
    const random = new RandomStream(2 ** 40 + 3);
    const [a, b] = [random.draw([4]), random.draw([4])];
    const both = await numbers(a.reshape([1, 4]).add(0)).catch(() => []);
    expect(both).toHaveLength(4);
    expect(b.shape).toEqual([4]);
    expect([...(await random.state.read().data())]).toEqual([3, 256, 2, 0]);
  });

  it("advances once per step, however often it is drawn from", async () => {
    const random = new RandomStream(1);
    const step = compile(() => [random.draw([3]), random.draw([3]), random.draw([3])]);
    for (let i = 1; i <= 3; i++) {
      const draws = await step();
      expect(new Set((await Promise.all(draws.map(numbers))).map((d) => d.join())).size).toBe(3);
      expect([...(await random.state.read().data())]).toEqual([1, 0, i, 0]);
    }
  });

  it("is uniform on a grid of 2^-24", async () => {
    const u = await numbers(new RandomStream(5).draw([10_000]));
    expect(u.every((v) => v >= 0 && v < 1 && Number.isInteger(v * 2 ** 24))).toBe(true);
    expect(u.reduce((a, b) => a + b, 0) / u.length).toBeCloseTo(0.5, 1);
  });
});
