/** Gradients summed in float32 over several calls: as one large batch, where sums of 16 bits stop growing. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  BinadeError,
  compile,
  concatenate,
  type DType,
  GradScaler,
  type Grads,
  gradients,
  gradientsFrom,
  mapGradients,
  nn,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const wave = (length: number, shift: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => Math.sin(12.9898 * i + shift));

const MICRO_STEPS = 4;
const ROWS = 3;

/** Rows `first` to `first` + `count` − 1 of a batch of inputs of width 5. */
const rows = (first: number, count: number): Tensor =>
  tensor(wave(MICRO_STEPS * ROWS * 5, 1).subarray(first * 5, (first + count) * 5), { shape: [count, 5] });

function makeRun(dtype: "float16" | false) {
  const model = new nn.Sequential(new nn.Linear(5, 7, { seed: 1 }), new nn.GELU(), new nn.Linear(7, 2, { seed: 2 }));
  const optimizer = new optim.AdamW(model, { lr: 0.05 });
  const scaler = new GradScaler({ initialScale: 1024, growthInterval: 1 });
  const scaled = (x: Tensor): Grads<"scaled"> => {
    const loss = autocast(dtype, () => model.forward(x).cast("float32").square().mean());
    return gradients(scaler.scale(loss), model);
  };
  const finish = (grads: Grads<"scaled">) => {
    const outcome = scaler.step(optimizer, scaler.unscale(grads));
    scaler.update();
    return outcome;
  };
  const parameters = async (): Promise<number[]> =>
    (await Promise.all(model.parameters().map((p) => p.read().data()))).flatMap((values) => [...values]);
  return { model, optimizer, scaler, scaled, finish, parameters };
}

