/** The training loop: its events, its ends, and what it leaves on the disk. */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { type ByteBatch, ByteBatches } from "../../src/data/index.ts";
import { type Tensor, useDevice } from "../../src/index.ts";
import { GPT } from "../../src/nn/gpt.ts";
import { readCheckpoint } from "../../src/train/checkpoint.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { decodeEvent, encodeEvent } from "../../src/train/jsonl.ts";
import type { LanguageModel } from "../../src/train/language.ts";
import { PRECISIONS } from "../../src/train/presets.ts";
import { CHECKPOINT_FILE, train } from "../../src/train/trainer.ts";
import { DEVICES } from "../support/devices.ts";
import {
  BATCH,
  CONTEXT,
  checkpointOf,
  DIMENSIONS,
  eventsOf,
  ofType,
  refusal,
  temporaryFolder,
  tinyData,
  tinyModel,
  tinyRun,
} from "./tiny.ts";

beforeAll(() => {
  useDevice(DEVICES.includes("cpu") ? "cpu" : "reference");
});

const trail = (events: readonly TrainEvent[]): string[] => events.map(({ type, step }) => `${type} ${step}`);
const stepIn = async (folder: string): Promise<number> => (await readCheckpoint(join(folder, CHECKPOINT_FILE))).step;

describe("events", () => {
  it("come in order, with the fields of their types", async () => {
    const out = temporaryFolder();
    const events = await eventsOf(tinyRun({ out, checkpointEvery: 4, settings: DIMENSIONS }));
    expect(trail(events).join(", ")).toBe(
      "started 0, checkpointed 0, step 1, step 2, step 3, evaluated 3, step 4, checkpointed 4, step 5, step 6, evaluated 6, checkpointed 6, done 6",
    );
    const [started] = events;
    expect(started).toMatchObject({
      type: "started",
      model: { ...DIMENSIONS, parameters: tinyModel().parameterCount },
      precision: "fp32",
      seed: 0,
      steps: 6,
      batch: BATCH,
      context: CONTEXT,
      data: { name: "fox", sha256: "00" },
    });
    for (const event of events) expect(decodeEvent(encodeEvent(event))).toEqual(event);
    for (const { loss, learningRate, gradientNorm, lossScale, elapsedMs, tokensPerSecond } of ofType(events, "step")) {
      expect(lossScale).toBe(1);
      for (const number of [loss, learningRate, gradientNorm, tokensPerSecond]) expect(number).toBeGreaterThan(0);
      expect(elapsedMs).toBeGreaterThanOrEqual(0);
    }
    for (const { heldOutLoss, bitsPerByte } of ofType(events, "evaluated"))
      expect((bitsPerByte ?? Number.NaN) * Math.LN2).toBeCloseTo(heldOutLoss, 12);
    expect(events.at(-1)).toMatchObject({
      skippedSteps: 0,
      reason: "finished",
      loss: ofType(events, "step").at(-1)?.loss,
    });
  });

  it("need neither a folder nor held-out text", async () => {
    const { evaluation: _, ...data } = tinyData();
    const events = await eventsOf(tinyRun({ steps: 2, data }));
    expect(trail(events)).toEqual(["started 0", "step 1", "step 2", "done 2"]);
    expect(events.at(-1)).toMatchObject({ heldOutLoss: null });
  });

  it("of a finished run that is resumed are a warning and its held-out loss", async () => {
    const out = temporaryFolder();
    const first = await eventsOf(tinyRun({ out, steps: 2 }));
    const before = checkpointOf(out);
    const events = await eventsOf(tinyRun({ out, steps: 2, resume: true }));
    expect(trail(events)).toEqual(["started 2", "warning 2", "evaluated 2", "done 2"]);
    expect(ofType(events, "warning")[0]?.code).toBe("run.complete");
    expect(ofType(events, "evaluated")[0]?.heldOutLoss).toBe(ofType(first, "evaluated").at(-1)?.heldOutLoss);
    expect(checkpointOf(out)).toBe(before);
  });
});

