/** What optimizers and scalers are handed: of the wrong type, it is an error that says so, never a TypeError from within. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  BinadeError,
  clipByGlobalNorm,
  GradScaler,
  globalNorm,
  gradients,
  nn,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";

/** Nothing that any of these takes; what it is called in the message. */
const WRONG: readonly (readonly [unknown, string])[] = [
  [null, "null"],
  [1, "1"],
  ["adam", '"adam"'],
  [true, "true"],
  [{}, "{}"],
  [[1], "1"],
  [Symbol("s"), "Symbol(s)"],
  [() => 1, "a function"],
  [Promise.resolve(1), "a promise"],
  [new Map([[1, 2]]), "an object of class Map"],
];

const w = (): Variable => new Variable("w", [2], "float32", Float32Array.of(1, 1));
const anything = (value: unknown): never => value as never;
const OPTIMIZERS = ["SGD", "Adam", "AdamW", "Lion", "Adafactor", "Muon"] as const;
const make = (name: (typeof OPTIMIZERS)[number], source: unknown, options?: unknown): unknown =>
  new optim[name](anything(source), anything(options));

/** Every place that takes an object, with everything else right. `accepts`: values of the list that are right there. */
type Place = readonly [string, (wrong: unknown) => unknown, accepts?: readonly unknown[]];
const PLACES: readonly Place[] = [
  ...OPTIMIZERS.flatMap((name): Place[] => [
    [`${name}: parameters`, (wrong) => make(name, wrong)],
    [`${name}: a parameter`, (wrong) => make(name, [w(), wrong])],
    [`${name}: a group`, (wrong) => make(name, [wrong])],
    [`${name}: parameters of a group`, (wrong) => make(name, [{ parameters: wrong }])],
  ]),
  ...OPTIMIZERS.map(
    (name): Place => [
      `${name}: options`,
      (wrong) => make(name, name === "Muon" ? [new Variable("m", [2, 2], "float32")] : [w()], wrong),
      [{}],
    ],
  ),
  ["GradScaler: options", (wrong) => new GradScaler(anything(wrong)), [{}]],
  ["GradScaler: device", (wrong) => new GradScaler({ device: anything(wrong) })],
  ["GradScaler: name", (wrong) => new GradScaler({ name: anything(wrong) }), ["adam"]],
  ["GradScaler: logMax", (wrong) => new GradScaler({ logMax: anything(wrong) }), [{}]],
  ["GradScaler: preset", (wrong) => new GradScaler({ preset: anything(wrong) })],
  ["scale", (wrong) => new GradScaler().scale(anything(wrong))],
  ["rescale: x", (wrong) => new GradScaler().rescale(anything(wrong), new GradScaler())],
  ["rescale: from", (wrong) => new GradScaler().rescale(w().read(), anything(wrong))],
  ["unscale", (wrong) => new GradScaler().unscale(anything(wrong))],
  [
    "unscale: optimizer",
    (wrong) => {
      const [v, scaler] = [w(), new GradScaler()];
      scaler.unscale(gradients(scaler.scale(v.read().sum()), [v]), anything(wrong));
    },
  ],
  ["scaledGradients", (wrong) => new GradScaler().scaledGradients(anything(wrong))],
  ["scaledGradients: parameters", (wrong) => new GradScaler().scaledGradients([], anything(wrong))],
  ["scaledGradients: losses", (wrong) => new GradScaler().scaledGradients([], undefined, anything(wrong))],
  ["step: gradients", (wrong) => new GradScaler().step(new optim.SGD([w()]), anything(wrong))],
  [
    "step: optimizer",
    (wrong) => {
      const [v, scaler] = [w(), new GradScaler()];
      scaler.step(anything(wrong), gradients(scaler.scale(v.read().sum()), [v]));
    },
  ],
  [
    "step: options",
    (wrong) => {
      const [v, scaler] = [w(), new GradScaler()];
      scaler.step(new optim.SGD([v]), gradients(scaler.scale(v.read().sum()), [v]), anything(wrong));
    },
    [{}],
  ],
  ["load", (wrong) => new GradScaler().load(anything(wrong))],
  ["apply", (wrong) => new optim.SGD([w()]).apply(anything(wrong))],
  ["clipByGlobalNorm", (wrong) => clipByGlobalNorm(anything(wrong), 1)],
  ["globalNorm", (wrong) => globalNorm(anything(wrong))],
  ["gradients: parameters", (wrong) => gradients(w().read().sum(), anything(wrong))],
  ["gradients: loss", (wrong) => gradients(anything(wrong), [w()])],
  ["GradientAccumulator: parameters", (wrong) => new optim.GradientAccumulator(anything(wrong))],
  ["GradientAccumulator: options", (wrong) => new optim.GradientAccumulator([w()], anything(wrong)), [{}]],
  ["GradientAccumulator: scaler", (wrong) => new optim.GradientAccumulator([w()], anything({ scaler: wrong }))],
  ["GradientAccumulator: add", (wrong) => new optim.GradientAccumulator([w()]).add(anything(wrong))],
  ["WeightAverage: parameters", (wrong) => new optim.WeightAverage(anything(wrong))],
  ["WeightAverage: options", (wrong) => new optim.WeightAverage([w()], anything(wrong)), [{}]],
  ["WeightAverage: update", (wrong) => new optim.WeightAverage([w()]).update(anything(wrong))],
  ["WeightAverage: of", (wrong) => new optim.WeightAverage([w()]).of(anything(wrong))],
  ["StallDetector: options", (wrong) => new optim.StallDetector(anything(wrong)), [{}]],
  ["StallDetector: observe", (wrong) => new optim.StallDetector().observe(anything(wrong))],
  ["readOutcome", (wrong) => readOutcome(anything(wrong))],
  ["meterValues", (wrong) => optim.meterValues(anything(wrong))],
  ["meterUpdates: optimizer", (wrong) => optim.meterUpdates(anything(wrong), anything(new Map()), "bfloat16")],
  ["meterUpdates: gradients", (wrong) => optim.meterUpdates(new optim.SGD([w()]), anything(wrong), "bfloat16")],
  ["readMeters", (wrong) => optim.readMeters(anything(wrong))],
  ["readUpdateMeters", (wrong) => optim.readUpdateMeters(anything(wrong))],
  ["probeLossScale: step", (wrong) => optim.probeLossScale(anything(wrong), [[tensor([1])]])],
  [
    "probeLossScale: batches",
    (wrong) =>
      optim.probeLossScale(
        anything(() => 1),
        anything(wrong),
      ),
  ],
  ["warmupCosine", (wrong) => optim.warmupCosine(anything(wrong))],
  ["constant", (wrong) => optim.constant(anything(wrong)), [1]],
];

