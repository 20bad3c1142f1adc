/** Conformance e.3, case 24: calls in the wrong order, and what else the scaler refuses, leave everything as it was. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  clipByGlobalNorm,
  compile,
  GradScaler,
  type Grads,
  globalNorm,
  gradients,
  gradientsFrom,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { weight } from "../support/variables.ts";

describe.each(DEVICES)("GradScaler on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe("24: mistakes in the order of calls", () => {
    const setup = () => {
      const w = weight();
      const scaler = new GradScaler({ initialScale: 2 });
      const optimizer = new optim.SGD([w], { lr: 1 });
      const scaled = (): Grads<"scaled"> => gradients(scaler.scale(w.read().sum()), [w]);
      return { w, scaler, optimizer, scaled };
    };
    type Setup = ReturnType<typeof setup>;
    const untyped = (grads: Grads<"scaled">) => grads as ReadonlyMap<Variable, Tensor> as Grads<"true">;
    const mistakes: readonly (readonly [string, string, (s: Setup) => unknown])[] = [
      [
        "unscale twice",
        "scaler.order",
        ({ scaler, scaled }) => {
          const grads = scaled();
          scaler.unscale(grads);
          scaler.unscale(grads);
        },
      ],
      [
        "unscale what is unscaled",
        "scaler.order",
        ({ scaler, scaled }) =>
          scaler.unscale(scaler.unscale(scaled()) as ReadonlyMap<Variable, Tensor> as Grads<"scaled">),
      ],
      [
        "unscale after step",
        "scaler.order",
        ({ scaler, optimizer, scaled }) => {
          scaler.step(optimizer, scaled());
          scaler.unscale(scaled());
        },
      ],
      [
        "step twice",
        "scaler.order",
        ({ scaler, optimizer, scaled }) => {
          scaler.step(optimizer, scaled());
          scaler.step(optimizer, scaled());
        },
      ],
      [
        "step with scaled gradients after unscale",
        "scaler.order",
        ({ scaler, optimizer, scaled }) => {
          const grads = scaled();
          scaler.unscale(grads);
          scaler.step(optimizer, grads);
        },
      ],
      ["update without step", "scaler.order", ({ scaler }) => scaler.update()],
      [
        "update after unscale alone",
        "scaler.order",
        ({ scaler, scaled }) => {
          scaler.unscale(scaled());
          scaler.update();
        },
      ],
      [
        "step with gradients of a loss that was not scaled",
        "scaler.order",
        ({ w, scaler, optimizer }) => scaler.step(optimizer, gradients(w.read().sum(), [w])),
      ],
      ["unscale gradients of another scaler", "scaler.order", ({ scaled }) => new GradScaler().unscale(scaled())],
      [
        "step with gradients of another scaler",
        "scaler.order",
        ({ scaler, optimizer, scaled }) => new GradScaler().step(optimizer, scaler.unscale(scaled())),
      ],
      ["apply scaled gradients", "scaler.order", ({ optimizer, scaled }) => optimizer.apply(untyped(scaled()))],
      ["clip scaled gradients", "scaler.order", ({ scaled }) => clipByGlobalNorm(untyped(scaled()), 1)],
      ["measure scaled gradients", "scaler.order", ({ scaled }) => globalNorm(untyped(scaled()))],
      [
        "step without gradients",
        "gradient.missing",
        ({ scaler, optimizer }) => scaler.step(optimizer, gradientsFrom([])),
      ],
      ["unscale without gradients", "gradient.missing", ({ scaler }) => scaler.unscale(scaler.scaledGradients([]))],
      [
        "a closure",
        "option.unknown",
        ({ scaler, optimizer, scaled }) => scaler.step(optimizer, scaled(), { closure: () => 0 } as object),
      ],
      ["a closure as option", "option.unknown", () => new GradScaler({ growth: 2 } as object)],
      ["both a static scale and growth", "option.unknown", () => new GradScaler({ staticScale: 8, growthFactor: 2 })],
      [
        "a switch that is no boolean",
        "option.invalid",
        ({ scaler, optimizer, scaled }) => scaler.step(optimizer, scaled(), { checkGradients: 0 } as object),
      ],
      ["a string for a switch", "option.invalid", () => new GradScaler({ enabled: "false" } as object)],
      [
        "a limit of 0",
        "value.range",
        ({ scaler, optimizer, scaled }) => scaler.step(optimizer, scaled(), { skipNormAbove: 0 }),
      ],
      ["a static scale of 0", "value.range", () => new GradScaler({ staticScale: 0 })],
      [
        "half gradients",
        "dtype.unsupported",
        ({ scaler }) => {
          const half = new Variable("half", [2], "float16");
          scaler.unscale(gradients(scaler.scale(half.read().cast("float32").sum()), [half]));
        },
      ],
    ];
    it.each(mistakes)("24: %s: %s", async (title, code, act) => {
      const s = setup();
      const recorded = compile(() => {
        act(s);
      });
      const error = (await recorded().catch((e: unknown) => e)) as Error;
      expect(error).toMatchObject({ name: "BinadeError", code });
      // Whose gradients, and what to do; only an update without anything, or no gradients, concerns no parameter.
      const isNamed = code !== "option.unknown" && code !== "option.invalid" && code !== "value.range";
      if (isNamed && !/update without step|unscale without/.test(title)) expect(error.message).toMatch(/\b(w|half)\b/);
      if (isNamed) expect(error.message).toContain("; ");
      // Nothing was assigned, and the next recording begins afresh.
      expect([...(await s.w.read().data()), await s.scaler.lossScale.item()]).toEqual([1, 1, 2]);
      const step = compile(() => {
        s.scaler.step(s.optimizer, s.scaled());
        s.scaler.update();
      });
      await step();
      expect([...(await s.w.read().data())]).toEqual([0, 0]);
    });

    it("24: the error for half gradients names the parameters", () => {
      const half = new Variable("decoder.weight", [2], "float16");
      const scaler = new GradScaler();
      expect(() => scaler.unscale(scaler.scaledGradients([[half, half.read()]]))).toThrow(/decoder\.weight/);
    });

    it("24: a step that is not compiled is given up by update after unscale: the scale moves, statistics go back", async () => {
      const norm = new nn.BatchNorm1d(2);
      const scaler = new GradScaler({ initialScale: 2, growthInterval: 1 });
      const optimizer = new optim.SGD(norm, { lr: 1 });
      const unscaled = (factor: number) => {
        const x = tensor(
          [1, 2, 3, 5].map((n) => n * factor),
          { shape: [2, 2] },
        );
        return scaler.unscale(gradients(scaler.scale(norm.forward(x).square().sum().mul(factor)), norm));
      };
      const bytes = async () => Promise.all([...norm.parameters(), ...norm.buffers()].map((v) => v.read().bytes()));
      const before = await bytes();
      unscaled(1);
      scaler.update();
      expect(await scaler.lossScale.item()).toBe(4);
      unscaled(2 ** 127);
      scaler.update();
      expect(await scaler.lossScale.item()).toBe(2);
      expect(await bytes()).toEqual(before);
      scaler.step(optimizer, unscaled(1));
      scaler.update();
      expect(await bytes()).not.toEqual(before);
    });

    it("24: unscale, step, update, unscale is in order", () => {
      const { scaler, optimizer, scaled } = setup();
      scaler.step(optimizer, scaler.unscale(scaled()));
      scaler.update();
      expect(scaler.unscale(scaled()).size).toBe(1);
    });
  });
});
