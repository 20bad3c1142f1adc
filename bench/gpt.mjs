/** One GPT training step, beside PyTorch's: node bench/gpt.mjs --preset m --precision bf16-mixed [--threads 2] [--rounds 10] [--peer] [--json] */
import { parseArgs } from "node:util";
import { interleave, median, Peer } from "./measure.mjs";

const { values: flags } = parseArgs({
  options: {
    preset: { type: "string", default: "m" },
    precision: { type: "string", default: "bf16-mixed" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "10" },
    peer: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});

const { useDevice } = await import("../dist/index.js");
const { GPT } = await import("../dist/nn/index.js");
const { PRESETS } = await import("../dist/train/presets.js");
const { Session } = await import("../dist/train/session.js");

const size = PRESETS[flags.preset];
const threads = Number(flags.threads);
const device = useDevice("cpu", { threads });
const model = new GPT({ vocabulary: 256, layers: size.layers, heads: size.heads, width: size.width, context: size.context });
const session = new Session(model, { precision: flags.precision, steps: 1000, learningRate: 1e-3 });
const tokens = Int32Array.from({ length: size.batch * size.context }, (_, i) => (i * 2654435761) >>> 24);
const batch = { index: 0, epoch: 0, tokens, targets: tokens.map((t) => (t * 7 + 1) & 255) };
const step = () => session.step(batch);

const warmUp = 3;
for (let i = 0; i < warmUp; i++) await step();
const peer = flags.peer ? new Peer("torch_gpt.py", ["--preset", flags.preset, "--precision", flags.precision.split("-")[0], "--threads", flags.threads]) : null;
const { oursMs, peerMs, peer: answer } = await interleave(Number(flags.rounds), step, peer);
peer?.close();

const parameters = model.parameterCount;
const positions = size.batch * size.context;
const operations = 6 * parameters * positions + 12 * size.layers * size.width * size.context * positions;
const result = {
  name: `gpt ${flags.preset}`, precision: flags.precision, threads, isa: device.backend.isa, medianMs: median(oursMs), minMs: Math.min(...oursMs),
  gflops: operations / median(oursMs) / 1e6, plannedBytes: session.plannedBytes,
  ...(peerMs.length > 0 ? { peer: `torch ${answer.torch ?? ""}`.trim(), peerMedianMs: median(peerMs), peerMinMs: Math.min(...peerMs), ratio: median(peerMs) / median(oursMs) } : {}),
};
console.log(flags.json ? JSON.stringify(result) : Object.entries(result).map(([k, v]) => `${k.padEnd(14)}${typeof v === "number" ? Number(v.toPrecision(5)) : v}`).join("\n"));
process.exit(0);