describe.each(DEVICES)("gradient accumulation on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("refuses gradients of another scale, and what it gave before the scale moved", () => {
    const stale = /before the last update\(\)/;
    const { model, scaler, scaled, finish } = makeRun(false);
    const sums = new optim.GradientAccumulator<"scaled">(model, { scaler });
    const step = compile((x: Tensor) => {
      sums.add(scaled(x));
      const [added, taken] = [scaled(x), sums.take()];
      finish(scaled(x));
      expect(() => sums.add(added)).toThrow(stale);
      expect(() => scaler.unscale(taken)).toThrow(stale);
    });
    step.plan(rows(0, ROWS));
    expect(step.traces).toBe(1);
  });

  it.each([false, "float16"] as const)("case 58: micro-steps make the step of the whole batch (%s)", async (dtype) => {
    const whole = makeRun(dtype);
    const large = compile((x: Tensor) => whole.finish(whole.scaled(x)));
    const parts = makeRun(dtype);
    const sums = new optim.GradientAccumulator<"scaled">(parts.model, { scaler: parts.scaler });
    const add = compile((x: Tensor) => sums.add(parts.scaled(x)));
    const apply = compile(() => parts.finish(sums.take()));
    for (let step = 0; step < 3; step++) {
      await large(rows(0, MICRO_STEPS * ROWS));
      for (let i = 0; i < MICRO_STEPS; i++) await add(rows(i * ROWS, ROWS));
      expect(await sums.microSteps.read().item()).toBe(MICRO_STEPS);
      expect((await readOutcome(await apply())).applied).toBe(true);
      expect(await sums.microSteps.read().item()).toBe(0);
      const [want, got] = [await whole.parameters(), await parts.parameters()];
      // Products in float16 round each micro-batch's cotangents apart; AdamW's first steps turn relative errors of a gradient
      // into absolute ones of lr.
      const tolerance = dtype === false ? 1e-5 : 5e-3;
      got.forEach((value, i) => {
        expect(Math.abs(value - (want[i] ?? Number.NaN))).toBeLessThan(tolerance);
      });
    }
    expect(await parts.scaler.lossScale.item()).toBe(1024 * 2 ** 3);
  });

  it.each(["float16", "bfloat16"] as const)("case 58: keeps what sums of %s lose", async (dtype) => {
    const limit = dtype === "float16" ? 2048 : 256;
    const w = new Variable("w", [2], dtype);
    const narrow = new Variable("narrow", [2], dtype);
    const sums = new optim.GradientAccumulator([w], { reduction: "sum" });
    const add = compile((g: Tensor) => {
      sums.add(gradientsFrom([[w, g]]));
      narrow.assign(narrow.read().add(g));
    });
    const one = tensor([1, -1], { dtype });
    for (let i = 0; i < limit + 50; i++) await add(one);
    expect([...(await narrow.read().data())]).toEqual([limit, -limit]);
    const [gradient] = [...sums.take().values()];
    expect(gradient?.dtype).toBe("float32");
    expect([...((await gradient?.data()) ?? [])]).toEqual([limit + 50, -limit - 50]);
  });

  it("a skipped step leaves parameters and state byte by byte, and the next sums begin at 0", async () => {
    const run = makeRun(false);
    const sums = new optim.GradientAccumulator<"scaled">(run.model, { scaler: run.scaler });
    const add = compile((x: Tensor, poison: Tensor) =>
      sums.add(mapGradients(run.scaled(x), (gradient) => gradient.add(poison))),
    );
    const apply = compile(() => run.finish(sums.take()));
    const variables = [...run.model.parameters(), ...run.optimizer.namedState().values()];
    const bytes = () => Promise.all(variables.map((variable) => variable.bytes()));
    await add(rows(0, ROWS), tensor(0));
    await apply();
    const before = await bytes();
    await add(rows(0, ROWS), tensor(Number.POSITIVE_INFINITY));
    await add(rows(ROWS, ROWS), tensor(0));
    expect((await readOutcome(await apply())).applied).toBe(false);
    expect(await bytes()).toEqual(before);
    for (const sum of sums.namedState().values())
      expect(
        (await sum.bytes()).every((byte) => byte === 0),
        sum.name,
      ).toBe(true);
  });

  it("goes on from saved sums in the middle of a batch", async () => {
    const states: Uint8Array[][] = [];
    for (const resumes of [false, true]) {
      let run = makeRun(false);
      const make = () => {
        const sums = new optim.GradientAccumulator<"scaled">(run.model, { scaler: run.scaler });
        return { sums, add: compile((x: Tensor) => sums.add(run.scaled(x))) };
      };
      let { sums, add } = make();
      for (let i = 0; i < MICRO_STEPS; i++) {
        await add(rows(i * ROWS, ROWS));
        if (!resumes || i !== 1) continue;
        const saved = new Map<string, Uint8Array>();
        for (const [name, variable] of sums.namedState()) saved.set(name, await variable.bytes());
        run = makeRun(false);
        ({ sums, add } = make());
        for (const [name, variable] of sums.namedState()) await variable.load(saved.get(name) as Uint8Array);
      }
      await compile(() => run.finish(sums.take()))();
      states.push(await Promise.all(run.model.parameters().map((p) => p.bytes())));
    }
    expect(states[1]).toEqual(states[0]);
  });

  it.each([
    "compiled, in one process",
    "compiled, resumed before take",
    "not compiled",
  ] as const)("a skipped window takes back running statistics: %s", async (how) => {
    const make = () => {
      const model = new nn.Sequential(new nn.Linear(2, 3, { seed: 1 }), new nn.BatchNorm1d(3), new nn.Dropout(0.5));
      const optimizer = new optim.SGD(model, { lr: 0.1 });
      const scaler = new GradScaler();
      const sums = new optim.GradientAccumulator<"scaled">(model, { scaler });
      type Body = (...args: readonly Tensor[]) => unknown;
      const eager =
        (body: Body) =>
        async (...args: readonly Tensor[]) =>
          body(...args);
      const recorded = how === "not compiled" ? (eager as unknown as typeof compile) : compile;
      const add = recorded((x: Tensor, factor: Tensor) => {
        sums.add(gradients(scaler.scale(model.forward(x).mul(factor).sum()), model));
      });
      const evaluated = recorded((x: Tensor) => {
        model.evaluate();
        sums.add(gradients(scaler.scale(model.forward(x).sum()), model));
        model.train();
      });
      const apply = recorded(() => {
        const outcome = scaler.step(optimizer, scaler.unscale(sums.take()));
        scaler.update();
        return outcome;
      });
      const parts = [
        model.namedParameters(),
        model.namedBuffers(),
        optimizer.namedState(),
        scaler.namedState(),
        sums.namedState(),
      ];
      return { model, add, evaluated, apply, variables: parts.flatMap((part) => [...part.values()]) };
    };
    const statistics = async ({ model }: ReturnType<typeof make>) =>
      Promise.all([...model.namedBuffers()].filter(([name]) => name.includes("running")).map(([, v]) => v.bytes()));
    const run = make();
    const x = tensor([
      [1, 2],
      [3, 5],
    ]);
    // A window that is applied leaves copies behind, which must not pass for those of the next.
    await run.add(x, tensor(1));
    expect((await readOutcome(await run.apply())).applied).toBe(true);
    const before = await statistics(run);
    await run.evaluated(x);
    await run.add(x, tensor(1));
    await run.add(x, tensor(Number.POSITIVE_INFINITY));
    expect(await statistics(run)).not.toEqual(before);
    const resumed = how.includes("resumed") ? make() : run;
    if (resumed !== run)
      for (const [i, variable] of resumed.variables.entries())
        await variable.load((await run.variables[i]?.bytes()) ?? new Uint8Array());
    expect((await readOutcome(await resumed.apply())).applied).toBe(false);
    expect(await statistics(resumed)).toEqual(before);
  });

  it("parameters without a gradient add nothing; nothing added gives zeros", async () => {
    const [a, b] = [new Variable("a", [1], "float32"), new Variable("b", [1], "float32")];
    const sums = new optim.GradientAccumulator([a, b]);
    sums.add(gradientsFrom([[a, tensor([3])]]));
    sums.add(gradientsFrom([[a, tensor([5])]]));
    const take = compile(() => concatenate([...sums.take().values()]));
    expect([...(await (await take()).data())]).toEqual([4, 0]);
    expect([...(await (await take()).data())]).toEqual([0, 0]);
  });
});

