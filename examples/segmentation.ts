// A U-Net that tells discs, squares and background apart, pixel by pixel, in bfloat16: prints the share of pixels it gets right.
import { fileURLToPath } from "node:url";
import { autocast, compile, crossEntropy, gradients, nn, optim, type Tensor, tensor } from "binade";

const SIZE = 16;
const CLASSES = ["background", "disc", "square"];

/** Grey pictures with a disc and a square under noise, [batch, 1, SIZE, SIZE], and the class of each pixel. */
function scene(seed: number, batch: number): { readonly pictures: Tensor; readonly labels: Tensor } {
  let state = seed + 1;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let i = 0; i < 8; i++) random();
  const pixels = new Float32Array(batch * SIZE * SIZE);
  const labels = new Int32Array(pixels.length);
  for (let picture = 0; picture < batch; picture++) {
    for (const shape of [1, 2]) {
      const [cx, cy, radius] = [3 + 10 * random(), 3 + 10 * random(), 2.5 + 2 * random()];
      for (let i = 0; i < SIZE * SIZE; i++) {
        const [dx, dy] = [Math.abs((i % SIZE) - cx), Math.abs(Math.floor(i / SIZE) - cy)];
        const isInside = shape === 1 ? dx * dx + dy * dy < radius * radius : Math.max(dx, dy) < radius;
        if (isInside) labels[picture * SIZE * SIZE + i] = shape;
      }
    }
  }
  for (let i = 0; i < pixels.length; i++) pixels[i] = (labels[i] === 0 ? 0 : 1) + 0.3 * (random() - 0.5);
  return {
    pictures: tensor(pixels, { shape: [batch, 1, SIZE, SIZE] }),
    labels: tensor(labels, { shape: [batch, SIZE, SIZE] }),
  };
}

export interface SegmentationRun {
  readonly steps?: number;
  readonly batch?: number;
}

/** Share of the pixels of scenes that were not trained on whose class is found, from 0 to 1. */
export async function run({ steps = 100, batch = 16 }: SegmentationRun = {}): Promise<number> {
  const model = new nn.UNet({ channels: 1, classes: CLASSES.length, width: 8, levels: 2, seed: 1 });
  const optimizer = new optim.Adam(model, { lr: 0.01 });
  const logits = (pictures: Tensor): Tensor => model.forward(pictures).permute([0, 2, 3, 1]); // classes last

  const step = compile((pictures: Tensor, labels: Tensor) => {
    const loss = autocast("bfloat16", () => crossEntropy(logits(pictures), labels));
    optimizer.apply(gradients(loss, model));
    return loss;
  });
  for (let i = 0; i < steps; i++) {
    const { pictures, labels } = scene(i, batch);
    await step(pictures, labels);
  }

  model.evaluate();
  const { pictures, labels } = scene(1_000_000, batch);
  const guesses = autocast("bfloat16", () => logits(pictures)).argMax({ axes: 3 });
  return guesses.equal(labels).cast("float32").mean().item();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(`${(100 * (await run())).toFixed(1)} % of the pixels are labelled right`);
}
