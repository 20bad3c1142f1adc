/** One GPT training step, beside PyTorch's: node bench/gpt.mjs --preset m --precision bf16-mixed [--threads 2] [--rounds 10] [--peer] [--json] */
import { interleave, Peer } from "./measure.mjs";
import { flagsOf, report } from "./report.mjs";

const flags = flagsOf({ preset: "m", precision: "bf16-mixed", rounds: "10" });
const { useDevice } = await import("../dist/index.js");
const { GPT } = await import("../dist/nn/index.js");
const { PRESETS } = await import("../dist/train/presets.js");
const { ByteBatches } = await import("../dist/data/index.js");
const { languageTask } = await import("../dist/train/index.js");
const { Session } = await import("../dist/train/session.js");

const { batch, layers, heads, width, context } = PRESETS[flags.preset];
const device = useDevice("cpu", { threads: Number(flags.threads) });
const model = new GPT({ vocabulary: 256, layers, heads, width, context });
const bytes = Uint8Array.from({ length: 3 * batch * context }, (_, i) => (i * 2654435761) >>> 24);
const training = new ByteBatches(bytes, { batch, context });
const task = languageTask({ model, data: { name: "bench", byteLength: bytes.length, sha256: "", training } });
const session = new Session(task, { precision: flags.precision, steps: 1000, learningRate: 1e-3 });
const data = task.batch(0);
const step = () => session.step(data);

for (let i = 0; i < 3; i++) await step();
const peer = flags.peer
  ? new Peer("torch_gpt.py", [
      "--preset",
      flags.preset,
      "--precision",
      flags.precision.split("-")[0],
      "--threads",
      flags.threads,
    ])
  : null;
const times = await interleave(Number(flags.rounds), step, peer);
peer?.close();
const positions = batch * context;
const operations = 6 * model.parameterCount * positions + 12 * layers * width * context * positions;
report({ name: `gpt ${flags.preset}`, flags, device, operations, plannedBytes: session.plannedBytes, ...times });