/** Numbers given as texts and the like, which arithmetic would take in silence. */
const NUMBERS: readonly (readonly [string, (wrong: unknown) => unknown])[] = [
  ["SGD: lr", (wrong) => new optim.SGD([w()], { lr: anything(wrong) })],
  ["SGD: seed", (wrong) => new optim.SGD([w()], { seed: anything(wrong) })],
  ["SGD: momentum", (wrong) => new optim.SGD([w()], { momentum: anything(wrong) })],
  ["SGD: rate", (wrong) => Object.assign(new optim.SGD([w()]), { lr: wrong })],
  ["SGD: rates", (wrong) => Object.assign(new optim.SGD([w()]).rates[0] ?? {}, { value: wrong })],
  ["Adam: betas", (wrong) => new optim.Adam([w()], { betas: anything(wrong) })],
  ["Adam: betas of one", (wrong) => new optim.Adam([w()], { betas: anything([0.9, wrong]) })],
  ["Lion: betas", (wrong) => new optim.Lion([w()], { betas: anything(wrong) })],
  ["Adafactor: eps", (wrong) => new optim.Adafactor([w()], { eps: anything(wrong) })],
  ["GradScaler: staticScale", (wrong) => new GradScaler({ staticScale: anything(wrong) })],
  ["GradScaler: initialScale", (wrong) => new GradScaler({ initialScale: anything(wrong) })],
  ["setScale", (wrong) => new GradScaler().setScale(anything(wrong))],
  [
    "clipByGlobalNorm: max",
    (wrong) => clipByGlobalNorm(gradients(w().read().sum(), [w()], { allowUnused: true }), anything(wrong)),
  ],
  [
    "probeLossScale: headroom",
    (wrong) =>
      optim.probeLossScale(
        anything(() => 1),
        [[tensor([1])]],
        { headroom: anything(wrong) },
      ),
  ],
];

