/** Mixed precision ends where float32 ends: within twice the deviation of three seeds, for a GPT, a residual network and an LSTM. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  GradScaler,
  gradients,
  type LstmState,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { uniforms } from "../support/random.ts";
import { stripes } from "../support/stripes.ts";

type Half = "float16" | "bfloat16" | false;
interface Problem {
  readonly steps: number;
  readonly learningRate: number;
  readonly model: (seed: number) => nn.Module;
  /** Loss of a batch. */
  readonly loss: (model: nn.Module, x: Tensor, labels: Tensor) => Tensor;
  /** The batch of a step. */
  readonly batch: (step: number, seed: number) => readonly [Tensor, Tensor];
}

const TEXT = new TextEncoder().encode(
  "she sells sea shells by the sea shore, and the shells she sells are sea shells; ".repeat(8),
);
const integers = (count: number, seed: number, below: number): Int32Array =>
  Int32Array.from(uniforms(seed, count, 0, below), Math.floor);

const CONTEXT = 16;
const language: Problem = {
  steps: 120,
  learningRate: 3e-3,
  model: (seed) => new nn.GPT({ vocabulary: 128, context: CONTEXT, layers: 2, heads: 2, width: 32, seed }),
  loss: (model, x, labels) => crossEntropy((model as nn.GPT).forward(x), labels),
  batch: (step, seed) => {
    const starts = integers(8, 1000 * seed + step, TEXT.length - CONTEXT - 1);
    const cut = (shift: number): Tensor =>
      tensor(Int32Array.from([...starts].flatMap((at) => [...TEXT.subarray(at + shift, at + shift + CONTEXT)])), {
        shape: [8, CONTEXT],
      });
    return [cut(0), cut(1)];
  },
};

const pictures: Problem = {
  steps: 60,
  learningRate: 3e-3,
  model: (seed) => new nn.ResNet({ depth: 8, classes: 4, seed }),
  loss: (model, x, labels) => crossEntropy((model as nn.ResNet).forward(x), labels),
  batch: stripes,
};

class Reader extends nn.Module {
  readonly cell: nn.LSTMCell;
  readonly head: nn.Linear;

  constructor(seed: number) {
    super();
    this.cell = new nn.LSTMCell(2, 24, { seed: seed + 1 });
    this.head = new nn.Linear(24, 4, { seed: seed + 100 });
  }

  /** x (batch, time, 2) */
  forward(x: Tensor): Tensor {
    const [batch = 1, time = 1] = x.shape;
    let state: LstmState | undefined;
    for (let t = 0; t < time; t++) state = this.cell.forward(x.slice(1, t, 1).reshape([batch, 2]), state);
    return this.head.forward((state as LstmState).hidden);
  }
}
/** How many of the marked numbers of a sequence are above 0: the marks are the second channel. */
const counting: Problem = {
  steps: 400,
  learningRate: 1e-2,
  model: (seed) => new Reader(seed),
  loss: (model, x, labels) => crossEntropy((model as Reader).forward(x), labels),
  batch: (step, seed) => {
    const values = uniforms(5000 * seed + step, 32 * 6, -1, 1);
    const x = Float32Array.from({ length: 32 * 6 * 2 }, (_, i) => {
      const at = Math.floor(i / 2);
      return i % 2 === 0 ? (values[at] ?? 0) : at % 6 < 3 ? 1 : 0;
    });
    const labels = Int32Array.from(
      { length: 32 },
      (_, i) => [0, 1, 2].filter((t) => (values[6 * i + t] ?? 0) > 0).length,
    );
    return [tensor(x, { shape: [32, 6, 2] }), tensor(labels)];
  },
};

/** The mean loss of the last tenth of a run. */
async function run(
  { steps, learningRate, model: make, loss: lossOf, batch }: Problem,
  half: Half,
  seed: number,
): Promise<number> {
  const model = make(seed);
  const optimizer = new optim.AdamW(model, { lr: learningRate });
  const scaler = new GradScaler({ enabled: half === "float16" });
  const step = compile((x: Tensor, labels: Tensor) => {
    const loss = autocast(half, () => lossOf(model, x, labels));
    scaler.step(optimizer, gradients(scaler.scale(loss), model));
    scaler.update();
    return loss;
  });
  const tail = Math.ceil(steps / 10);
  let sum = 0;
  for (let i = 0; i < steps; i++) {
    const loss = await step(...batch(i, seed));
    if (i >= steps - tail) sum += await loss.item();
  }
  return sum / tail;
}

const SEEDS = [0, 1, 2];
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
const deviation = (values: readonly number[]): number =>
  Math.sqrt(values.reduce((sum, v) => sum + (v - mean(values)) ** 2, 0) / (values.length - 1));

async function runs(problem: Problem, half: Half): Promise<readonly number[]> {
  const losses: number[] = [];
  for (const seed of SEEDS) losses.push(await run(problem, half, seed));
  return losses;
}

/** On the fastest device: 27 runs. */
describe.each(DEVICES.slice(-1))("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    ["a GPT", language, 2.5],
    ["a residual network", pictures, 0.7],
    ["an LSTM", counting, 0.5],
  ] as const)(
    "%s",
    async (_, problem, learned) => {
      const full = await runs(problem, false);
      for (const half of ["bfloat16", "float16"] as const) {
        const mixed = await runs(problem, half);
        expect(mean(full)).toBeLessThan(learned);
        expect(Math.abs(mean(mixed) - mean(full))).toBeLessThan(2 * deviation(full));
      }
    },
    120_000,
  );
});
