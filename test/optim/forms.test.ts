/** Every way to keep weights and moments: what it keeps, that a skip moves no byte, and that a resumed run has the same bits. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  BinadeError,
  compile,
  type DType,
  GradScaler,
  gradients,
  gradientsFrom,
  optim,
  Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { build } from "../../src/ir/graph.ts";
import { DEVICES } from "../support/devices.ts";

type Masters = optim.MasterWeights;
type States = optim.StateDType;

const FORMS: readonly (readonly [Masters, "bfloat16" | "float16"])[] = [
  ["float32", "bfloat16"],
  ["float32", "float16"],
  ["split", "bfloat16"],
  ["stochastic", "bfloat16"],
  ["kahan", "bfloat16"],
  ["kahan", "float16"],
  ["none", "bfloat16"],
  ["none", "float16"],
];
const STATES: readonly States[] = ["float32", "bfloat16", "int8-blockwise"];
const CROSSED = FORMS.flatMap(([form, dtype]) => STATES.map((state) => [form, dtype, state] as const));

/** Enough for blocks, and a tensor that is too small for them. */
const SHAPES = { w: [32, 136], b: [37] } as const;
const KEYS = ["w", "b"] as const;

const wave = (length: number, shift: number, scale = 1): Float32Array =>
  Float32Array.from({ length }, (_, i) => scale * Math.sin(12.9898 * i + shift));
const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Stored bytes as text: compared at once, where a comparison of arrays takes seconds. */
const bytesOf = (variables: readonly Variable[]): Promise<string[]> =>
  Promise.all(variables.map(async (variable) => Buffer.from(await variable.bytes()).toString("base64")));

function makeRun(masterWeights: Masters, dtype: DType, stateDType: States) {
  const parameters = KEYS.map((key) => {
    const made = new Variable(key, SHAPES[key], dtype);
    made.assign(tensor(wave(sizeOf(SHAPES[key]), 1), { shape: SHAPES[key] }).cast(dtype));
    return made;
  });
  const optimizer = new optim.AdamW(parameters, { lr: 1e-3, masterWeights, stateDType, seed: 7 });
  const scaler = new GradScaler({ enabled: false });
  const step = compile((w: Tensor, b: Tensor) => {
    const grads = gradientsFrom([w, b].map((gradient, i) => [parameters[i] as Variable, gradient] as const));
    return scaler.step(optimizer, grads).applied;
  });
  const variables = [...parameters, ...optimizer.namedState().values()];
  return {
    parameters,
    optimizer,
    variables,
    bytes: () => bytesOf(variables),
    step: async (i: number, poison = 0): Promise<boolean> => {
      const [w, b] = KEYS.map((key, k) =>
        tensor(wave(sizeOf(SHAPES[key]), 10 * i + k, 0.1), { shape: SHAPES[key] }).add(k === 1 ? poison : 0),
      ) as [Tensor, Tensor];
      return (await (await step(w, b)).item()) === 1;
    },
  };
}

