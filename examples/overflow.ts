// What happens when the loss scale is too high for float16: steps are skipped whole until it fits. Prints every outcome.
import { fileURLToPath } from "node:url";
import {
  autocast,
  compile,
  crossEntropy,
  GradScaler,
  gradients,
  nn,
  optim,
  type ReadOutcome,
  readOutcome,
  type Tensor,
  tensor,
} from "binade";

export interface OverflowResult {
  readonly outcomes: readonly ReadOutcome[];
  /** Whether any step that was skipped changed a byte of the weights. */
  readonly changedBySkip: boolean;
  readonly skippedSteps: number;
}

export async function run({ steps = 8 }: { readonly steps?: number } = {}): Promise<OverflowResult> {
  nn.manualSeed(1);
  const model = new nn.Sequential(new nn.Linear(4, 8), new nn.GELU(), new nn.Linear(8, 3));
  const optimizer = new optim.SGD(model, { lr: 0.1 });
  // The gradient of a logit is up to 1/8 here; times 2²⁴ it is far above 65504, the largest number of float16.
  const scaler = new GradScaler({ initialScale: 2 ** 24 });
  const x = tensor(
    Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)),
    { shape: [8, 4] },
  );
  const y = tensor(Int32Array.from({ length: 8 }, (_, i) => i % 3));

  const step = compile((inputs: Tensor, labels: Tensor) => {
    const loss = autocast("float16", () => crossEntropy(model.forward(inputs), labels));
    const outcome = scaler.step(optimizer, gradients(scaler.scale(loss), model));
    scaler.update();
    return { outcome };
  });

  const weights = async (): Promise<string> => String(await Promise.all(model.parameters().map((p) => p.bytes())));
  const outcomes: ReadOutcome[] = [];
  let changedBySkip = false;
  for (let i = 0; i < steps; i++) {
    const before = await weights();
    const { outcome } = await step(x, y);
    const read = await readOutcome(outcome);
    if (!read.applied && (await weights()) !== before) changedBySkip = true;
    outcomes.push(read);
  }
  return { outcomes, changedBySkip, skippedSteps: outcomes.filter(({ applied }) => !applied).length };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { outcomes, skippedSteps } = await run();
  for (const outcome of outcomes) console.log(JSON.stringify(outcome));
  console.log(`${skippedSteps} of ${outcomes.length} steps skipped`);
}
