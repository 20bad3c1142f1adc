/** Residual networks for small pictures: He et al. 2015, arXiv:1512.03385, section 4.2. */
import { BinadeError } from "../errors.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { type CheckpointOptions, checkpoint } from "../tensor/checkpoint.ts";
import { zeros } from "../tensor/create.ts";
import { concatenate } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type BlockChoice, recomputedBlocks } from "./blocks.ts";
import { BatchNorm2d } from "./channel-norm.ts";
import { Conv2d } from "./convolution.ts";
import { type Initializer, normal, type Seed, seedsOf } from "./initializers.ts";
import { Linear } from "./layers.ts";
import { Module } from "./module.ts";

/** How a block's input reaches its output where their shapes differ: a 1 × 1 convolution, or zeros for new channels. */
export type Shortcut = "projection" | "padding";
const SHORTCUTS: readonly Shortcut[] = ["projection", "padding"];

export interface ResidualBlockOptions {
  /** Steps of the first convolution, in pixels. Default 1. */
  readonly stride?: number;
  /** `projection` (the paper's option B, default) or `padding` (option A, without parameters). */
  readonly shortcut?: Shortcut;
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
}

/** Normal with deviation √(2 / fan-out), which keeps the gradients' variance through relu. Source: arXiv:1502.01852. */
const heNormal: Initializer = (shape, random) => {
  const [out = 1, , ...kernel] = shape;
  const fanOut = kernel.reduce((a, b) => a * b, out);
  return normal({ deviation: Math.sqrt(2 / fanOut) })(shape, random);
};

/** A convolution without a bias, which the norm behind it would take away again, and that norm. */
class ConvNorm extends Module {
  readonly convolution: Conv2d;
  readonly norm: BatchNorm2d;

  constructor(inputs: number, outputs: number, kernel: number, options: { stride: number; seed: Seed }) {
    super();
    const padding = (kernel - 1) / 2;
    this.convolution = new Conv2d(inputs, outputs, kernel, {
      ...options,
      padding,
      bias: false,
      initialWeight: heNormal,
    });
    this.norm = new BatchNorm2d(outputs);
  }

  forward(x: Tensor): Tensor {
    return this.norm.forward(this.convolution.forward(x));
  }
}

/**
 * Two 3 × 3 convolutions with batch norms, added to what came in: (batch, in, height, width) → (batch, out, ⌈height /
 * stride⌉, ⌈width / stride⌉).
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for bad options.
 * @example
 * new nn.ResidualBlock(16, 32, { stride: 2 }).forward(x); // x [8, 16, 32, 32] → [8, 32, 16, 16]
 */
export class ResidualBlock extends Module {
  readonly first: ConvNorm;
  readonly second: ConvNorm;
  readonly projection: ConvNorm | null;
  readonly stride: number;

  constructor(inputs: number, outputs: number, options: ResidualBlockOptions = {}) {
    super();
    requireKnownKeys("ResidualBlock", options, ["stride", "shortcut", "seed"]);
    const { stride = 1, shortcut = "projection" } = options;
    requireShortcut("ResidualBlock", shortcut);
    requireInteger("ResidualBlock: input channels", inputs, 1);
    requireInteger("ResidualBlock: output channels", outputs, shortcut === "padding" ? inputs : 1);
    requireInteger("ResidualBlock: stride", stride, 1);
    const seed = seedsOf(options.seed);
    this.stride = stride;
    this.first = new ConvNorm(inputs, outputs, 3, { stride, seed });
    this.second = new ConvNorm(outputs, outputs, 3, { stride: 1, seed });
    const isSame = inputs === outputs && stride === 1;
    this.projection = isSame || shortcut === "padding" ? null : new ConvNorm(inputs, outputs, 1, { stride, seed });
  }

  forward(x: Tensor): Tensor {
    const residual = this.second.forward(this.first.forward(x).relu());
    const passed = this.projection === null ? padded(every(x, this.stride), residual) : this.projection.forward(x);
    return residual.add(passed).relu();
  }
}