describe.each(DEVICES)("weights and state on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  // The reference evaluates element by element: one form with every state, and every form with one.
  const cases = CROSSED.filter(([form, , state]) => device === "cpu" || form === "split" || state === "float32");
  it.each(
    cases,
  )("%s over %s with %s state: a skipped step moves no byte, a resumed run has the same bits", async (masters, dtype, state) => {
    const [first, second] = [makeRun(masters, dtype, state), makeRun(masters, dtype, state)];
    for (let i = 0; i < 2; i++) await first.step(i);
    const before = await first.bytes();
    for (const poison of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(await first.step(9, poison)).toBe(false);
      expect(await first.bytes()).toEqual(before);
    }
    for (const [i, variable] of second.variables.entries())
      await variable.load(Buffer.from(before[i] as string, "base64"));
    for (let i = 2; i < 4; i++) for (const run of [first, second]) await run.step(i);
    const after = await first.bytes();
    expect(after).not.toEqual(before);
    expect(await second.bytes()).toEqual(after);
    expect(await second.optimizer.steps.read().item()).toBe(4);
  });

  it.each(
    (["SGD", "Adam", "AdamW", "Lion", "Adafactor", "Muon"] as const).flatMap((name) =>
      STATES.map((state) => [name, state] as const),
    ),
  )("%s with %s state steps, and skips a step whole", async (name, stateDType) => {
    const w = new Variable("w", [64, 64], "float32", wave(4096, 1));
    const options = { lr: 1e-3, stateDType, ...(name === "SGD" ? { momentum: 0.9 } : {}) };
    const optimizer = new optim[name]([w], options);
    const scaler = new GradScaler();
    const step = compile((gradient: Tensor) => {
      const { applied } = scaler.step(optimizer, gradientsFrom([[w, gradient]]));
      scaler.update();
      return applied;
    });
    const variables = [w, ...optimizer.namedState().values()];
    const seen = [await bytesOf(variables)];
    for (const poison of [1, Number.POSITIVE_INFINITY, 1]) {
      const applied = await (await step(tensor(wave(4096, 2), { shape: [64, 64] }).mul(poison))).item();
      expect(applied).toBe(Number.isFinite(poison) ? 1 : 0);
      const now = await bytesOf(variables);
      if (applied === 1) expect(seen).not.toContainEqual(now);
      else expect(now).toEqual(seen.at(-1));
      seen.push(now);
    }
  });

  it("split masters have the bits of float32 masters, in every step", async () => {
    const [split, master] = [makeRun("split", "bfloat16", "float32"), makeRun("float32", "bfloat16", "float32")];
    for (let i = 0; i < 5; i++) {
      for (const run of [split, master]) await run.step(i);
      for (const [k, key] of KEYS.entries()) {
        const remainder = split.optimizer.namedState().get(`${key}.remainder`) as Variable;
        const stored = split.parameters[k] as Variable;
        const joined = build.composite("splitJoin", [stored.read().node, remainder.read().node]);
        const want = master.optimizer.namedState().get(`${key}.master`) as Variable;
        expect(Buffer.from(await new Tensor(joined).bytes()).toString("base64")).toEqual((await bytesOf([want]))[0]);
      }
    }
  });

  it.each([[1], [2]])("stochastic rounding updates %d parameters of as many elements as its key", async (count) => {
    const ws = Array.from(
      { length: count },
      (_, i) => new Variable(`w${i}`, [4], "bfloat16", new Uint16Array(4).fill(0x3f80)),
    );
    const optimizer = new optim.SGD(ws, { lr: 0.25, masterWeights: "stochastic" });
    const loss = ws.map((w) => w.read().cast("float32").square().sum()).reduce((a, b) => a.add(b));
    optimizer.apply(gradients(loss, ws));
    for (const w of ws) expect([...(await w.read().data())]).toEqual([0.5, 0.5, 0.5, 0.5]);
  });

  it("stochastic rounding draws others at every step, and for every parameter and seed", async () => {
    const make = (seed: number) => {
      const ws = ["a", "b"].map((name) => new Variable(name, [512], "bfloat16", new Uint16Array(512).fill(0x3f80)));
      const optimizer = new optim.SGD(ws, { lr: 1, masterWeights: "stochastic", seed });
      const step = compile((g: Tensor) => optimizer.apply(gradientsFrom(ws.map((w) => [w, g] as const))));
      return { ws, run: () => step(tensor(new Float32Array(512).fill(-(2 ** -8)))) };
    };
    const [one, same, other] = [make(1), make(1), make(2)];
    const read = (run: typeof one): Promise<string[]> =>
      Promise.all(run.ws.map(async (w) => [...new Uint16Array((await w.bytes()).buffer)].join()));
    const seen = new Set<string>();
    for (let i = 0; i < 2; i++) {
      for (const run of [one, same, other]) await run.run();
      const [first, again, third] = [await read(one), await read(same), await read(other)];
      expect(again).toEqual(first);
      for (const values of [...first, ...third]) seen.add(values);
    }
    expect(seen.size).toBe(8);
    // Each step is half-way between two neighbours: after two, half of the elements went up once. Numbers that repeat give none.
    for (const values of [...(await read(one)), ...(await read(other))]) {
      const once = values.split(",").filter((v) => Number(v) === 0x3f81).length;
      expect(once).toBeGreaterThan(180);
      expect(once).toBeLessThan(332);
    }
  });
});

describe.skipIf(DEVICES.length < 2)("weights and state on two devices", () => {
  it.each(FORMS)("%s over %s: equal bits where the update is of exact primitives", async (masterWeights, dtype) => {
    const results: string[][] = [];
    for (const device of DEVICES) {
      useDevice(device);
      const w = new Variable("w", [33, 129], dtype);
      w.assign(tensor(wave(33 * 129, 1), { shape: [33, 129] }).cast(dtype));
      const optimizer = new optim.SGD([w], { lr: 0.01, momentum: 0.9, masterWeights, stateDType: "bfloat16" });
      const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
      for (let i = 0; i < 3; i++) await step(tensor(wave(33 * 129, i, 0.3), { shape: [33, 129] }));
      results.push(await bytesOf([w, ...optimizer.namedState().values()]));
    }
    expect(results[1]).toEqual(results[0]);
  });

  it("8-bit state: equal bits where the update is of exact primitives", async () => {
    const results: string[][] = [];
    for (const device of DEVICES) {
      useDevice(device);
      const w = new Variable("w", [64, 96], "float32", wave(64 * 96, 1));
      const optimizer = new optim.SGD([w], { lr: 0.01, momentum: 0.9, stateDType: "int8-blockwise" });
      const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
      for (let i = 0; i < 3; i++) await step(tensor(wave(64 * 96, i, 0.3), { shape: [64, 96] }));
      results.push(await bytesOf([w, ...optimizer.namedState().values()]));
    }
    expect(results[1]).toEqual(results[0]);
  });
});

