// A residual network on generated shapes, in bfloat16, with cropped and mirrored pictures: prints its held-out accuracy.
import { fileURLToPath } from "node:url";
import { autocast, compile, crossEntropy, gradients, nn, optim, type Tensor, tensor } from "binade";
import {
  channelStatistics,
  generatedShapes,
  normalize,
  OrderedPictures,
  type PictureBatch,
  PictureBatches,
} from "binade/data";

export interface ResNetRun {
  readonly steps?: number;
  readonly batch?: number;
  readonly heldOut?: number;
}

/** Share of the held-out pictures whose class is found, from 0 to 1. */
export async function run({ steps = 150, batch = 32, heldOut = 300 }: ResNetRun = {}): Promise<number> {
  const set = generatedShapes({ training: 3000, heldOut });
  const batches = new PictureBatches({ pictures: set.training, batch, crop: 4, flip: true, seed: 1 });
  const statistics = channelStatistics(set.training);
  const model = new nn.ResNet({ depth: 8, width: 8, classes: set.training.classes.length, seed: 1 });
  const lr = optim.warmupCosine({ warmup: Math.floor(steps / 20), total: steps, peak: 0.1 });
  const optimizer = new optim.SGD(model, { lr, momentum: 0.9, weightDecay: 5e-4 });
  const tensors = ({ pixels, labels }: PictureBatch): [Tensor, Tensor] => [
    tensor(pixels, { shape: [labels.length, 3, 32, 32] }),
    tensor(labels),
  ];

  const step = compile((pictures: Tensor, labels: Tensor) => {
    const loss = autocast("bfloat16", () => crossEntropy(model.forward(normalize(pictures, statistics)), labels));
    optimizer.apply(gradients(loss, model));
    return loss;
  });
  for (let i = 0; i < steps; i++) await step(...tensors(batches.batch(i)));

  model.evaluate(); // normalises by running statistics
  const [pictures, labels] = tensors(new OrderedPictures(set.heldOut, { batch: heldOut }).batch(0));
  const logits = autocast("bfloat16", () => model.forward(normalize(pictures, statistics)));
  return logits.argMax({ axes: 1 }).equal(labels).cast("float32").mean().item();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(`accuracy: ${(100 * (await run())).toFixed(1)} %`);
}
