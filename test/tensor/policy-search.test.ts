/** searchRules finds the op that costs the accuracy, in its module, and nothing that can be left out. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  type AutocastRule,
  autocast,
  crossEntropy,
  dryRun,
  gradients,
  nn,
  searchRules,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

/** The head subtracts two products that are nearly equal: what they are rounded to decides the result. */
class Cancelling extends nn.Module {
  readonly body = new nn.Linear(3, 4, { seed: 1 });
  readonly head = new nn.Linear(4, 2, { seed: 2 });
  readonly other = new nn.Linear(4, 2, { seed: 3 });

  forward(x: Tensor): Tensor {
    const hidden = this.body.forward(x).relu();
    const difference = this.head.forward(hidden.add(100)).sub(this.head.forward(hidden.add(100.5)));
    return difference.add(this.other.forward(hidden).mul(0.01));
  }
}

const x = (): Tensor => tensor([0.3, -1, 2, 0.7, 0.1, -0.4], { shape: [2, 3] });

describe.each(DEVICES)("searchRules on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  const model = (): Cancelling => new Cancelling();
  const step =
    (cancelling: Cancelling, rules: readonly AutocastRule[] = []) =>
    (input: Tensor) =>
      autocast("bfloat16", () => cancelling.forward(input), { rules });

  it("needs no rule where the tolerance is met", async () => {
    const found = await searchRules(step(model()), [x()], { tolerance: 1e6 });
    expect(found).toMatchObject({ rules: [], isMet: true, replays: 2 });
  });

  it("names the op in the one module that matters", async () => {
    const cancelling = model();
    const found = await searchRules(step(cancelling), [x()], { tolerance: 0.01 });
    expect(found.relativeErrorWithout).toBeGreaterThan(0.05);
    expect(found).toMatchObject({ isMet: true, rules: [{ op: "linear", autocast: "wide", module: ["head"] }] });
    const { outputs } = await dryRun(step(cancelling, found.rules), x());
    expect(outputs[0]?.relativeError).toBe(found.relativeError);
  });

  it.each([
    Number.NaN,
    Number.POSITIVE_INFINITY,
  ])("refuses a batch on which float32 gives no numbers: %d", async (value) => {
    const model = new nn.Linear(3, 2, { seed: 1 });
    const step = (x: Tensor): Tensor => {
      const loss = autocast("bfloat16", () => model.forward(x))
        .square()
        .sum();
      gradients(loss, model);
      return loss;
    };
    const batch = tensor([value, 1, 1], { shape: [1, 3] });
    await expect(searchRules(step, [batch], { tolerance: 0.01 })).rejects.toMatchObject({
      code: "value.range",
      message: expect.stringMatching(/^searchRules: result.*: expected numbers in float32/),
    });
    const { outputs } = await dryRun(step, batch);
    expect(outputs).toEqual([{ name: "result", relativeError: Number.POSITIVE_INFINITY }]);
  });

  it("says so if no rules are enough", async () => {
    const coarse = (input: Tensor) => autocast("bfloat16", () => model().body.forward(input)).cast("bfloat16");
    const found = await searchRules(coarse, [x()], { tolerance: 1e-9 });
    expect(found.isMet).toBe(true);
    const impossible = (input: Tensor) =>
      autocast("bfloat16", () => model().body.withPolicy("mixed_bfloat16").forward(input));
    expect(await searchRules(impossible, [x()], { tolerance: 1e-6 })).toMatchObject({ isMet: false });
  });
});

describe("searchRules", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it("looks at gradients too, and stops when the replays run out", async () => {
    const gpt = new nn.GPT({ vocabulary: 7, context: 4, layers: 1, heads: 1, width: 8, seed: 4 });
    const tokens = tensor(Int32Array.of(1, 2, 3, 4), { shape: [1, 4] });
    const step = (input: Tensor) => {
      const loss = autocast("bfloat16", () => crossEntropy(gpt.forward(input), input));
      gradients(loss, gpt);
      return loss;
    };
    const found = await searchRules(step, [tokens], { tolerance: 1e-7 });
    expect(found).toMatchObject({ isMet: true });
    expect(found.relativeErrorWithout).toBeGreaterThan(1e-3);
    expect(new Set(found.rules.map(({ op }) => op))).toEqual(
      new Set(["linear", "scaledDotProductAttention", "layerNorm"]),
    );
    expect(await searchRules(step, [tokens], { tolerance: 1e-7, maxReplays: 3 })).toMatchObject({ replays: 3 });
  });

  it.each([
    [{ tolerance: 0 }, "value.range"],
    [{ tolerance: Number.NaN }, "value.range"],
    [{ tolerance: 0.1, maxReplays: 1 }, "value.range"],
    [{ tolerance: 0.1, replays: 3 }, "option.unknown"],
  ])("refuses %j", async (options, code) => {
    await expect(searchRules((a: Tensor) => a, [x()], options)).rejects.toThrow(expect.objectContaining({ code }));
  });
});
