// A thousand steps of a tiny model; prints memory after 200 and 1000 of them. Run with --expose-gc.
import { ByteBatches, EvaluationBatches } from "../../dist/data/index.js";
import { nn, useDevice } from "../../dist/index.js";
import { languageTask, train } from "../../dist/train/index.js";

const device = useDevice("cpu", { threads: 1 });
const bytes = Uint8Array.from({ length: 4000 }, (_, i) => (i * i) >> 3);
const size = { batch: 2, context: 8 };
const model = new nn.GPT({ vocabulary: 256, layers: 1, heads: 2, width: 16, context: size.context, dropout: 0.1 });
const data = {
  name: "squares",
  byteLength: bytes.length,
  sha256: "",
  training: new ByteBatches(bytes, size),
  evaluation: new EvaluationBatches(bytes, { ...size, batches: 2 }),
};

const measure = async () => {
  for (let i = 0; i < 5; i++) {
    globalThis.gc();
    // Finalizers run in tasks of their own.
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return { rssBytes: process.memoryUsage.rss(), ...device.live };
};

const measured = {};
for await (const event of train({
  task: languageTask({ model, data }),
  precision: process.argv[2],
  steps: 1001,
  learningRate: 1e-3,
  evaluateEvery: 100,
})) {
  if (event.type === "step" && (event.step === 200 || event.step === 1000)) measured[event.step] = await measure();
}
console.log(JSON.stringify(measured));
