// A classifier of three spirals, trained in float32 and in bfloat16 from the same weights: prints both accuracies.
import { fileURLToPath } from "node:url";
import { autocast, compile, crossEntropy, gradients, nn, optim, type Tensor, tensor } from "binade";
import { TensorBatches } from "binade/data";

const ARMS = 3;

/** Points (x, y) along three spiral arms, [ARMS · perArm, 2], and the arm of each. */
function spirals(perArm: number): { readonly inputs: Float32Array; readonly labels: Int32Array } {
  const count = ARMS * perArm;
  const inputs = new Float32Array(2 * count);
  const labels = Int32Array.from({ length: count }, (_, i) => i % ARMS);
  labels.forEach((arm, i) => {
    const radius = (Math.floor(i / ARMS) + 1) / perArm;
    const angle = 4 * radius + (2 * Math.PI * arm) / ARMS;
    inputs.set([radius * Math.cos(angle), radius * Math.sin(angle)], 2 * i);
  });
  return { inputs, labels };
}

/** Share of the points that a freshly trained model puts on their own arm, from 0 to 1. */
async function train(precision: "bfloat16" | false, steps: number): Promise<number> {
  const { inputs, labels } = spirals(50);
  const batch = 48;
  const batches = new TensorBatches({ inputs, labels, batch, seed: 1 });
  nn.manualSeed(1);
  const model = new nn.Sequential(
    new nn.Linear(2, 32),
    new nn.Tanh(),
    new nn.Linear(32, 32),
    new nn.Tanh(),
    new nn.Linear(32, ARMS),
  );
  const optimizer = new optim.Adam(model, { lr: 0.01 });

  const step = compile((x: Tensor, y: Tensor) => {
    const loss = autocast(precision, () => crossEntropy(model.forward(x), y));
    optimizer.apply(gradients(loss, model));
    return loss;
  });
  for (let i = 0; i < steps; i++) {
    const { inputs: x, labels: y } = batches.batch(i);
    await step(tensor(x, { shape: [batch, 2] }), tensor(y));
  }

  const points = tensor(inputs, { shape: [labels.length, 2] });
  const guesses = autocast(precision, () => model.forward(points)).argMax({ axes: 1 });
  return guesses.equal(tensor(labels)).cast("float32").mean().item();
}

export interface MlpResult {
  readonly float32: number;
  readonly bfloat16: number;
}

export async function run({ steps = 400 }: { readonly steps?: number } = {}): Promise<MlpResult> {
  return { float32: await train(false, steps), bfloat16: await train("bfloat16", steps) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { float32, bfloat16 } = await run();
  console.log(`accuracy: ${(100 * float32).toFixed(1)} % in float32, ${(100 * bfloat16).toFixed(1)} % in bfloat16`);
}
