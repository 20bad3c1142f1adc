// Resident memory before and after some steps of a GPT, and what its plan says. Run with --expose-gc.
import {
  autocast,
  clipByGlobalNorm,
  compile,
  crossEntropy,
  gradients,
  nn,
  optim,
  tensor,
  useDevice,
} from "../../dist/index.js";

useDevice("cpu", { threads: 2 });
const [batch, context] = [24, 128];
const model = new nn.GPT({ vocabulary: 256, context, layers: 3, heads: 4, width: 192 });
const optimizer = new optim.AdamW(model, { lr: 1e-3 });
const step = compile((tokens, targets) => {
  const loss = autocast("bfloat16", () => crossEntropy(model.forward(tokens), targets));
  optimizer.apply(clipByGlobalNorm(gradients(loss, model), 1));
  return loss;
});
const tokens = () =>
  tensor(
    Int32Array.from({ length: batch * context }, (_, i) => (i * 7) & 255),
    { shape: [batch, context] },
  );
const [x, y] = [tokens(), tokens()];
const plan = step.plan(x, y);
globalThis.gc();
const before = process.memoryUsage.rss();
for (let i = 0; i < 3; i++) (await step(x, y)).dispose();
globalThis.gc();
console.log(JSON.stringify({ grownBytes: process.memoryUsage.rss() - before, plan }));
