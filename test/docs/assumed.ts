/** What the pages assume that their readers have: a model, a batch, an optimizer. Every call makes them anew, small. */
import {
  autocast,
  type BackwardArguments,
  compile,
  crossEntropy,
  GradScaler,
  gradients,
  nn,
  ones,
  optim,
  type StepOutcome,
  type Tensor,
  tensor,
} from "../../src/index.ts";
import { languageTask } from "../../src/train/language.ts";
import { temporaryFolder, tinyData, tinyModel } from "../train/tiny.ts";

/** A GPT and tokens: what the guide to mixed precision trains. */
export function guide() {
  const model = new nn.GPT({ vocabulary: 8, context: 4, layers: 1, heads: 1, width: 8, seed: 1 });
  const optimizer = new optim.AdamW(model, { lr: 1e-3 });
  const scaler = new GradScaler();
  const tokens = (shift: number): Tensor =>
    tensor(
      Int32Array.from({ length: 8 }, (_, i) => (i + shift) % 8),
      { shape: [2, 4] },
    );
  const [x, labels] = [tokens(0), tokens(1)];
  const lossOf = (inputs: Tensor, targets: Tensor): Tensor =>
    autocast("float16", () => crossEntropy(model.forward(inputs), targets));
  const trainStep = (inputs: Tensor, targets: Tensor) => {
    const loss = lossOf(inputs, targets);
    optimizer.apply(gradients(loss, model));
    return { loss };
  };
  return {
    model,
    optimizer,
    scaler,
    x,
    y: labels,
    labels,
    lossOf,
    step: (inputs: Tensor, targets: Tensor) => ({ loss: lossOf(inputs, targets) }),
    trainStep,
    microBatches: [
      [x, labels],
      [labels, x],
    ] as const,
  };
}

/** The same with the compiled step that the section before has made. */
export function afterScaling() {
  const { optimizer, scaler, model, lossOf, ...rest } = guide();
  const step = compile((inputs: Tensor, targets: Tensor) => {
    const grads = scaler.unscale(gradients(scaler.scale(lossOf(inputs, targets)), model));
    const outcome = scaler.step(optimizer, grads);
    scaler.update();
    return { outcome };
  });
  return { ...rest, step };
}

/** A model whose head leaves float16's range, though what it reads does not: the one of the report that the page prints. */
export function overflowing() {
  class Model extends nn.Module {
    readonly head = new nn.Linear(2, 2, { initialWeight: () => new Float32Array(4).fill(60) });
    forward(x: Tensor): Tensor {
      return this.head.forward(x);
    }
  }
  const model = new Model();
  const step = (inputs: Tensor, labels: Tensor) => ({
    loss: crossEntropy(
      autocast("float16", () => model.forward(inputs)),
      labels,
    ),
  });
  const x = tensor([
    [1e4, 2e4],
    [3e4, 3e4],
  ]);
  return { step, x, labels: tensor(Int32Array.of(0, 1)) };
}

/** Whole windows of bytes. */
export function windows() {
  const model = new nn.GPT({ vocabulary: 256, context: 256, layers: 1, heads: 1, width: 8 });
  const optimizer = new optim.SGD(model, { lr: 0.1 });
  const trainStep = (tokens: Tensor, targets: Tensor): Tensor => {
    const loss = crossEntropy(model.forward(tokens), targets);
    optimizer.apply(gradients(loss, model));
    return loss;
  };
  return { trainStep };
}

let ops = 0;

/** A classifier and vectors: what a table of calls calls. Values that belong to an order of calls are made when they are asked for. */
export function calls() {
  const model = new nn.Sequential(new nn.Linear(4, 8, { seed: 1 }), new nn.GELU(), new nn.Linear(8, 3, { seed: 2 }));
  const optimizer = new optim.SGD(model, { lr: 0.1 });
  const scaler = new GradScaler();
  const floats = (...shape: number[]): Tensor =>
    tensor(
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i)),
      { shape },
    );
  const x = floats(2, 4);
  const labels = tensor(Int32Array.of(0, 2));
  const logits = model.forward(x);
  const loss = crossEntropy(logits, labels);
  const step = (inputs: Tensor, targets: Tensor) => ({
    loss: autocast("bfloat16", () => crossEntropy(model.forward(inputs), targets)),
  });
  return {
    model,
    optimizer,
    scaler,
    x,
    y: labels,
    labels,
    logits,
    loss,
    step,
    targets: ones([2, 3]),
    block: new nn.Linear(4, 4, { seed: 3 }),
    f: (value: Tensor): Tensor => value.square(),
    q: floats(1, 3, 2, 4),
    k: floats(1, 3, 2, 4),
    v: floats(1, 3, 2, 4),
    tree: { x },
    updated: { x },
    old: { x: x.mul(2) },
    schedule: optim.constant(0.1),
    name: `documented${ops++}`,
    forward: (value: Tensor): Tensor => value.exp(),
    backward: ({ cotangent, output }: BackwardArguments<readonly [Tensor]>): readonly Tensor[] => [
      cotangent.mul(output),
    ],
    task: languageTask({ model: tinyModel(), data: tinyData() }),
    steps: 2,
    learningRate: 1e-3,
    get out(): string {
      return temporaryFolder();
    },
    get scaled() {
      return gradients(scaler.scale(loss), model);
    },
    get grads() {
      return scaler.unscale(gradients(scaler.scale(loss), model));
    },
    get outcome(): StepOutcome {
      return scaler.step(optimizer, scaler.unscale(gradients(scaler.scale(loss), model)));
    },
  };
}

export const ASSUMED = { guide, afterScaling, overflowing, windows, calls } as const;
export type Assumed = keyof typeof ASSUMED;
