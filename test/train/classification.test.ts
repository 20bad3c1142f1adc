/** Training on pictures: scores, resuming to the same bits with augmentation and running statistics, and what is refused. */
import { beforeAll, describe, expect, it } from "vitest";
import { channelStatistics, generatedShapes, type Pictures } from "../../src/data/index.ts";
import { BinadeError, nn, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { type ClassificationTaskOptions, classificationTask } from "../../src/train/classification.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { digestOf } from "../../src/train/pictures.ts";
import { PRECISIONS } from "../../src/train/presets.ts";
import { type TrainOptions, train } from "../../src/train/trainer.ts";
import { DEVICES } from "../support/devices.ts";
import { checkpointOf, eventsOf, ofType, refusal, temporaryFolder } from "./tiny.ts";

beforeAll(() => {
  useDevice(DEVICES.includes("cpu") ? "cpu" : "reference");
});

/** Every fourth pixel of generated shapes: small enough for any device. */
function shrunk({ pixels, labels, classes }: Pictures): Pictures {
  const small = Uint8Array.from({ length: labels.length * 192 }, (_, i) => {
    const [picture, channel, y, x] = [Math.floor(i / 192), Math.floor(i / 64) % 3, Math.floor(i / 8) % 8, i % 8];
    return pixels[((picture * 3 + channel) * 32 + 4 * y) * 32 + 4 * x] ?? 0;
  });
  return { pixels: small, labels, channels: 3, height: 8, width: 8, classes };
}

const whole = generatedShapes({ training: 40, heldOut: 30 });
const set = { name: whole.name, training: shrunk(whole.training), heldOut: shrunk(whole.heldOut) };
const data = { ...set, byteLength: 70 * 192, sha256: digestOf(set) };

function smallRun(options: Partial<TrainOptions> & Partial<ClassificationTaskOptions> = {}): TrainOptions {
  const { model = new nn.ResNet({ depth: 8, width: 4, seed: 1 }), data: pictures = data, ...others } = options;
  const { seed = 3, batch = 4, crop = 1, flip = true, settings = { kind: "resnet" }, ...rest } = others;
  const task = classificationTask({ model, data: pictures, batch, seed, crop, flip, settings });
  return { task, precision: "fp32", steps: 4, learningRate: 0.05, evaluateEvery: 2, ...rest };
}

describe("events of a classifier", () => {
  it("have pictures, classes, accuracy and a confusion matrix", async () => {
    const events = await eventsOf(smallRun());
    expect(events[0]).toMatchObject({
      type: "started",
      batch: 4,
      classes: set.training.classes,
      model: { kind: "resnet", crop: 1, flip: true },
      data: { name: "generated shapes, seed 0", training: 40, heldOut: 30 },
    });
    expect(events[0]).not.toHaveProperty("context");
    for (const event of ofType(events, "step")) {
      expect(event.picturesPerSecond).toBeGreaterThan(0);
      expect(event).not.toHaveProperty("tokensPerSecond");
    }
    const evaluated = ofType(events, "evaluated");
    expect(evaluated.map(({ step }) => step)).toEqual([2, 4]);
    for (const { confusion = [], accuracy, heldOutLoss } of evaluated) {
      // Three of each class are held out.
      expect(confusion.map((row) => row.reduce((a, b) => a + b))).toEqual(new Array(10).fill(3));
      expect(accuracy).toBe(confusion.reduce((sum, row, i) => sum + (row[i] ?? 0), 0) / 30);
      expect(heldOutLoss).toBeGreaterThan(0);
    }
    const { heldOutLoss, accuracy, confusion } = evaluated[1] ?? {};
    expect(events.at(-1)).toMatchObject({ type: "done", heldOutLoss, accuracy, confusion });
  });

  it("score a model that knows the answers", async () => {
    // The first pixel of the picture says the class.
    const told = (pictures: Pictures): Pictures => {
      const pixels = pictures.pixels.slice();
      pictures.labels.forEach((label, i) => {
        pixels[i * 192] = 20 * label;
      });
      return { ...pictures, pixels };
    };
    class Oracle extends nn.Module {
      readonly scale = new nn.Linear(1, 1);
      forward(x: Tensor): Tensor {
        const first = x.reshape([-1, 192]).slice(1, 0, 1);
        const { mean, deviation } = this.statistics;
        const shown = first
          .mul(255 * deviation)
          .add(255 * mean)
          .div(20);
        const classes = tensor(Float32Array.from({ length: 10 }, (_, i) => i));
        return shown.sub(classes).square().neg().mul(100).add(this.scale.forward(first).mul(0));
      }
      statistics = { mean: 0, deviation: 1 };
    }
    const model = new Oracle();
    const answers = { ...data, training: told(set.training), heldOut: told(set.heldOut) };
    const { mean, deviation } = channelStatistics(answers.training);
    model.statistics = { mean: mean[0] ?? 0, deviation: deviation[0] ?? 1 };
    const events = await eventsOf(smallRun({ model, data: answers, steps: 1, evaluateEvery: 1, crop: 0, flip: false }));
    const [evaluated] = ofType(events, "evaluated");
    expect(evaluated?.accuracy).toBe(1);
    expect(evaluated?.confusion?.map((row, i) => row[i])).toEqual(new Array(10).fill(3));
    expect(evaluated?.heldOutLoss).toBeLessThan(0.01);
  });
});

describe("a run on pictures", () => {
  it.each(
    PRECISIONS,
  )("resumes in %s to the same bits: order, crops, mirrors, running statistics", async (precision) => {
    const out = temporaryFolder();
    const events = await eventsOf(smallRun({ precision, out }));
    for (const stop of [1, 3]) {
      const halves = temporaryFolder();
      await eventsOf(smallRun({ precision, out: halves }), stop);
      const after = await eventsOf(smallRun({ precision, out: halves, resume: true }));
      expect(checkpointOf(halves)).toBe(checkpointOf(out));
      expect(ofType(after, "evaluated").at(-1)).toMatchObject({
        confusion: ofType(events, "evaluated").at(-1)?.confusion,
      });
    }
  });

  it("depends on the seed and on the augmentation", async () => {
    const bytes: string[] = [];
    for (const change of [{}, { seed: 4 }, { crop: 0 }, { flip: false }]) {
      const out = temporaryFolder();
      await eventsOf(smallRun({ ...change, out, steps: 2 }));
      bytes.push(checkpointOf(out));
    }
    expect(new Set(bytes).size).toBe(4);
  });

  it("prepares the next batch while a step runs, and none twice", async () => {
    const { task, ...options } = smallRun({ steps: 4 });
    const made: number[] = [];
    const watched = {
      ...task,
      batch: (index: number) => {
        made.push(index);
        return task.batch(index);
      },
    };
    const seen: string[] = [];
    for await (const { type, step } of train({ ...options, task: watched })) {
      // The memory plan looks at a batch before the run begins.
      if (type === "started") made.length = 0;
      if (type === "step") seen.push(`${step}: ${made}`);
    }
    expect(seen).toEqual(["1: 0,1", "2: 0,1,2", "3: 0,1,2,3", "4: 0,1,2,3"]);
  });

  it("meets an error of the next batch at the next step, not before", async () => {
    const { task, ...options } = smallRun({ steps: 4 });
    const torn = {
      ...task,
      batch: (index: number) => {
        if (index === 2) throw new BinadeError("data.corrupt", "x: torn");
        return task.batch(index);
      },
    };
    const events: TrainEvent[] = [];
    const run = async (): Promise<void> => {
      for await (const event of train({ ...options, task: torn })) events.push(event);
    };
    expect((await refusal(run())).code).toBe("data.corrupt");
    expect(ofType(events, "step").map(({ step }) => step)).toEqual([1, 2]);
  });

  it("refuses held-out pictures of another size", () => {
    const heldOut = { ...set.heldOut, height: 4, width: 16 };
    expect(() => smallRun({ data: { ...data, heldOut } })).toThrow(expect.objectContaining({ code: "data.mixed" }));
  });
});