const thrownBy = async (act: () => unknown): Promise<unknown> => {
  try {
    await act();
    return "accepted";
  } catch (error) {
    return error;
  }
};

describe("arguments", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it.each(PLACES.map(([title, ...rest]) => [title, rest] as const))("%s", async (_, [act, accepts = []]) => {
    for (const [wrong, shown] of WRONG) {
      const isRight = accepts.some((one) => one === wrong || JSON.stringify(one) === JSON.stringify(wrong));
      if (isRight && typeof wrong !== "function" && typeof wrong !== "symbol") continue;
      const error = await thrownBy(() => act(wrong));
      expect(error, `given ${shown}`).toBeInstanceOf(BinadeError);
      // No class of another mistake, such as an unknown error from within.
      expect((error as BinadeError).code, String(error)).not.toBe("internal");
    }
  });

  it.each(NUMBERS)("%s", async (_, act) => {
    for (const wrong of ["8", null, [8], { valueOf: () => 8 }, Number.NaN, true]) {
      const error = await thrownBy(() => act(wrong));
      expect(error, `given ${JSON.stringify(wrong)}`).toBeInstanceOf(BinadeError);
    }
  });

  it("names what was got and what to pass", () => {
    const model = new nn.Linear(2, 2);
    const rows: readonly (readonly [() => unknown, RegExp])[] = [
      [
        () => new optim.GradientAccumulator(model, anything({ scaler: {} })),
        /^GradientAccumulator: scaler: expected a GradScaler, got \{\}; pass new GradScaler/,
      ],
      [
        () => new optim.GradientAccumulator(model, anything({ scaler: new optim.SGD(model) })),
        /got an object of class SGD; pass new GradScaler/,
      ],
      [() => new optim.AdamW(anything("model")), /expected a module or a list of variables, got "model"/],
      [
        () => new GradScaler().step(anything(model), gradients(model.forward(tensor([[1, 2]])).sum(), model)),
        /step: optimizer: expected an optimizer .* got an object of class Linear; pass one/,
      ],
      [() => new GradScaler({ device: anything("cpu") }), /device: expected a device, got "cpu"; pass the device of a/],
    ];
    for (const [act, message] of rows) {
      expect(act).toThrow(expect.objectContaining({ code: "option.invalid", message: expect.stringMatching(message) }));
    }
  });

  it("a schedule that gives no scalar tensor is named when it is asked", () => {
    const model = [w()];
    for (const lr of [() => 0.1, () => tensor([1, 2]), () => undefined, async () => tensor(1)]) {
      const optimizer = new optim.SGD(model, { lr: anything(lr) });
      expect(() => optimizer.apply(gradients((model[0] as Variable).read().sum(), model))).toThrow(
        expect.objectContaining({
          code: "option.invalid",
          message: expect.stringMatching(/SGD: lr: expected .* schedule/),
        }),
      );
    }
    const read: Tensor = new optim.SGD(model, { lr: () => tensor(1) }).learningRate();
    expect(read.shape).toEqual([]);
  });
});