describe("gradient accumulation", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  const w = (dtype: DType = "float32"): Variable => new Variable("w", [1], dtype);

  it("is counted apart by the memory plan, 4 bytes per parameter of any dtype", () => {
    useDevice("null");
    const p = new Variable("w", [64, 64], "bfloat16");
    p.role = "parameter";
    const sums = new optim.GradientAccumulator([p]);
    const plan = compile((g: Tensor) => sums.add(gradientsFrom([[p, g]]))).plan(
      new Variable("g", [64, 64], "bfloat16").read(),
    );
    expect(plan.resident.gradientSums).toBe(4 * 4096 + 4);
    useDevice("reference");
  });

  const scaler = new GradScaler();
  const misspelt: object = { reductoin: "sum" };
  const bad: readonly (readonly [string, () => unknown, string])[] = [
    ["no parameters", () => new optim.GradientAccumulator([]), "option.invalid"],
    ["an integer parameter", () => new optim.GradientAccumulator([w("int32")]), "dtype.unsupported"],
    ["a misspelt key", () => new optim.GradientAccumulator([w()], misspelt), "option.unknown"],
    ["another reduction", () => new optim.GradientAccumulator([w()], { reduction: "max" as "sum" }), "option.invalid"],
    [
      "foreign gradients only",
      () => new optim.GradientAccumulator([w()]).add(gradientsFrom([[w(), tensor([1])]])),
      "gradient.missing",
    ],
    [
      "plain gradients where scaled ones are due",
      () => {
        const p = w();
        const plain = gradientsFrom([[p, tensor([1])]]) as unknown as Grads<"scaled">;
        new optim.GradientAccumulator<"scaled">([p], { scaler }).add(plain);
      },
      "scaler.order",
    ],
    [
      "scaled gradients without a scaler",
      () => {
        const p = w();
        const scaled = scaler.scaledGradients([[p, tensor([1])]]) as unknown as Grads<"true">;
        new optim.GradientAccumulator([p]).add(scaled);
      },
      "scaler.order",
    ],
    [
      "gradients of another scaler",
      () => {
        const p = w();
        new optim.GradientAccumulator<"scaled">([p], { scaler }).add(
          new GradScaler().scaledGradients([[p, tensor([1])]]),
        );
      },
      "scaler.order",
    ],
  ];
  it.each(bad)("%s is refused", (_, make, code) => {
    expect(make).toThrow(BinadeError);
    expect(make).toThrow(expect.objectContaining({ code }));
  });
});
