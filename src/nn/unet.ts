/** A U-Net: a label for every pixel. Ronneberger et al. 2015, arXiv:1505.04597, with padding and batch norms. */
import { BinadeError } from "../errors.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { checkpoint } from "../tensor/checkpoint.ts";
import { concatenate } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { BatchNorm2d } from "./channel-norm.ts";
import { Conv2d, ConvTranspose2d } from "./convolution.ts";
import { type Seed, seedsOf } from "./initializers.ts";
import { Module } from "./module.ts";

/** Twice: a 3 × 3 convolution, a batch norm, relu. The first may halve the picture. */
class DoubleConv extends Module {
  readonly first: Conv2d;
  readonly firstNorm: BatchNorm2d;
  readonly second: Conv2d;
  readonly secondNorm: BatchNorm2d;

  constructor(inputs: number, outputs: number, options: { readonly stride: number; readonly seed: Seed }) {
    super();
    const { stride, seed } = options;
    this.first = new Conv2d(inputs, outputs, 3, { stride, padding: 1, bias: false, seed });
    this.firstNorm = new BatchNorm2d(outputs);
    this.second = new Conv2d(outputs, outputs, 3, { padding: 1, bias: false, seed });
    this.secondNorm = new BatchNorm2d(outputs);
  }

  forward(x: Tensor): Tensor {
    const inner = this.firstNorm.forward(this.first.forward(x)).relu();
    return this.secondNorm.forward(this.second.forward(inner)).relu();
  }
}

/** Doubles a picture and joins it with the one of that size from the way down. */
class Up extends Module {
  readonly grow: ConvTranspose2d;
  readonly mix: DoubleConv;

  constructor(inputs: number, outputs: number, seed: Seed) {
    super();
    this.grow = new ConvTranspose2d(inputs, outputs, 2, { stride: 2, seed });
    this.mix = new DoubleConv(2 * outputs, outputs, { stride: 1, seed });
  }

  forward(x: Tensor, beside: Tensor): Tensor {
    return this.mix.forward(concatenate([beside, this.grow.forward(x)], 1));
  }
}

export interface UNetOptions {
  /** Channels of the pictures. Default 3. */
  readonly channels?: number;
  /** Labels of a pixel. */
  readonly classes: number;
  /** Channels at full size; each level down has twice as many. Default 16. */
  readonly width?: number;
  /** How often the picture is halved. Default 3. */
  readonly levels?: number;
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
}

/**
 * (batch, channels, height, width) → logits (batch, classes, height, width); height and width are multiples of 2^levels.
 * Convolutions of stride 2 halve the picture, transposed ones double it again, and each level sees what its counterpart saw
 * on the way down.
 *
 * @throws BinadeError `value.range` or `option.unknown` for bad options; `shape.mismatch` in `forward` for other pictures.
 * @example
 * const model = new nn.UNet({ classes: 3, width: 16, levels: 3 });
 * const logits = model.forward(pictures).permute([0, 2, 3, 1]); // classes last, as crossEntropy takes them
 * const loss = crossEntropy(logits, labels); // labels (batch, height, width)
 */
export class UNet extends Module {
  readonly options: Readonly<Required<Omit<UNetOptions, "seed">>>;
  readonly stem: DoubleConv;
  readonly downs: readonly DoubleConv[];
  readonly ups: readonly Up[];
  readonly head: Conv2d;

  constructor(options: UNetOptions) {
    super();
    requireKnownKeys("UNet", options, ["channels", "classes", "width", "levels", "seed"]);
    const { channels = 3, classes, width = 16, levels = 3 } = options;
    requireInteger("UNet: channels", channels, 1);
    requireInteger("UNet: classes", classes, 1);
    requireInteger("UNet: width", width, 1);
    requireInteger("UNet: levels", levels, 1);
    this.options = { channels, classes, width, levels };
    const seed = seedsOf(options.seed);
    const at = (level: number): number => width * 2 ** level;
    this.stem = new DoubleConv(channels, width, { stride: 1, seed });
    this.downs = Array.from({ length: levels }, (_, i) => new DoubleConv(at(i), at(i + 1), { stride: 2, seed }));
    this.ups = Array.from({ length: levels }, (_, i) => new Up(at(levels - i), at(levels - i - 1), seed));
    this.head = new Conv2d(width, classes, 1, { seed });
    this.namedParameters();
    this.namedBuffers();
  }

  forward(pictures: Tensor): Tensor {
    this.#requirePictures(pictures);
    const part = (forward: () => Tensor): Tensor => checkpoint(forward, { when: "budget" });
    const seen = [part(() => this.stem.forward(pictures))];
    for (const down of this.downs) {
      const above = seen[seen.length - 1] as Tensor;
      seen.push(part(() => down.forward(above)));
    }
    const lowest = seen.pop() as Tensor;
    const whole = this.ups.reduce((x, up, i) => part(() => up.forward(x, seen[seen.length - 1 - i] as Tensor)), lowest);
    return this.head.forward(whole);
  }

  #requirePictures({ shape }: Tensor): void {
    const { channels, levels } = this.options;
    const factor = 2 ** levels;
    const [, given, height = 1, width = 1] = shape;
    if (shape.length === 4 && given === channels && height % factor === 0 && width % factor === 0) return;
    throw new BinadeError(
      "shape.mismatch",
      `UNet: expected pictures (batch, ${channels}, height, width) with height and width divisible by ${factor}, got [${shape.join(", ")}]; pad or crop them, or give fewer levels`,
    );
  }
}
