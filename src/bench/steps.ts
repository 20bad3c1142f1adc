/** Whole training steps: forward, backward, unscaling, clipping, update, and the loss read back. */
import { ByteBatches } from "../data/batches.ts";
import { GPT } from "../nn/gpt.ts";
import { Linear, ReLU, Sequential } from "../nn/layers.ts";
import type { Module } from "../nn/module.ts";
import { resnet20 } from "../nn/resnet.ts";
import { GradScaler } from "../optim/gradScaler.ts";
import { SGD } from "../optim/sgd.ts";
import { autocast } from "../precision/autocast.ts";
import { compile } from "../tensor/compile.ts";
import { tensor } from "../tensor/create.ts";
import { crossEntropy } from "../tensor/functions.ts";
import { gradients } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { languageTask } from "../train/language.ts";
import { PRESETS, type Precision, type PresetName } from "../train/presets.ts";
import { computeDType, Session } from "../train/session.ts";
import { numbers, type Prepared, peakOf, type Workload } from "./workload.ts";

const step = (name: string, precision: Precision, prepare: () => Prepared): Workload => ({
  name,
  precision,
  bound: peakOf(precision),
  prepare,
});

const VOCABULARY = 256;

/** The step of `binade train`: AdamW, gradients clipped to a global norm of 1, loss scaling in fp16-mixed. */
export function gptWorkload(preset: PresetName, precision: Precision): Workload {
  return step(`gpt ${preset}`, precision, () => {
    const { batch, layers, heads, width, context } = PRESETS[preset];
    const model = new GPT({ vocabulary: VOCABULARY, layers, heads, width, context });
    const positions = batch * context;
    const bytes = Uint8Array.from({ length: 3 * positions }, (_, i) => (i * 2654435761) >>> 24);
    const training = new ByteBatches(bytes, { batch, context });
    const task = languageTask({ model, data: { name: "bench", byteLength: bytes.length, sha256: "", training } });
    const session = new Session(task, { precision, steps: 1000, learningRate: 1e-3 });
    const data = task.batch(0);
    return {
      // Each parameter multiplies each token once forward and twice backward; attention has two products of context × width.
      operations: 6 * model.parameterCount * positions + 12 * layers * width * context * positions,
      bytes: null,
      run: async () => {
        await session.step(data);
      },
      plannedBytes: () => session.plannedBytes,
    };
  });
}

interface Classifier {
  readonly model: Module & { forward(x: Tensor): Tensor };
  readonly optimizer: SGD;
  readonly x: Tensor;
  readonly classes: number;
  readonly operations: number;
}

type Update = (loss: Tensor) => void;

const plainUpdate =
  (model: Module, optimizer: SGD): Update =>
  (loss) =>
    optimizer.apply(gradients(loss, model));

function scaledUpdate(model: Module, optimizer: SGD): Update {
  const scaler = new GradScaler();
  return (loss) => {
    scaler.step(optimizer, gradients(scaler.scale(loss), model));
    scaler.update();
  };
}

/** A classifier's step with SGD: cross-entropy, loss scaling in fp16-mixed, no clipping. */
function classifierStep(precision: Precision, { model, optimizer, x, classes, operations }: Classifier): Prepared {
  const update = precision === "fp16-mixed" ? scaledUpdate(model, optimizer) : plainUpdate(model, optimizer);
  const record = compile((x: Tensor, y: Tensor) => {
    const loss = autocast(computeDType(precision), () => crossEntropy(model.forward(x), y));
    update(loss);
    return loss;
  });
  const [batch = 0] = x.shape;
  const y = tensor(Int32Array.from({ length: batch }, (_, i) => i % classes));
  const run = async (): Promise<void> => {
    const loss = await record(x, y);
    await loss.item();
    loss.dispose();
  };
  return { operations, bytes: null, run, plannedBytes: () => record.arenaByteLength };
}

/** An MLP 784-512-10, batch 128. */
export function mlpWorkload(precision: Precision): Workload {
  return step("mlp", precision, () => {
    const [batch, inputs, hidden, classes] = [128, 784, 512, 10];
    const model = new Sequential(new Linear(inputs, hidden), new ReLU(), new Linear(hidden, classes));
    const optimizer = new SGD(model, { lr: 0.1 });
    // Forward, and both gradients of the second layer, but only the weight's of the first.
    const operations = 2 * batch * (2 * inputs * hidden + 3 * hidden * classes);
    return classifierStep(precision, { model, optimizer, x: numbers([batch, inputs]), classes, operations });
  });
}

/** Multiply-adds of one picture: of the first convolution, and of everything behind it. */
function resnet20Products(): readonly [stem: number, rest: number] {
  const products = (inputs: number, outputs: number, kernel: number, size: number): number =>
    inputs * outputs * kernel ** 2 * size ** 2;
  const stages = [
    [16, 16, 32],
    [16, 32, 16],
    [32, 64, 8],
  ] as const;
  const perStage = stages.map(([inputs, outputs, size]) => {
    const shortcut = inputs === outputs ? 0 : products(inputs, outputs, 1, size);
    return products(inputs, outputs, 3, size) + 5 * products(outputs, outputs, 3, size) + shortcut;
  });
  return [products(3, 16, 3, 32), perStage.reduce((a, b) => a + b, 64 * 10)];
}

/** ResNet-20 on 32 × 32 colour pictures, batch 64, with momentum. */
export function resnet20Workload(precision: Precision): Workload {
  return step("resnet20", precision, () => {
    const [batch, classes] = [64, 10];
    const model = resnet20({ classes });
    const optimizer = new SGD(model, { lr: 0.1, momentum: 0.9 });
    const [stem, rest] = resnet20Products();
    // Forward and both gradients; nobody needs that of the pictures.
    const operations = 2 * batch * (2 * stem + 3 * rest);
    return classifierStep(precision, { model, optimizer, x: numbers([batch, 3, 32, 32]), classes, operations });
  });
}
