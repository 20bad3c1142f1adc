/** Lion, Adafactor and Muon against 10 recorded steps on odd shapes; Muon's orthogonal updates; bad options. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  BinadeError,
  compile,
  gradientsFrom,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { readJson } from "../support/fixtures.ts";

type Key = "matrix" | "wide" | "vector" | "kernel";
interface Settings {
  readonly lr: number;
  readonly weight_decay?: number;
  readonly betas?: [number, number];
  readonly eps?: [number, number];
  readonly beta2_decay?: number;
  readonly d?: number;
  readonly momentum?: number;
  readonly nesterov?: boolean;
  readonly ns_steps?: number;
  readonly adjust_lr_fn?: string;
}
interface Case {
  readonly optimizer: "Lion" | "Adafactor" | "Muon";
  readonly settings: Settings;
  readonly parameters: Readonly<Record<string, Partial<Record<Key, readonly number[]>>>>;
}
const fixture = readJson<{
  shapes: Record<Key, number[]>;
  initial: Record<Key, number[]>;
  gradients: Record<"wild" | "even", Partial<Record<Key, number[][]>>>;
  cases: Record<string, Case>;
}>("matrix-optimizers.json");
const KEYS = Object.keys(fixture.shapes) as Key[];

function construct({ optimizer, settings }: Case, parameters: readonly Variable[]) {
  const { lr, weight_decay, betas = [0.9, 0.99], eps = [2 ** -23, 1e-3], beta2_decay = -0.8, d = 1 } = settings;
  if (optimizer === "Lion") return new optim.Lion(parameters, { lr, weightDecay: weight_decay ?? 0, betas });
  if (optimizer === "Adafactor") {
    const more = { weightDecay: weight_decay ?? 0, eps, beta2Decay: beta2_decay, clipThreshold: d };
    return new optim.Adafactor(parameters, { lr, ...more });
  }
  const { momentum = 0.95, nesterov = true, ns_steps: iterations = 5, adjust_lr_fn } = settings;
  const rateScale = adjust_lr_fn === "match_rms_adamw" ? "matchAdamW" : "original";
  return new optim.Muon(parameters, {
    lr,
    weightDecay: weight_decay ?? 0.1,
    momentum,
    nesterov,
    iterations,
    rateScale,
  });
}

/** What a step may be off: of an update of the size of lr, Muon's bfloat16 products are good to a few of their 2^-8. */
const toleranceOf = ({ optimizer, settings: { lr, adjust_lr_fn } }: Case): number => {
  if (optimizer !== "Muon") return 2e-6;
  return 8 * 2 ** -8 * lr * (adjust_lr_fn === undefined ? Math.sqrt(5 / 3) : 0.2 * Math.sqrt(8));
};

const SHAPE = { matrix: [5, 3], wide: [3, 8] } as const;
const wave = (length: number, shift: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => Math.sin(12.9898 * i * i + shift));

