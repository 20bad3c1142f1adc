/**
 * Does the precision change what a model learns? ResNet-20 on the generated shapes, each seed in each precision:
 * node bench/accuracy.mjs [--precisions fp32,bf16-mixed,fp16-mixed] [--seeds 0,1,2] [--steps 2400] [--rate 0.1]
 *   [--noise 8] [--least-contrast 0] [--pictures 100000] [--threads 2] [--out accuracy.json] [--checkpoints folder]
 * Each picture is met once or twice, so that none is learnt by heart, and some shapes are so faint that nobody is right about all.
 * Results: docs/mixed-precision.md. A run takes 8 to 12 minutes on one thread of an AVX2 processor.
 * Accuracies are over the 10 000 held-out pictures, after the last step. With --out, runs that the file has are not repeated;
 * with --checkpoints, one that was cut short goes on from its last hundredth step, and its seconds count from there.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: {
    precisions: { type: "string", default: "fp32,bf16-mixed,fp16-mixed" },
    seeds: { type: "string", default: "0,1,2" },
    steps: { type: "string", default: "2400" },
    rate: { type: "string", default: "0.1" },
    noise: { type: "string", default: "8" },
    "least-contrast": { type: "string", default: "0" },
    pictures: { type: "string", default: "100000" },
    threads: { type: "string", default: "2" },
    out: { type: "string" },
    checkpoints: { type: "string" },
  },
});
const { generatedShapes } = await import("../dist/data/index.js");
const { nn, useDevice } = await import("../dist/index.js");
const { CHECKPOINT_FILE, classificationTask, RESNET_PRESETS, train } = await import("../dist/train/index.js");

const { depth, batch } = RESNET_PRESETS.s;
const [steps, learningRate] = [Number(flags.steps), Number(flags.rate)];
const device = useDevice("cpu", { threads: Number(flags.threads) });
const set = generatedShapes({
  training: Number(flags.pictures),
  noise: Number(flags.noise),
  leastContrast: Number(flags["least-contrast"]),
});
const data = { ...set, name: `${flags.pictures} ${set.name}`, byteLength: 0, sha256: "" };

/** One training from the first step to the last. */
async function run(precision, seed) {
  const model = new nn.ResNet({ depth, classes: data.training.classes.length, seed });
  const task = classificationTask({ model, data, batch, seed, crop: 4, flip: true });
  const folder = flags.checkpoints && join(flags.checkpoints, `${precision}-${seed}`);
  const saved = folder && { out: folder, resume: existsSync(join(folder, CHECKPOINT_FILE)), checkpointEvery: 100 };
  const beganMs = performance.now();
  for await (const event of train({ task, precision, steps, learningRate, seed, evaluateEvery: steps, ...saved })) {
    if (event.type === "step" && event.step % 100 === 0)
      console.error(`${precision} seed ${seed}: step ${event.step}, loss ${event.loss.toFixed(3)}`);
    if (event.type !== "done") continue;
    const { accuracy, heldOutLoss, skippedSteps } = event;
    return {
      precision,
      seed,
      steps,
      learningRate,
      accuracy,
      heldOutLoss,
      skippedSteps,
      seconds: (performance.now() - beganMs) / 1000,
    };
  }
}

const results = flags.out !== undefined && existsSync(flags.out) ? JSON.parse(readFileSync(flags.out, "utf8")) : [];
const precisions = flags.precisions.split(",");
const seeds = flags.seeds.split(",").map(Number);
const isSame = (a, b) => ["data", "precision", "seed", "steps", "learningRate"].every((key) => a[key] === b[key]);
const wanted = (precision, seed) => ({ data: data.name, precision, seed, steps, learningRate });
// Seed by seed, so that a run that is cut short has compared something.
for (const seed of seeds) {
  for (const precision of precisions) {
    if (results.some((result) => isSame(result, wanted(precision, seed)))) continue;
    const result = { isa: device.backend.isa, data: data.name, ...(await run(precision, seed)) };
    results.push(result);
    console.log(
      `${precision.padEnd(12)} seed ${seed}  ${(100 * result.accuracy).toFixed(2)} %  ${result.seconds.toFixed(0)} s`,
    );
    if (flags.out !== undefined) writeFileSync(flags.out, `${JSON.stringify(results, null, 2)}\n`);
  }
}

const meanOf = (precision) => {
  const own = seeds.map((seed) => results.find((result) => isSame(result, wanted(precision, seed))));
  return own.reduce((sum, { accuracy }) => sum + accuracy, 0) / own.length;
};
const [first] = precisions;
console.log(`\n${data.name}, ${data.heldOut.labels.length} held out, ${steps} steps of ${batch}, seeds ${flags.seeds}`);
for (const precision of precisions) {
  const difference = 100 * (meanOf(precision) - meanOf(first));
  const beside =
    precision === first ? "" : `  ${difference >= 0 ? "+" : ""}${difference.toFixed(2)} points to ${first}`;
  console.log(`${precision.padEnd(12)} mean ${(100 * meanOf(precision)).toFixed(2)} %${beside}`);
}
process.exit(0);
