/** A run is a pure function of its settings: stopped and resumed, or on any number of threads, the same bits. */
import { beforeAll, describe, expect, it } from "vitest";
import { ByteBatches } from "../../src/data/index.ts";
import { useDevice } from "../../src/index.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import type { LanguageData } from "../../src/train/language.ts";
import { PRECISIONS, type Precision } from "../../src/train/presets.ts";
import { Session } from "../../src/train/session.ts";
import type { TrainOptions } from "../../src/train/trainer.ts";
import { DEVICES } from "../support/devices.ts";
import { checkpointOf, eventsOf, ofType, type TinyOptions, temporaryFolder, tinyModel, tinyRun } from "./tiny.ts";

/** Dropout makes the position of the random stream matter. */
const run = (precision: Precision, out: string, more: TinyOptions = {}): TrainOptions =>
  tinyRun({ precision, out, model: tinyModel({ dropout: 0.25 }), ...more });

const lossesOf = (events: Awaited<ReturnType<typeof eventsOf>>): number[] =>
  ofType(events, "step").map(({ loss }) => loss);

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });
  /** The reference device is slow: it does everything only where there is no other. */
  const isSlow = device === "reference" && DEVICES.length > 1;
  const [steps, stops] = isSlow ? [3, [2]] : [6, [1, 3, 5]];
  const precisions: readonly Precision[] = isSlow ? ["fp16-mixed"] : PRECISIONS;

  it.each(precisions)("resumes %s to the same bits", async (precision) => {
    const whole = temporaryFolder();
    const losses = lossesOf(await eventsOf(run(precision, whole, { steps })));
    expect(new Set(losses).size).toBe(steps);
    for (const stop of stops) {
      const halves = temporaryFolder();
      const before = lossesOf(await eventsOf(run(precision, halves, { steps }), stop));
      expect(before).toHaveLength(stop);
      const after = await eventsOf(run(precision, halves, { steps, resume: true }));
      expect([...before, ...lossesOf(after)]).toEqual(losses);
      expect(after[0]).toMatchObject({ type: "started", step: stop });
      expect(after.at(-1)).toMatchObject({ type: "done", step: steps, reason: "finished" });
      expect(checkpointOf(halves)).toBe(checkpointOf(whole));
    }
  });

  it.each([
    // Two steps are skipped, and then the scale grows after every clean step, into the next overflow.
    ["that counts clean steps", { initialScale: 2 ** 21, growthInterval: 1 }],
    ["that follows the distribution of gradients", { logMax: { initialScale: 2 ** 21, recoveryInterval: 1 } }],
  ])("resumes a run that skips steps to the same bits, with a scale %s", async (_, lossScale) => {
    const scalesOf = (events: readonly TrainEvent[]): number[] =>
      ofType(events, "step").map((event) => event.lossScale);
    const [whole, halves] = [temporaryFolder(), temporaryFolder()];
    const events = await eventsOf(run("fp16-mixed", whole, { lossScale }));
    expect(ofType(events, "skipped").length).toBeGreaterThan(1);
    expect(ofType(events, "skipped").length).toBeLessThan(5);
    const before = await eventsOf(run("fp16-mixed", halves, { lossScale }), 2);
    const after = await eventsOf(run("fp16-mixed", halves, { lossScale, resume: true }));
    expect([...scalesOf(before), ...scalesOf(after)]).toEqual(scalesOf(events));
    expect(checkpointOf(halves)).toBe(checkpointOf(whole));
    expect(after.at(-1)).toMatchObject({ skippedSteps: ofType(events, "skipped").length });
  });

  it("gives the same bits twice, and others for another seed", async () => {
    const [a, b, c] = [temporaryFolder(), temporaryFolder(), temporaryFolder()];
    await eventsOf(run("bf16-mixed", a, { steps }));
    await eventsOf(run("bf16-mixed", b, { steps }));
    await eventsOf(run("bf16-mixed", c, { steps, model: tinyModel({ dropout: 0.25, seed: 1 }) }));
    expect(checkpointOf(a)).toBe(checkpointOf(b));
    expect(checkpointOf(a)).not.toBe(checkpointOf(c));
  });
});

/** On the fastest device: test/optim/forms.test.ts has every form on every device. */
describe.each(DEVICES.slice(-1))("forms of weights and state on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    ["bf16-mixed", "split", "int8-blockwise"],
    ["bf16-mixed", "stochastic", "bfloat16"],
    ["fp16-mixed", "kahan", "float32"],
    ["bf16-mixed", "none", "float32"],
    ["fp32", "float32", "int8-blockwise"],
  ] as const)("resumes %s with %s weights and %s state to the same bits", async (precision, masterWeights, stateDType) => {
    const [whole, halves] = [temporaryFolder(), temporaryFolder()];
    const options = { steps: 3, masterWeights, stateDType };
    const losses = lossesOf(await eventsOf(run(precision, whole, options)));
    const before = lossesOf(await eventsOf(run(precision, halves, options), 2));
    const after = lossesOf(await eventsOf(run(precision, halves, { ...options, resume: true })));
    expect([...before, ...after]).toEqual(losses);
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(checkpointOf(halves)).toBe(checkpointOf(whole));
  });

  it("refuses forms of 16-bit parameters without any, and a run that was kept otherwise", async () => {
    expect(() => new Session(run("fp32", "").task, { ...run("fp32", ""), masterWeights: "split" })).toThrow(
      expect.objectContaining({ code: "option.invalid" }),
    );
    const folder = temporaryFolder();
    await eventsOf(run("bf16-mixed", folder, { steps: 2, masterWeights: "split" }), 1);
    const other = run("bf16-mixed", folder, { steps: 2, masterWeights: "kahan", resume: true });
    await expect(eventsOf(other)).rejects.toMatchObject({ code: "checkpoint.mismatch" });
  });
});

describe.runIf(DEVICES.includes("cpu"))("threads", () => {
  /** Large enough that the work is divided. */
  const size = { context: 32, width: 64 };
  const data = (): LanguageData => {
    const bytes = Uint8Array.from({ length: 4000 }, (_, i) => (i * i) >> 3);
    const training = new ByteBatches(bytes, { batch: 8, context: size.context });
    return { name: "squares", byteLength: bytes.length, sha256: "00", training };
  };

  it.each(PRECISIONS)("do not change the bits of %s", async (precision) => {
    const checkpoints: string[] = [];
    for (const threads of [1, 2, 3]) {
      useDevice("cpu", { threads });
      const out = temporaryFolder();
      const model = tinyModel({ ...size, dropout: 0.25 });
      const events = await eventsOf(run(precision, out, { model, data: data(), steps: 4 }));
      expect(events[0]).toMatchObject({ type: "started", threads });
      checkpoints.push(checkpointOf(out));
    }
    expect(new Set(checkpoints).size).toBe(1);
  });
});