describe.each(DEVICES)("matrix optimizers on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each(Object.entries(fixture.cases))("%s as recorded", async (_, setting) => {
    const keys = KEYS.filter((key) => setting.parameters["1"]?.[key] !== undefined);
    const parameters = keys.map(
      (key) => new Variable(key, fixture.shapes[key], "float32", Float32Array.from(fixture.initial[key])),
    );
    const optimizer = construct(setting, parameters);
    const step = compile((...grads: Tensor[]) =>
      optimizer.apply(gradientsFrom(parameters.map((p, i) => [p, grads[i] as Tensor] as const))),
    );
    const source = fixture.gradients[setting.optimizer === "Muon" ? "even" : "wild"];
    for (let i = 1; i <= 10; i++) {
      await step(
        ...keys.map((key) => tensor(Float32Array.from(source[key]?.[i - 1] ?? []), { shape: fixture.shapes[key] })),
      );
      for (const [k, key] of keys.entries()) {
        const want = setting.parameters[String(i)]?.[key];
        if (want === undefined) continue;
        const got = await (parameters[k] as Variable).read().data();
        want.forEach((value, at) => {
          const tolerance = toleranceOf(setting) * i * Math.max(1, Math.abs(value));
          expect(Math.abs((got[at] ?? Number.NaN) - value), `${key}[${at}] after step ${i}`).toBeLessThan(tolerance);
        });
      }
    }
  });

  it.each(Object.entries(SHAPE))("Muon's update of a %s matrix has singular values near 1", async (_, shape) => {
    const [m, n] = shape;
    const w = new Variable("w", shape, "float32");
    const optimizer = new optim.Muon([w], { lr: 1, weightDecay: 0, rateScale: "original" });
    await compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])))(tensor(wave(m * n, 1), { shape }));
    const scale = Math.sqrt(Math.max(1, m / n));
    const update = w.read().div(scale);
    const gram = await (m > n ? update.transpose().matmul(update) : update.matmul(update.transpose())).data();
    const side = Math.min(m, n);
    // The iteration takes singular values into 0.68 … 1.13: the Gram matrix is the identity to that.
    for (let i = 0; i < side; i++) {
      expect(gram[i * side + i]).toBeGreaterThan(0.4);
      expect(gram[i * side + i]).toBeLessThan(1.35);
      for (let j = 0; j < i; j++) expect(Math.abs(gram[i * side + j] ?? 1)).toBeLessThan(0.4);
    }
  });

  it("no gradient is no step: Muon of zeros", async () => {
    const w = new Variable("w", [3, 2], "float32", wave(6, 0));
    const optimizer = new optim.Muon([w], { weightDecay: 0 });
    await compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])))(
      tensor(new Float32Array(6), { shape: [3, 2] }),
    );
    expect([...(await w.read().data())]).toEqual([...wave(6, 0)]);
  });

  it("Adafactor keeps a row and a column of a matrix, and a vector whole", () => {
    const [w, b] = [new Variable("w", [2, 5, 3], "float32"), new Variable("b", [4], "float32")];
    const state = [...new optim.Adafactor([w, b]).namedState().values()];
    expect(state.map(({ name, shape }) => `${name} ${shape.join("×")}`)).toEqual([
      "step ",
      "w.row 2×5×1",
      "w.column 2×1×3",
      "b.v 4",
    ]);
  });
});

describe("bad options", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  const w = (shape: readonly number[] = [2, 2]): readonly Variable[] => [new Variable("w", shape, "float32")];
  const bad: readonly (readonly [string, () => unknown, string])[] = [
    ["Lion: beta 1", () => new optim.Lion(w(), { betas: [0.9, 1] }), "value.range"],
    ["Lion: a misspelt key", () => new optim.Lion(w(), { ...({ eps: 1 } as object) }), "option.unknown"],
    ["Adafactor: a rising share", () => new optim.Adafactor(w(), { beta2Decay: 0.1 }), "value.range"],
    ["Adafactor: an eps whose square underflows", () => new optim.Adafactor(w(), { eps: [1e-20, 0] }), "value.range"],
    ["Adafactor: a negative eps", () => new optim.Adafactor(w(), { eps: [1e-7, -1] }), "value.range"],
    ["Adafactor: a threshold below 1", () => new optim.Adafactor(w(), { clipThreshold: 0.5 }), "value.range"],
    ["Muon: a vector", () => new optim.Muon(w([4])), "shape.invalid"],
    ["Muon: a kernel", () => new optim.Muon(w([4, 3, 3, 3])), "shape.invalid"],
    ["Muon: no iterations", () => new optim.Muon(w(), { iterations: 0 }), "value.range"],
    ["Muon: eps 0", () => new optim.Muon(w(), { eps: 0 }), "value.range"],
    ["Muon: momentum 1", () => new optim.Muon(w(), { momentum: 1 }), "value.range"],
    ["Muon: an unknown scale", () => new optim.Muon(w(), { rateScale: "none" as "original" }), "option.invalid"],
  ];
  it.each(bad)("%s is refused", (_, make, code) => {
    expect(make).toThrow(BinadeError);
    expect(make).toThrow(expect.objectContaining({ code }));
  });

  it("an eps that underflows comes with a value that does not; Muon names the parameter and another optimizer", () => {
    expect(() => new optim.Adafactor(w(), { eps: [1e-20, 0] })).toThrow(/try 1e-7/);
    expect(() => new optim.Muon(w(), { eps: 1e-50 })).toThrow(/try 1e-7/);
    expect(() => new optim.Muon(w([4]))).toThrow(/parameter w has shape \[4\].*AdamW/);
  });
});
