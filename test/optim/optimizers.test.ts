/** SGD, Adam and AdamW against 30 steps of PyTorch in float64; groups, learning rates, masters, state, and bad options. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  BinadeError,
  compile,
  GradScaler,
  gradientsFrom,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { readJson } from "../support/fixtures.ts";

type Values = { readonly a: readonly number[]; readonly b: readonly number[] };
interface Case {
  readonly optimizer: "SGD" | "Adam" | "AdamW";
  readonly settings: {
    learningRate: number;
    weightDecay?: number;
    momentum?: number;
    dampening?: number;
    nesterov?: boolean;
    betas?: [number, number];
    epsilon?: number;
  };
  readonly parameters: Readonly<Record<string, Values>>;
}
const fixture = readJson<{
  initial: Values;
  gradients: { a: number[][]; b: number[][] };
  cases: Record<string, Case>;
}>("optimizers.json");

/** Dampening is not offered. */
const CASES = Object.entries(fixture.cases).filter(([, { settings }]) => settings.dampening === undefined);
const KEYS = ["a", "b"] as const;
const SHAPES = { a: [2, 3], b: [4] };

function construct({ optimizer, settings }: Case, parameters: readonly Variable[]) {
  const { learningRate: lr, weightDecay = 0, momentum = 0, nesterov = false } = settings;
  if (optimizer === "SGD") return new optim.SGD(parameters, { lr, weightDecay, momentum, nesterov });
  const { betas = [0.9, 0.999], epsilon: eps = 1e-8 } = settings;
  return new optim[optimizer](parameters, { lr, weightDecay, betas, eps });
}

const variable = (name: string, values: readonly number[], shape: readonly number[] = [values.length]): Variable =>
  new Variable(name, shape, "float32", new Float32Array(values));

describe.each(DEVICES)("optimizers on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(CASES)("%s as PyTorch", async (_, setting) => {
    const [a, b] = KEYS.map((key) => variable(key, fixture.initial[key], SHAPES[key])) as [Variable, Variable];
    const optimizer = construct(setting, [a, b]);
    const step = compile((ga: Tensor, gb: Tensor) =>
      optimizer.apply(
        gradientsFrom([
          [a, ga],
          [b, gb],
        ]),
      ),
    );
    const gradient = (key: "a" | "b", i: number): Tensor =>
      tensor(Float32Array.from(fixture.gradients[key][i] ?? []), { shape: SHAPES[key] });
    for (let i = 1; i <= 30; i++) {
      await step(gradient("a", i - 1), gradient("b", i - 1));
      const want = setting.parameters[String(i)];
      if (want === undefined) continue;
      for (const [key, parameter] of [
        ["a", a],
        ["b", b],
      ] as const) {
        const got = await parameter.read().data();
        // float32 against float64: 30 roundings of the weight, and those of the update itself.
        for (const [k, value] of want[key].entries()) {
          const tolerance = 4e-7 * i * Math.max(1, Math.abs(value));
          expect(Math.abs((got[k] ?? Number.NaN) - value), `${key}[${k}] after step ${i}`).toBeLessThan(tolerance);
        }
      }
    }
    expect(await optimizer.steps.read().item()).toBe(30);
  });

  it("reads the learning rate anew at every step, without another recording", async () => {
    const w = variable("w", [1]);
    const optimizer = new optim.SGD([w], { lr: 0.5 });
    const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
    await step(tensor([1]));
    expect(await w.read().item()).toBe(0.5);
    optimizer.lr = 0.25;
    expect(optimizer.lr).toBe(0.25);
    await step(tensor([1]));
    expect(await w.read().item()).toBe(0.25);
    expect(step.traces).toBe(1);
  });

  it("gives groups their own options", async () => {
    const [a, b] = [variable("a", [1]), variable("b", [1])];
    const optimizer = new optim.SGD(
      [
        { parameters: [a], lr: 0.5 },
        { parameters: [b], weightDecay: 1 },
      ],
      { lr: 0.25 },
    );
    optimizer.apply(
      gradientsFrom([
        [a, tensor([1])],
        [b, tensor([1])],
      ]),
    );
    expect([await a.read().item(), await b.read().item()]).toEqual([0.5, 0.5]);
    expect(optimizer.rates.map(({ value }) => value)).toEqual([0.5, 0.25]);
  });

  it("leaves parameters without a gradient as they are, and ignores gradients of others", async () => {
    const [a, b, other] = [variable("a", [1]), variable("b", [1]), variable("other", [1])];
    const optimizer = new optim.AdamW([a, b], { lr: 0.1 });
    optimizer.apply(
      gradientsFrom([
        [a, tensor([1])],
        [other, tensor([1])],
      ]),
    );
    expect(await a.read().item()).not.toBe(1);
    expect([await b.read().item(), await other.read().item()]).toEqual([1, 1]);
  });

  it("names its state after the parameters", () => {
    const model = new nn.Linear(2, 3);
    expect([...new optim.AdamW(model).namedState().keys()]).toEqual([
      "step",
      "weight.m",
      "weight.v",
      "bias.m",
      "bias.v",
    ]);
    expect([...new optim.SGD(model, { momentum: 0.9 }).namedState().keys()]).toEqual([
      "step",
      "weight.momentum",
      "bias.momentum",
    ]);
    expect([...new optim.SGD(model).namedState().keys()]).toEqual(["step"]);
  });

  it("follows a schedule by applied steps", async () => {
    const w = variable("w", [0]);
    const schedule = optim.warmupCosine({ warmup: 2, total: 4, peak: 1, floor: 0.5 });
    const optimizer = new optim.SGD([w], { lr: schedule });
    const step = compile((g: Tensor) => {
      const rate = optimizer.learningRate();
      optimizer.apply(gradientsFrom([[w, g]]));
      return rate;
    });
    const rates: number[] = [];
    for (let i = 0; i < 6; i++) rates.push(await (await step(tensor([1]))).item());
    expect(rates).toEqual([0.5, 1, 1, 0.75, 0.5, 0.5]);
    expect(await w.read().item()).toBe(-4.25);
    expect(() => optimizer.lr).toThrow(expect.objectContaining({ code: "option.invalid" }));
  });

  it("loses updates below half an ulp in bfloat16, and keeps them with a float32 master", async () => {
    const results: number[] = [];
    for (const masterWeights of ["none", "float32"] as const) {
      const w = new Variable("w", [1], "bfloat16", new Uint16Array([0x3f80]));
      const optimizer = new optim.SGD([w], { lr: 1, masterWeights });
      const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
      for (let i = 0; i < 100; i++) await step(tensor([-0.001]));
      results.push(await w.read().item());
      expect([...optimizer.namedState().keys()]).toEqual(masterWeights === "float32" ? ["step", "w.master"] : ["step"]);
    }
    expect(results[0]).toBe(1);
    expect(results[1]).toBeCloseTo(1.1, 2);
  });
});

