/** Which losses a step is judged by: those whose gradients it takes, and no other that was scaled since the last update. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  addGradients,
  compile,
  GradScaler,
  gradients,
  mapGradients,
  optim,
  type ReadOutcome,
  readOutcome,
  type StepOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const INFINITE = Number.POSITIVE_INFINITY;
const weight = (name = "w"): Variable => new Variable(name, [2], "float32", Float32Array.of(1, 1));
const skippedFor = async (outcome: StepOutcome): Promise<string> => {
  const read: ReadOutcome = await readOutcome(outcome);
  return read.applied ? "applied" : read.reason;
};

/** What becomes of a loss beside the one whose gradients step. */
const BESIDE: readonly (readonly [string, (scaler: GradScaler, loss: Tensor, w: Variable) => unknown])[] = [
  ["only scaled", (scaler, loss) => scaler.scale(loss)],
  ["scaled in a list", (scaler, loss) => scaler.scale([loss, [loss]])],
  ["differentiated, and not stepped", (scaler, loss, w) => gradients(scaler.scale(loss), [w])],
  ["scaled by another scaler", (_, loss) => new GradScaler().scale(loss)],
];

describe.each(DEVICES)("losses of a step on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe.each([
    ["compiled", true],
    ["as it is written", false],
  ] as const)("%s", (_, isCompiled) => {
    const run = async (step: () => StepOutcome): Promise<string> =>
      skippedFor(isCompiled ? await compile(step)() : step());

    it.each(BESIDE)("a loss beside it that is %s has no part in it", async (_title, beside) => {
      for (const [own, other, want] of [
        [1, INFINITE, "applied"],
        [1e38, INFINITE, "gradientOverflow"],
        [INFINITE, 1, "forwardOverflow"],
      ] as const) {
        const [w, scaler] = [weight(), new GradScaler({ initialScale: 4 })];
        const optimizer = new optim.SGD([w]);
        const outcome = await run(() => {
          const [loss, foreign] = [own, other].map((factor) => w.read().mul(factor).sum());
          beside(scaler, foreign as Tensor, w);
          // The loss 2e38 is finite, and its gradient 1e38 overflows by the scale.
          const made = scaler.step(optimizer, gradients(scaler.scale(loss as Tensor), [w]));
          scaler.update();
          return made;
        });
        expect(outcome, `own ${own}, other ${other}`).toBe(want);
      }
    });

    it("a loss of this step counts though the optimizer has but some of its parameters", async () => {
      const [a, b, scaler] = [weight("a"), weight("b"), new GradScaler()];
      const optimizer = new optim.SGD([b]);
      const outcome = await run(() => {
        const loss = a.read().sum().add(b.read().mul(INFINITE).sum());
        const made = scaler.step(optimizer, gradients(scaler.scale(loss), [a, b]));
        scaler.update();
        return made;
      });
      expect(outcome).toBe("forwardOverflow");
    });

    it("gradients by other means are of the losses that are named with them", async () => {
      const [w, scaler] = [weight(), new GradScaler({ initialScale: 4 })];
      const optimizer = new optim.SGD([w]);
      const outcomeOf = (isNamed: boolean) =>
        run(() => {
          const loss = scaler.scale(w.read().mul(INFINITE).sum());
          const entries = [[w, tensor([1, Number.NaN])]] as const;
          const grads = scaler.scaledGradients(entries, undefined, isNamed ? loss : []);
          const made = scaler.step(optimizer, grads);
          scaler.update();
          return made;
        });
      expect([await outcomeOf(true), await outcomeOf(false)]).toEqual(["forwardOverflow", "gradientOverflow"]);
    });

    it("a plain loss of a scaler that does not scale counts, too", async () => {
      const [w, scaler] = [weight(), new GradScaler({ enabled: false })];
      const optimizer = new optim.SGD([w]);
      const outcome = await run(() => {
        const made = scaler.step(optimizer, gradients(w.read().mul(INFINITE).sum(), [w]));
        scaler.update();
        return made;
      });
      expect(outcome).toBe("forwardOverflow");
    });

    it("zeros are no underflow where the loss of this step is 0, whatever another one is", async () => {
      for (const [factor, want] of [
        [0, "applied"],
        [1, "underflow"],
      ] as const) {
        const [w, scaler] = [weight(), new GradScaler()];
        const optimizer = new optim.SGD([w]);
        const outcome = await run(() => {
          scaler.scale(w.read().sum());
          const loss = w.read().detach().mul(factor).sum().add(w.read().mul(0).sum());
          const grads = gradients(scaler.scale(loss), [w]);
          const made = scaler.step(optimizer, grads, { skipZeroGradients: true });
          scaler.update();
          return made;
        });
        expect(outcome).toBe(want);
      }
    });

    it("an accumulator asks the losses whose gradients it was given", async () => {
      for (const [bad, want] of [
        [1, "applied"],
        [INFINITE, "forwardOverflow"],
      ] as const) {
        const [w, scaler] = [weight(), new GradScaler({ initialScale: 4 })];
        const optimizer = new optim.SGD([w]);
        const sums = new optim.GradientAccumulator<"scaled">([w], { scaler });
        const add = (factor: number): void => {
          scaler.scale(w.read().mul(INFINITE).sum());
          sums.add(gradients(scaler.scale(w.read().mul(factor).sum()), [w]));
        };
        for (const factor of [1, bad, 1]) {
          if (isCompiled) await compile(() => add(factor))();
          else add(factor);
        }
        const outcome = await run(() => {
          const made = scaler.step(optimizer, sums.take());
          scaler.update();
          return made;
        });
        expect(outcome).toBe(want);
      }
    });
  });

  it("of a sum, the losses that have to do with the optimizer's parameters", async () => {
    const [a, b, scaler] = [weight("a"), weight("b"), new GradScaler()];
    const optimizers = [a, b].map((v) => new optim.SGD([v]));
    const step = compile(() => {
      const losses = scaler.scale([a.read().mul(INFINITE).sum(), b.read().sum()]);
      const [first, second] = [gradients(losses[0], [a]), gradients(losses[1], [b])];
      const broken = mapGradients(second, (gradient) => gradient.div(0));
      const sum = scaler.unscale(addGradients(first, broken));
      const made = optimizers.map((optimizer) => scaler.step(optimizer, sum));
      scaler.update();
      return made;
    });
    expect(await Promise.all((await step()).map(skippedFor))).toEqual(["forwardOverflow", "gradientOverflow"]);
  });
});
