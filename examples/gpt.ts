// The training loop of the README, complete: a GPT learns one sentence in float16 with loss scaling, and writes it.
import { fileURLToPath } from "node:url";
import {
  autocast,
  clipByGlobalNorm,
  compile,
  crossEntropy,
  GradScaler,
  gradients,
  nn,
  optim,
  readOutcome,
  type Tensor,
  tensor,
} from "binade";
import { ByteBatches } from "binade/data";
import { generate } from "binade/train";

// Its length has no divisor in common with the context, so that windows begin at every letter.
const SENTENCE = "a small model learns this short sentence by heart. ";
const [BATCH, CONTEXT] = [4, 16];

export interface GptResult {
  /** Training loss of the last step in nats per byte. */
  readonly loss: number;
  readonly skippedSteps: number;
  readonly text: string;
}

export async function run({
  steps = 300,
  length = 45,
}: {
  readonly steps?: number;
  readonly length?: number;
} = {}): Promise<GptResult> {
  const batches = new ByteBatches(new TextEncoder().encode(SENTENCE.repeat(20)), { batch: BATCH, context: CONTEXT });
  const model = new nn.GPT({ vocabulary: 128, context: CONTEXT, layers: 2, heads: 2, width: 32 });
  const optimizer = new optim.AdamW(model, { lr: 5e-3, weightDecay: 0.1 });
  const scaler = new GradScaler();

  const step = compile((tokens: Tensor, targets: Tensor) => {
    const loss = autocast("float16", () => crossEntropy(model.forward(tokens), targets));
    const grads = scaler.unscale(gradients(scaler.scale(loss), model));
    const outcome = scaler.step(optimizer, clipByGlobalNorm(grads, 1));
    scaler.update();
    return { loss, outcome };
  });

  let [last, skippedSteps] = [Number.NaN, 0];
  for (let i = 0; i < steps; i++) {
    const { tokens, targets } = batches.batch(i);
    const shape = [BATCH, CONTEXT];
    const { loss, outcome } = await step(tensor(tokens, { shape }), tensor(targets, { shape }));
    last = await loss.item();
    if (!(await readOutcome(outcome)).applied) skippedSteps++;
  }
  const bytes = await generate(model, new TextEncoder().encode("a small"), {
    length,
    temperature: 0,
    dtype: "float16",
  });
  return { loss: last, skippedSteps, text: new TextDecoder().decode(bytes) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { loss, skippedSteps, text } = await run();
  console.log(text);
  console.log(`loss ${loss.toFixed(4)} nats per byte, ${skippedSteps} steps skipped`);
}