describe("precisions", () => {
  it("reach the same held-out loss within 2 %", async () => {
    const steps = 120;
    const losses: number[] = [];
    for (const precision of PRECISIONS) {
      const events = await eventsOf(tinyRun({ precision, steps, evaluateEvery: steps }));
      losses.push(ofType(events, "evaluated").at(-1)?.heldOutLoss ?? Number.NaN);
    }
    const [fp32 = Number.NaN] = losses;
    // Uniform guesses cost ln 256 = 5.5 nats.
    expect(fp32).toBeLessThan(2.5);
    for (const loss of losses) expect(Math.abs(loss / fp32 - 1)).toBeLessThan(0.02);
  }, 120_000);

  it.each(PRECISIONS)("are metered in %s without a changed bit", async (precision) => {
    const [plain, metered] = [temporaryFolder(), temporaryFolder()];
    const options = { precision, steps: 5 } as const;
    await eventsOf(tinyRun({ ...options, out: plain }));
    const events = await eventsOf(tinyRun({ ...options, out: metered, meterEvery: 2 }));
    const reports = ofType(events, "metered");
    expect(reports.map(({ step }) => step)).toEqual([2, 4]);
    const names = [...tinyModel().namedParameters().keys()];
    for (const { gradients } of reports) {
      expect(gradients.map(({ name }) => name)).toEqual(names);
      for (const { zeroShare, lostUpdateShare = Number.NaN } of gradients) {
        expect(zeroShare).toBeLessThanOrEqual(1);
        expect(lostUpdateShare).toBeLessThanOrEqual(1);
      }
      // At this rate most updates are below half a spacing of bfloat16 somewhere, and not everywhere.
      expect(gradients.some(({ lostUpdateShare = 0 }) => lostUpdateShare > 0 && lostUpdateShare < 1)).toBe(true);
    }
    expect(checkpointOf(metered)).toBe(checkpointOf(plain));
  });

  it("try a batch again at the halved scale, and resume to the same bits", async () => {
    const options = { precision: "fp16-mixed", lossScale: { initialScale: 2 ** 24 }, steps: 3, retries: 30 } as const;
    const [whole, halves] = [temporaryFolder(), temporaryFolder()];
    const events = await eventsOf(tinyRun({ ...options, out: whole }));
    const skipped = ofType(events, "skipped");
    expect(skipped.filter(({ step }) => step === 1).length).toBeGreaterThan(1);
    skipped.forEach((event, i) => {
      expect(event).toMatchObject({ retried: true, lossScaleBefore: 2 ** (24 - i) });
    });
    const steps = ofType(events, "step");
    expect(steps.map(({ step, skippedSteps }) => [step, skippedSteps])).toEqual([1, 2, 3].map((step) => [step, 0]));
    // The first batch is not lost: its loss is that of a run which never overflowed.
    const { lossScale: _, ...calm } = options;
    expect(steps[0]?.loss).toBe(ofType(await eventsOf(tinyRun(calm)), "step")[0]?.loss);
    await eventsOf(tinyRun({ ...options, out: halves }), 1);
    await eventsOf(tinyRun({ ...options, out: halves, resume: true }));
    expect(checkpointOf(halves)).toBe(checkpointOf(whole));
  });

  it("give up a batch after so many retries, and skip a norm above its limit", async () => {
    const lossScale = { initialScale: 2 ** 24 };
    const events = await eventsOf(tinyRun({ precision: "fp16-mixed", lossScale, steps: 2, retries: 1 }));
    const first = ofType(events, "skipped").filter(({ step }) => step === 1);
    expect(first.map(({ retried }) => retried ?? false)).toEqual([true, false]);
    expect(ofType(events, "step")[0]).toMatchObject({ step: 1, skippedSteps: 1 });
    const huge = await eventsOf(tinyRun({ steps: 2, skipNormAbove: 1e-6, retries: 3 }));
    expect(ofType(huge, "skipped").map(({ reason }) => reason)).toEqual(["normAboveLimit", "normAboveLimit"]);
    expect(ofType(huge, "warning").map(({ code }) => code)).toContain("gradient.norm");
  });

  it("recover from an overflow of float16 by halving the scale", async () => {
    const lossScale = { initialScale: 2 ** 24 };
    const events = await eventsOf(tinyRun({ precision: "fp16-mixed", steps: 20, lossScale }));
    const skipped = ofType(events, "skipped");
    expect(skipped.length).toBeGreaterThan(1);
    expect(skipped.length).toBeLessThan(10);
    skipped.forEach((event, i) => {
      expect(event).toMatchObject({
        step: i + 1,
        reason: "gradientOverflow",
        lossScaleBefore: 2 ** (24 - i),
        lossScaleAfter: 2 ** (23 - i),
      });
      expect(event.parameters.length).toBeGreaterThan(0);
    });
    const steps = ofType(events, "step");
    expect(steps.at(-1)).toMatchObject({ skippedSteps: skipped.length, lossScale: 2 ** (24 - skipped.length) });
    // A skipped step does not move the schedule: the first applied one has the rate of the first skipped one.
    expect(steps[skipped.length]?.learningRate).toBe(steps[0]?.learningRate);
    expect(steps.at(-1)?.loss).toBeLessThan((steps[0]?.loss ?? 0) - 0.5);
  });
});

