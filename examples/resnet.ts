// A residual network that tells the direction of noisy stripes, in bfloat16, on randomly cropped pictures: prints its accuracy.
import { fileURLToPath } from "node:url";
import { autocast, compile, crossEntropy, gradients, nn, optim, type Tensor, tensor } from "binade";
import {
  channelStatistics,
  normalize,
  OrderedPictures,
  type PictureBatch,
  PictureBatches,
  type Pictures,
} from "binade/data";

const SIZE = 12;
/** Pixels right and down in which the brightness of each class changes. */
const DIRECTIONS = { vertical: [1, 0], horizontal: [0, 1], rising: [0.7, 0.7], falling: [0.7, -0.7] } as const;

/** Grey pictures of stripes with random phase, distance and noise, [count, 1, SIZE, SIZE], and the direction of each. */
function stripes(count: number, seed: number): Pictures {
  let state = seed;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const [directions, classes] = [Object.values(DIRECTIONS), Object.keys(DIRECTIONS)];
  const labels = Int32Array.from({ length: count }, (_, i) => i % classes.length);
  const pixels = new Uint8Array(count * SIZE * SIZE);
  labels.forEach((label, picture) => {
    const [right = 0, down = 0] = directions[label] ?? [];
    const [phase, frequency] = [6.3 * random(), 1 + random()];
    for (let i = 0; i < SIZE * SIZE; i++) {
      const wave = Math.sin(phase + frequency * (right * (i % SIZE) + down * Math.floor(i / SIZE)));
      pixels[picture * SIZE * SIZE + i] = 128 + 50 * wave + 100 * (random() - 0.5);
    }
  });
  return { pixels, labels, channels: 1, height: SIZE, width: SIZE, classes };
}

export interface ResNetRun {
  readonly steps?: number;
  readonly batch?: number;
  readonly heldOut?: number;
}

/** Share of the held-out pictures whose class is found, from 0 to 1. */
export async function run({ steps = 60, batch = 16, heldOut = 200 }: ResNetRun = {}): Promise<number> {
  const [training, held] = [stripes(500, 1), stripes(heldOut, 2)];
  const batches = new PictureBatches({ pictures: training, batch, crop: 1, seed: 1 });
  const statistics = channelStatistics(training);
  const model = new nn.ResNet({ depth: 8, width: 8, channels: 1, classes: training.classes.length, seed: 1 });
  const lr = optim.warmupCosine({ warmup: Math.floor(steps / 20), total: steps, peak: 0.1 });
  const optimizer = new optim.SGD(model, { lr, momentum: 0.9, weightDecay: 5e-4 });
  const tensors = ({ pixels, labels }: PictureBatch): [Tensor, Tensor] => [
    tensor(pixels, { shape: [labels.length, 1, SIZE, SIZE] }),
    tensor(labels),
  ];

  const step = compile((pictures: Tensor, labels: Tensor) => {
    const loss = autocast("bfloat16", () => crossEntropy(model.forward(normalize(pictures, statistics)), labels));
    optimizer.apply(gradients(loss, model));
    return loss;
  });
  for (let i = 0; i < steps; i++) await step(...tensors(batches.batch(i)));

  model.evaluate(); // normalises by running statistics
  const [pictures, labels] = tensors(new OrderedPictures(held, { batch: heldOut }).batch(0));
  const logits = autocast("bfloat16", () => model.forward(normalize(pictures, statistics)));
  return logits.argMax({ axes: 1 }).equal(labels).cast("float32").mean().item();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(`accuracy: ${(100 * (await run())).toFixed(1)} %`);
}
