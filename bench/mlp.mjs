/** One step of an MLP 784-512-10, batch 128, SGD, beside PyTorch's: node bench/mlp.mjs --precision bf16-mixed [--threads 2] [--rounds 50] [--peer] [--json] */

import { interleave, Peer } from "./measure.mjs";
import { flagsOf, report } from "./report.mjs";

const flags = flagsOf({ precision: "bf16-mixed", rounds: "50" });
const { autocast, compile, crossEntropy, gradients, tensor, useDevice } = await import("../dist/index.js");
const { Linear, ReLU, Sequential } = await import("../dist/nn/index.js");
const { SGD } = await import("../dist/optim/index.js");

const [batch, inputs, hidden, classes] = [128, 784, 512, 10];
const device = useDevice("cpu", { threads: Number(flags.threads) });
const model = new Sequential(new Linear(inputs, hidden), new ReLU(), new Linear(hidden, classes));
const optimizer = new SGD(model, { lr: 0.1 });
const dtype = { fp32: false, "bf16-mixed": "bfloat16", "fp16-mixed": "float16" }[flags.precision];
const record = compile((x, y) => {
  const loss = autocast(dtype, () => crossEntropy(model.forward(x), y));
  optimizer.apply(gradients(loss, model));
  return loss;
});
const x = tensor(
  Float32Array.from({ length: batch * inputs }, (_, i) => Math.sin(i * 12.9898)),
  { shape: [batch, inputs] },
);
const y = tensor(Int32Array.from({ length: batch }, (_, i) => i % classes));
const step = async () => (await record(x, y)).item();

for (let i = 0; i < 10; i++) await step();
const peer = flags.peer
  ? new Peer("torch_mlp.py", ["--precision", flags.precision.split("-")[0], "--threads", flags.threads])
  : null;
const times = await interleave(Number(flags.rounds), step, peer);
peer?.close();
// Forward, and both gradients of the second layer, but only the weight's of the first.
const operations = 2 * batch * (2 * inputs * hidden + 3 * hidden * classes);
report({ name: "mlp 784-512-10", flags, device, operations, plannedBytes: record.arenaByteLength, ...times });