describe("ends", () => {
  it("by the consumer, with a checkpoint of the last step", async () => {
    const out = temporaryFolder();
    const events = await eventsOf(tinyRun({ out, evaluateEvery: 6 }), 4);
    expect(trail(events).at(-1)).toBe("step 4");
    expect(await stepIn(out)).toBe(4);
  });

  it("by the signal, with a checkpoint and a done event", async () => {
    const out = temporaryFolder();
    const stop = new AbortController();
    const events: TrainEvent[] = [];
    for await (const event of train(tinyRun({ out, signal: stop.signal, evaluateEvery: 2 }))) {
      events.push(event);
      if (event.type === "step" && event.step === 2) stop.abort();
    }
    expect(trail(events).slice(-3)).toEqual(["step 2", "checkpointed 2", "done 2"]);
    expect(events.at(-1)).toMatchObject({ reason: "interrupted", heldOutLoss: null });
    expect(await stepIn(out)).toBe(2);
  });

  it("before the first step, with a checkpoint of step 0", async () => {
    const out = temporaryFolder();
    const events = await eventsOf(tinyRun({ out, signal: AbortSignal.abort() }));
    expect(trail(events)).toEqual(["started 0", "checkpointed 0", "done 0"]);
    expect(events.at(-1)).toMatchObject({ reason: "interrupted", loss: null });
    await eventsOf(tinyRun({ out, resume: true }));
    const whole = temporaryFolder();
    await eventsOf(tinyRun({ out: whole }));
    expect(checkpointOf(out)).toBe(checkpointOf(whole));
  });

  it("by an error, with the last good checkpoint untouched", async () => {
    /** At step 4 a token comes that the vocabulary does not have. */
    class Faulty extends ByteBatches {
      override batch(index: number): ByteBatch {
        const batch = super.batch(index);
        return index === 3 ? { ...batch, tokens: batch.tokens.map(() => 300) } : batch;
      }
    }
    const [out, whole] = [temporaryFolder(), temporaryFolder()];
    const data = tinyData((bytes) => new Faulty(bytes, { batch: BATCH, context: CONTEXT }));
    const error = await refusal(eventsOf(tinyRun({ out, data, checkpointEvery: 2, evaluateEvery: 6 })));
    expect(error.code).toBe("index.outOfRange");
    expect(await stepIn(out)).toBe(2);
    await eventsOf(tinyRun({ out, resume: true }));
    await eventsOf(tinyRun({ out: whole }));
    expect(checkpointOf(out)).toBe(checkpointOf(whole));
  });
});

/** Multiplies the logits, so that the forward pass overflows in every precision. */
class Exploding extends GPT {
  override forward(tokens: Tensor): Tensor {
    return super.forward(tokens).cast("float32").mul(1e30).mul(1e30);
  }
}

/** Adds 0 with an infinite slope, so that gradients are never finite and the loss always is. */
class Steep extends GPT {
  override forward(tokens: Tensor): Tensor {
    const logits = super.forward(tokens).cast("float32");
    return logits.add(logits.mul(0).sqrt());
  }
}

const warningsOf = (events: readonly TrainEvent[]): string[] =>
  ofType(events, "warning").map(({ code, step }) => `${code} ${step}`);

/** The events until the run failed, and the error. */
async function failing(
  model: LanguageModel,
  precision: (typeof PRECISIONS)[number],
  lossScale?: { initialScale: number },
) {
  const out = temporaryFolder();
  const events: TrainEvent[] = [];
  const options = tinyRun({ model, precision, out, steps: 60, evaluateEvery: 60, ...(lossScale && { lossScale }) });
  const error = await refusal(
    (async () => {
      for await (const event of train(options)) events.push(event);
    })(),
  );
  return { error, events, savedStep: await stepIn(out) };
}