describe("variables of every form", () => {
  beforeAll(() => {
    useDevice("null");
  });

  const byteLengthOf = (optimizer: optim.AdamW, role: Variable["role"]): number =>
    [...optimizer.namedState().values()].filter((v) => v.role === role).reduce((sum, v) => sum + v.byteLength, 0);
  const parameter = (dtype: DType): Variable => new Variable("w", [64, 64], dtype);

  it("the memory plan counts them: masters, and state", () => {
    const w = parameter("bfloat16");
    const optimizer = new optim.AdamW([w], { masterWeights: "split", stateDType: "int8-blockwise" });
    const step = compile((g: Tensor) => optimizer.apply(gradientsFrom([[w, g]])));
    const { resident } = step.plan(new Variable("g", [64, 64], "float32").read());
    expect(resident).toMatchObject({ parameters: 2 * 4096, masters: 2 * 4096, optimizerState: 2 * (4096 + 64) + 4 });
  });

  it.each([
    ["float32", 4, ["w.master"]],
    ["split", 2, ["w.remainder"]],
    ["stochastic", 0, []],
    ["kahan", 2, ["w.compensation"]],
    ["none", 0, []],
  ] as const)("%s takes %i bytes per parameter beside it", (masterWeights, bytes, names) => {
    const optimizer = new optim.AdamW([parameter("bfloat16")], { masterWeights });
    expect(byteLengthOf(optimizer, "master")).toBe(bytes * 4096);
    expect([...optimizer.namedState().keys()]).toEqual(["step", ...names, "w.m", "w.v"]);
  });

  it.each([
    ["float32", 8 * 4096, ["w.m", "w.v"]],
    ["bfloat16", 4 * 4096, ["w.m", "w.v"]],
    ["int8-blockwise", 2 * (4096 + 16 * 4), ["w.m.codes", "w.m.scales", "w.v.codes", "w.v.scales"]],
  ] as const)("%s state takes %i bytes for 4096 parameters of AdamW", (stateDType, bytes, names) => {
    const optimizer = new optim.AdamW([parameter("float32")], { stateDType });
    expect(byteLengthOf(optimizer, "optimizerState")).toBe(bytes + 4);
    expect([...optimizer.namedState().keys()]).toEqual(["step", ...names]);
  });

  it.each([[[4095]], [[64, 63]], [[4096 + 128]]] as const)("8-bit state of shape %j stays float32", (shape) => {
    const optimizer = new optim.AdamW([new Variable("w", shape, "float32")], { stateDType: "int8-blockwise" });
    expect([...optimizer.namedState().values()].map(({ dtype }) => dtype)).toEqual(["int32", "float32", "float32"]);
  });

  const bad: readonly (readonly [string, () => unknown, string, RegExp])[] = [
    [
      "an unknown form",
      () => new optim.SGD([parameter("bfloat16")], { masterWeights: "fp32" as Masters }),
      "option.invalid",
      /SGD: masterWeights: expected one of "float32", "split", "stochastic", "kahan", "none", got "fp32"/,
    ],
    [
      "an unknown state",
      () => new optim.SGD([parameter("float32")], { stateDType: "float16" as States }),
      "option.invalid",
      /stateDType: expected one of "float32", "bfloat16", "int8-blockwise", got "float16"/,
    ],
    [
      "a split of float16",
      () => new optim.SGD([parameter("float16")], { masterWeights: "split" }),
      "option.invalid",
      /"split" is for bfloat16, parameter w is float16; choose "float32", "kahan", "none", or make the parameter bfloat16/,
    ],
    [
      "a form that nothing is kept in",
      () => new optim.SGD([parameter("float32")], { masterWeights: "stochastic" }),
      "option.invalid",
      /"stochastic" is for 16-bit parameters, and all are float32/,
    ],
    ["a seed that is none", () => new optim.SGD([parameter("float32")], { seed: -1 }), "value.range", /seed/],
    [
      "a seed of a group",
      // @ts-expect-error: the seed is one for all groups
      () => new optim.SGD([{ parameters: [parameter("float32")], seed: 1 }]),
      "option.unknown",
      /group: unknown option "seed"/,
    ],
  ];
  it.each(bad)("%s is refused", (_, make, code, message) => {
    expect(make).toThrow(BinadeError);
    expect(make).toThrow(expect.objectContaining({ code }));
    expect(make).toThrow(message);
  });
});
