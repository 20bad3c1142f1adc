/** A run with 16-bit weights that became infinite says so: when a step is skipped for it, and with every evaluation. */
import { beforeAll, describe, expect, it } from "vitest";
import { useDevice } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { eventsOf, ofType, tinyModel, tinyRun } from "./tiny.ts";

const FASTEST = DEVICES.at(-1) ?? "reference";

const HUGE = 70000;

/** A parameter of the model becomes zeros, but for one element of 70000, which float16 does not hold. */
async function poison(model: ReturnType<typeof tinyModel>, name: string, at: number): Promise<void> {
  const parameter = model.namedParameters().get(name);
  if (parameter === undefined) throw new Error(`no parameter ${name}`);
  const values = new Float32Array(parameter.byteLength / 4).fill(0);
  values[at] = HUGE;
  await parameter.load(new Uint8Array(values.buffer));
}

/** A run whose last norm has a huge bias. */
async function run(precision: "fp16-mixed" | "bf16-mixed" | "fp32", more = {}) {
  const model = tinyModel();
  await poison(model, "finalNorm.bias", 0);
  return eventsOf(tinyRun({ model, precision, steps: 2, evaluateEvery: 1, ...more }));
}

describe("overflowed weights", () => {
  beforeAll(() => {
    useDevice(FASTEST);
  });

  it("are reported once, by name, with the step that they cost", async () => {
    const events = await run("fp16-mixed", { masterWeights: "none" });
    const [warning, ...others] = ofType(events, "warning").filter(({ code }) => code === "weight.overflow");
    expect(others).toEqual([]);
    expect(warning).toMatchObject({
      step: 1,
      message: expect.stringMatching(
        /^step 1: 1 weight of finalNorm.bias is infinite or NaN in 16 bits, .* bf16-mixed/,
      ),
    });
    const order = events.map(({ type }) => type);
    expect(order.indexOf("skipped")).toBeLessThan(order.indexOf("warning"));
  });

  it.each([
    ["bf16-mixed", { masterWeights: "none" }],
    ["fp16-mixed", {}],
    ["fp32", {}],
  ] as const)("are none in %s with %j", async (precision, more) => {
    const events = await run(precision, more);
    expect(ofType(events, "warning").filter(({ code }) => code === "weight.overflow")).toEqual([]);
  });

  it("are found with an evaluation where no step was skipped", async () => {
    const model = tinyModel();
    // Nothing that is read: the row of a byte that the text does not have.
    await poison(model, "tokenEmbedding.weight", 255 * 16);
    const events = await eventsOf(
      tinyRun({ model, precision: "fp16-mixed", masterWeights: "none", steps: 2, evaluateEvery: 2 }),
    );
    expect(ofType(events, "skipped")).toEqual([]);
    const [warning] = ofType(events, "warning").filter(({ code }) => code === "weight.overflow");
    expect(warning).toMatchObject({
      step: 2,
      message: expect.stringMatching(/1 weight of tokenEmbedding.weight is infinite/),
    });
  });
});