function requireShortcut(subject: string, shortcut: Shortcut): void {
  if (SHORTCUTS.includes(shortcut)) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: shortcut is ${JSON.stringify(shortcut)}, expected one of ${SHORTCUTS.join(", ")}`,
  );
}

/** Every `stride`-th pixel of height and width. */
function every(x: Tensor, stride: number): Tensor {
  return stride === 1 ? x : [2, 3].reduce((value, axis) => everyAlong(value, axis, stride), x);
}

/** The first of each `stride` along one axis; where they do not divide it, zeros complete the last. */
function everyAlong(x: Tensor, axis: number, stride: number): Tensor {
  const extent = x.shape[axis] ?? 1;
  const count = Math.ceil(extent / stride);
  const [before, after] = [x.shape.slice(0, axis), x.shape.slice(axis + 1)];
  const rest = zeros([...before, count * stride - extent, ...after], x.dtype);
  const whole = count * stride === extent ? x : concatenate([x, rest], axis);
  return whole
    .reshape([...before, count, stride, ...after])
    .slice(axis + 1, 0, 1)
    .reshape([...before, count, ...after]);
}

/** `x` with zeros for the channels that `like` has more. */
function padded(x: Tensor, { shape }: Tensor): Tensor {
  const [batch = 1, channels = 1, height = 1, width = 1] = shape;
  const missing = channels - (x.shape[1] ?? channels);
  if (missing === 0) return x;
  return concatenate([x, zeros([batch, missing, height, width], x.dtype)], 1);
}

export interface ResNetOptions {
  /** Number of layers with weights: 6 n + 2 for n blocks in each of three stages. Default 20. */
  readonly depth?: number;
  /** Default 10. */
  readonly classes?: number;
  /** Channels of the pictures. Default 3. */
  readonly channels?: number;
  /** Channels of the first stage; the others have twice and four times as many. Default 16. */
  readonly width?: number;
  /** Default `projection`. */
  readonly shortcut?: Shortcut;
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
  /**
   * Blocks whose values backward recomputes (see `checkpoint`): "all", or positions from 0 on. Default none, which leaves the
   * choice to `compile(fn, { memoryBudget })`. Loss, gradients and running statistics have the same bits either way.
   */
  readonly checkpointBlocks?: BlockChoice;
}

const KEYS = ["depth", "classes", "channels", "width", "shortcut", "seed", "checkpointBlocks"];

/**
 * A classifier: (batch, channels, height, width) → logits (batch, classes). A convolution, three stages of residual blocks
 * of which the second and third halve the picture, the mean over what is left, and a linear map. Depth 20 on colour pictures
 * has 272 474 parameters (269 722 with padding). Convolutions start normal with deviation √(2 / fan-out).
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for bad options.
 * @example
 * const model = new nn.ResNet({ depth: 32, classes: 100 });
 * const loss = autocast("bfloat16", () => crossEntropy(model.forward(pictures), labels));
 */
export class ResNet extends Module {
  readonly options: Readonly<Required<Omit<ResNetOptions, "seed" | "checkpointBlocks">>>;
  readonly stem: ConvNorm;
  readonly blocks: readonly ResidualBlock[];
  readonly head: Linear;
  readonly #recompute: (block: number) => CheckpointOptions;

  constructor(options: ResNetOptions = {}) {
    super();
    requireKnownKeys("ResNet", options, KEYS);
    const { depth = 20, classes = 10, channels = 3, width = 16, shortcut = "projection" } = options;
    requireDepth(depth);
    requireInteger("ResNet: classes", classes, 1);
    requireInteger("ResNet: channels", channels, 1);
    requireInteger("ResNet: width", width, 1);
    requireShortcut("ResNet", shortcut);
    this.options = { depth, classes, channels, width, shortcut };
    const seed = seedsOf(options.seed);
    const perStage = (depth - 2) / 6;
    this.#recompute = recomputedBlocks("ResNet", options.checkpointBlocks ?? [], 3 * perStage);
    this.stem = new ConvNorm(channels, width, 3, { stride: 1, seed });
    this.blocks = Array.from({ length: 3 * perStage }, (_, i) => {
      const stage = Math.floor(i / perStage);
      const isFirst = i % perStage === 0;
      const [inputs, outputs] = [width * 2 ** Math.max(0, isFirst ? stage - 1 : stage), width * 2 ** stage];
      return new ResidualBlock(inputs, outputs, { stride: isFirst && stage > 0 ? 2 : 1, shortcut, seed });
    });
    this.head = new Linear(4 * width, classes, { seed });
    this.namedParameters();
    this.namedBuffers();
  }

  /** @throws BinadeError `shape.mismatch` for other channels; `shape.invalid` for another number of axes. */
  forward(pictures: Tensor): Tensor {
    const features = this.blocks.reduce(
      (x, block, i) => checkpoint(() => block.forward(x), this.#recompute(i)),
      this.stem.forward(pictures).relu(),
    );
    return this.head.forward(features.mean({ axes: [2, 3] }));
  }
}

function requireDepth(depth: number): void {
  if (Number.isSafeInteger(depth) && depth >= 8 && depth % 6 === 2) return;
  const near = Math.max(8, 6 * Math.round((depth - 2) / 6) + 2);
  throw new BinadeError(
    "value.range",
    `ResNet: depth: expected 6 n + 2 layers for n blocks in each of three stages, got ${depth}; ${Number.isFinite(near) ? `${near} is near` : "20 is usual"}`,
  );
}

/**
 * A `ResNet` of depth 20.
 *
 * @example
 * nn.resnet20({ classes: 10, seed: 1 }).parameterCount; // 272474
 */
export const resnet20 = (options: Omit<ResNetOptions, "depth"> = {}): ResNet => new ResNet({ ...options, depth: 20 });
