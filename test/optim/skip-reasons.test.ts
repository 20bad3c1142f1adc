/** Why a step was skipped: the verdict, whom it blames, and what it says of the scale. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  clipByGlobalNorm,
  compile,
  GradScaler,
  type GradScalerOptions,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { bytesOf, weight } from "../support/variables.ts";

describe.each(DEVICES)("reasons on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe("why a step was skipped", () => {
    /** One step on w·factor·1 with these scaled gradients added. */
    async function reasonOf(
      options: GradScalerOptions,
      step: optim.StepOptions,
      gradient: readonly number[],
      loss = 1,
    ) {
      const w = weight();
      const scaler = new GradScaler(options);
      const optimizer = new optim.AdamW([w], { lr: 1 });
      const run = compile((scaled: Tensor, of: Tensor) => {
        const grads = scaler.scaledGradients([[w, scaled]], undefined, scaler.scale(of));
        const outcome = scaler.step(optimizer, grads, step);
        scaler.update();
        return outcome;
      });
      const before = await bytesOf([w, ...optimizer.namedState().values()]);
      const read = await readOutcome(await run(tensor([...gradient]), tensor(loss)));
      const after = await bytesOf([w, ...optimizer.namedState().values()]);
      if (read.applied) expect(after).not.toEqual(before);
      else expect(after).toEqual(before);
      return read;
    }
    const [inf, nan] = [Number.POSITIVE_INFINITY, Number.NaN];

    const rows: readonly (readonly [
      string,
      GradScalerOptions,
      optim.StepOptions,
      readonly number[],
      number,
      Partial<Awaited<ReturnType<typeof reasonOf>>>,
    ])[] = [
      ["nothing", { initialScale: 4 }, {}, [4, 8], 1, { applied: true, lossScaleAfter: 4 }],
      ["the loss", { initialScale: 4 }, {}, [4, nan], nan, { reason: "forwardOverflow", lossScaleAfter: 2 }],
      ["a gradient", { initialScale: 4 }, {}, [4, inf], 1, { reason: "gradientOverflow", parameters: ["w"] }],
      ["zeros, asked for", {}, { skipZeroGradients: true }, [0, -0], 1, { reason: "underflow", parameters: ["w"] }],
      ["zeros of a loss of zero", {}, { skipZeroGradients: true }, [0, 0], 0, { applied: true }],
      ["zeros, not asked for", {}, {}, [0, 0], 1, { applied: true }],
      [
        "a scale of 0, whose gradients are finite",
        { preset: "pytorch", initialScale: 2 ** -149 },
        {},
        [0, 0],
        1,
        { reason: "scaleOutOfRange", parameters: [], lossScaleBefore: 2 ** -149 },
      ],
      [
        "a scale whose reciprocal is subnormal",
        { preset: "pytorch", initialScale: 2 ** 127 },
        {},
        [1, 1],
        1,
        { reason: "scaleOutOfRange" },
      ],
      ["a static scale beyond use", { staticScale: 2 ** -130 }, {}, [1, 1], 1, { reason: "scaleOutOfRange" }],
      [
        "a norm above its limit, which is no overflow",
        { initialScale: 4 },
        { skipNormAbove: 2.5 },
        [4, 12],
        1,
        { reason: "normAboveLimit", parameters: ["w"], lossScaleAfter: 4 },
      ],
      ["a norm at its limit", { initialScale: 4 }, { skipNormAbove: 5 }, [12, 16], 1, { applied: true }],
      ["an infinite sum of squares", {}, { skipNormAbove: 1e18 }, [1e35, 0], 1, { reason: "normAboveLimit" }],
      ["an overflow above the limit", {}, { skipNormAbove: 1 }, [inf, 1], 1, { reason: "gradientOverflow" }],
    ];
    it.each(rows)("%s", async (_, options, step, gradient, loss, expected) => {
      expect(await reasonOf(options, step, gradient, loss)).toMatchObject(expected);
    });

    it("the norm is that before clipping, and blames the largest gradient", async () => {
      const [a, b] = [weight([1, 1], "a"), weight([1, 1], "b")];
      const scaler = new GradScaler({ staticScale: 2 });
      const scaled = scaler.scaledGradients([
        [a, tensor([2, 2])],
        [b, tensor([20, 2])],
      ]);
      const outcome = scaler.step(new optim.SGD([a, b]), clipByGlobalNorm(scaler.unscale(scaled), 1), {
        skipNormAbove: 5,
      });
      scaler.update();
      expect(await readOutcome(outcome)).toMatchObject({ reason: "normAboveLimit", parameters: ["b"] });
    });

    const looks: readonly (readonly [string, GradScalerOptions["checks"], readonly number[], boolean])[] = [
      ["scaled: what overflows when unscaled is applied", "scaled", [1, 1e38], true],
      ["unscaled: the same is found", "unscaled", [1, 1e38], false],
      ["both: the same is found", "both", [1, 1e38], false],
      ["norm: squares of finite gradients overflow", "norm", [1e20, 1], false],
      ["both: the same is finite", "both", [1e20, 1], true],
    ];
    it.each(looks)("checks %s", async (_, checks, gradient, applied) => {
      const options = { initialScale: 2 ** -14, floor: 2 ** -14, ...(checks === undefined ? {} : { checks }) };
      expect((await reasonOf(options, { checkGradients: false }, gradient)).applied).toBe(applied);
    });

    it("checks norm: also of gradients whose squares are finite one by one", async () => {
      const [a, b] = [weight([1], "a"), weight([1], "b")];
      const scaler = new GradScaler({ checks: "norm", staticScale: 1 });
      const entries = [a, b].map((v) => [v, tensor([1.5e19])] as const);
      const outcome = scaler.step(new optim.SGD([a, b]), scaler.scaledGradients(entries));
      scaler.update();
      expect(await readOutcome(outcome)).toMatchObject({ applied: false, reason: "gradientOverflow", parameters: [] });
    });

    it("says that the preset's system would end the run", async () => {
      const w = weight();
      for (const [options, ends] of [
        [{ preset: "deepspeed", initialScale: 1, hysteresis: 1 }, true],
        [{ preset: "deepspeed-zero0", initialScale: 1 }, false],
        [{ preset: "fairseq", initialScale: 2 ** -13 }, true],
        [{}, false],
      ] as const) {
        const scaler = new GradScaler(options);
        const outcome = scaler.step(new optim.SGD([w]), scaler.scaledGradients([[w, tensor([1, Number.NaN])]]));
        scaler.update();
        const read = await readOutcome(outcome);
        expect(read).toMatchObject({ applied: false, exhausted: ends });
        if (ends) expect(read.lossScaleAfter).toBe(read.lossScaleBefore);
      }
    });
  });
});