describe("bad options", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  const w = (): readonly Variable[] => [variable("w", [1])];
  const misspelt: object = { weightdecay: 0.1 };
  const setFirstRate = ({ rates }: optim.SGD, value: number): void => {
    for (const rate of rates) rate.value = value;
  };
  const bad: readonly (readonly [string, () => unknown, string])[] = [
    ["a negative rate", () => new optim.SGD(w(), { lr: -1 }), "value.range"],
    ["a NaN rate", () => new optim.AdamW(w(), { lr: Number.NaN }), "value.range"],
    ["a rate that is text", () => new optim.AdamW(w(), { lr: "0.1" as unknown as number }), "value.range"],
    [
      "nesterov that is text",
      () => new optim.SGD(w(), { momentum: 0.9, nesterov: "false" as unknown as boolean }),
      "option.invalid",
    ],
    ["logMax false", () => new GradScaler({ logMax: false as unknown as object }), "option.invalid"],
    ["logMax null", () => new GradScaler({ logMax: null as unknown as object }), "option.invalid"],
    ["a negative rate later", () => (new optim.SGD(w()).lr = -1), "value.range"],
    ["a NaN rate of a group later", () => setFirstRate(new optim.SGD(w()), Number.NaN), "value.range"],
    ["a rate beyond float32", () => new optim.SGD(w(), { lr: 1e39 }), "value.range"],
    ["a decay beyond float32", () => new optim.SGD(w(), { weightDecay: 1e39 }), "value.range"],
    ["a constant schedule beyond float32", () => optim.constant(1e39), "value.range"],
    ["a negative decay", () => new optim.Adam(w(), { weightDecay: -0.1 }), "value.range"],
    ["momentum 1", () => new optim.SGD(w(), { momentum: 1 }), "value.range"],
    ["nesterov without momentum", () => new optim.SGD(w(), { nesterov: true }), "option.invalid"],
    ["beta 1", () => new optim.Adam(w(), { betas: [0.9, 1] }), "value.range"],
    ["beta below 0", () => new optim.Adam(w(), { betas: [-0.1, 0.9] }), "value.range"],
    ["eps 0", () => new optim.Adam(w(), { eps: 0 }), "value.range"],
    ["eps that underflows float32", () => new optim.AdamW(w(), { eps: 1e-50 }), "value.range"],
    ["a misspelt key", () => new optim.AdamW(w(), misspelt), "option.unknown"],
    ["a misspelt key in a group", () => new optim.AdamW([{ parameters: w(), ...misspelt }]), "option.unknown"],
    ["case 19: no parameters", () => new optim.AdamW([]), "option.invalid"],
    [
      "a parameter twice",
      () => {
        const [p] = w() as [Variable];
        return new optim.SGD([p, p]);
      },
      "option.invalid",
    ],
    ["two parameters of one name", () => new optim.SGD([...w(), ...w()]), "option.invalid"],
    ["integers", () => new optim.SGD([new Variable("i", [1], "int32")]), "dtype.unsupported"],
    [
      "foreign gradients only",
      () => new optim.SGD(w()).apply(gradientsFrom([[variable("o", [1]), tensor([1])]])),
      "gradient.missing",
    ],
    ["a gradient of another shape", () => gradientsFrom([[variable("o", [1]), tensor([1, 2])]]), "shape.mismatch"],
  ];
  it.each(bad)("%s is refused", (_, make, code) => {
    expect(make).toThrow(BinadeError);
    expect(make).toThrow(expect.objectContaining({ code }));
  });

  it("an eps that underflows comes with a value that does not", () => {
    expect(() => new optim.AdamW(w(), { eps: 1e-50 })).toThrow(/try 1e-8/);
  });
});