describe("a run that makes no progress", () => {
  it.each(PRECISIONS)("ends after 20 losses in a row that are not finite (%s)", async (precision) => {
    const { error, events, savedStep } = await failing(new Exploding(DIMENSIONS), precision);
    expect(error.code).toBe("run.stalled");
    expect(error.message).toMatch(/^step 20: .*the loss is not finite.*; start another run: use a? ?/);
    expect(ofType(events, "skipped").map(({ reason }) => reason)).toEqual(Array(20).fill("forwardOverflow"));
    expect(ofType(events, "step").at(-1)).toMatchObject({ skippedSteps: 20 });
    expect(warningsOf(events)).toEqual(["loss.notFinite 1"]);
    expect(savedStep).toBe(0);
  });

  it.each([
    "fp32",
    "bf16-mixed",
  ] as const)("ends after 20 overflows of gradients without scaling (%s)", async (precision) => {
    const { error, events } = await failing(new Steep(DIMENSIONS), precision);
    expect(error.code).toBe("run.stalled");
    expect(error.message).toContain("the gradients of tokenEmbedding.weight and");
    expect(warningsOf(events)).toEqual(["gradient.notFinite 1"]);
  });

  it("ends 20 steps after the loss scale reached its floor", async () => {
    const { error, events } = await failing(new Steep(DIMENSIONS), "fp16-mixed", { initialScale: 2 ** -11 });
    expect(error.code).toBe("run.stalled");
    // 2^-11, 2^-12, 2^-13 are halved; the fourth step is the first at 2^-14.
    expect(warningsOf(events)).toEqual(["scale.floor 4", "run.stalled 20"]);
    expect(ofType(events, "step")).toHaveLength(23);
    expect(ofType(events, "warning")[1]?.message).toContain("bf16-mixed");
  });
});

describe("a folder", () => {
  it("with a checkpoint is refused without resume, one without is refused with it", async () => {
    const out = temporaryFolder();
    const none = await refusal(eventsOf(tinyRun({ out, resume: true })));
    expect(none).toMatchObject({ code: "file.missing" });
    await eventsOf(tinyRun({ out, steps: 1 }));
    const before = checkpointOf(out);
    expect(await refusal(eventsOf(tinyRun({ out, steps: 1 })))).toMatchObject({ code: "option.invalid" });
    expect(await refusal(eventsOf(tinyRun({ resume: true })))).toMatchObject({ code: "option.invalid" });
    expect(checkpointOf(out)).toBe(before);
  });

  it("is made, with its parents", async () => {
    const out = join(temporaryFolder(), "a", "b");
    await eventsOf(tinyRun({ out, steps: 1 }));
    expect(readdirSync(out)).toEqual([CHECKPOINT_FILE]);
  });

  it("loses what a killed process left half written, and nothing else", async () => {
    const out = temporaryFolder();
    for (const name of [".binade-123-0123456789ab.tmp", ".binade-x.tmp", "notes.tmp"])
      writeFileSync(join(out, name), "");
    await eventsOf(tinyRun({ out, steps: 1 }));
    expect(readdirSync(out).sort()).toEqual([".binade-x.tmp", CHECKPOINT_FILE, "notes.tmp"]);
  });

  it("that cannot be made is one sentence", async () => {
    const file = join(temporaryFolder(), "file");
    writeFileSync(file, "");
    for (const out of [file, join(file, "inside")]) {
      const error = await refusal(eventsOf(tinyRun({ out })));
      expect(error.code).toBe("file.write");
      expect(error.message).toContain(out);
    }
    expect(existsSync(file)).toBe(true);
  });
});

describe("options", () => {
  it.each([
    [{ steps: 0 }, "value.range"],
    [{ steps: 1.5 }, "value.range"],
    [{ evaluateEvery: 0 }, "value.range"],
    [{ meterEvery: 0 }, "value.range"],
    [{ checkpointEvery: -1 }, "value.range"],
    [{ learningRate: Number.NaN }, "value.range"],
    [{ weightDecay: -1 }, "value.range"],
    [{ clipNorm: 0 }, "value.range"],
    [{ warmupSteps: 6 }, "option.invalid"],
    [{ lossScale: { initialScale: 0 } }, "value.range"],
  ] as const)("%j: %s", async (options, code) => {
    expect((await refusal(eventsOf(tinyRun(options)))).code).toBe(code);
  });

  it("that differ from those of the run are named with both values", async () => {
    const out = temporaryFolder();
    await eventsOf(tinyRun({ out, precision: "bf16-mixed", settings: { width: 16 } }), 2);
    const before = checkpointOf(out);
    const now = tinyRun({ out, precision: "fp32", learningRate: 0.5, settings: { width: 32 }, resume: true });
    const { code, message } = await refusal(eventsOf(now));
    expect(code).toBe("checkpoint.mismatch");
    for (const part of [
      "width was 16 and is 32",
      "learningRate was 0.01 and is 0.5",
      'precision was "bf16-mixed" and is "fp32"',
    ]) {
      expect(message).toContain(part);
    }
    expect(checkpointOf(out)).toBe(before);
  });
});
