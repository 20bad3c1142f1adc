/** Convolution layers over one or two axes, and transposed ones. Channels come second. */
import { BinadeError } from "../errors.ts";
import { inFullPrecision } from "../precision/autocast.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import {
  type ConvolutionOptions,
  conv1d,
  conv2d,
  convTranspose1d,
  convTranspose2d,
  type PerAxis,
  perAxis,
  type TransposedConvolutionOptions,
} from "../tensor/convolution.ts";
import { convolutionMap, transposedConvolutionMap } from "../tensor/fp8-maps.ts";
import type { BilinearMap } from "../tensor/fp8-product.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { guarded } from "../tensor/trace.ts";
import { Variable } from "../tensor/variable.ts";
import type { Fp8 } from "./fp8.ts";
import { type Initializer, kaimingUniform, type Seed, seedsOf, uniform } from "./initializers.ts";
import { Module } from "./module.ts";

interface ParameterOptions {
  /** Whether a bias is added. Default true. */
  readonly bias?: boolean;
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
  /** Default uniform in ±1/√fan-in, as PyTorch. */
  readonly initialWeight?: Initializer;
  /** Default uniform in ±1/√fan-in, as PyTorch. */
  readonly initialBias?: Initializer;
}

export interface ConvolutionLayerOptions extends ConvolutionOptions, ParameterOptions {}
export interface TransposedConvolutionLayerOptions extends TransposedConvolutionOptions, ParameterOptions {}

const PARAMETER_KEYS = ["groups", "bias", "seed", "initialWeight", "initialBias"] as const;

/** What every convolution layer holds. */
export abstract class Convolution extends Module {
  readonly weight: Variable;
  readonly bias: Variable | null;
  /** The 8-bit recipe that `fp8` gave the layer, with its state. */
  fp8: Fp8 | null = null;

  /** What an 8-bit recipe computes in place of the convolution; for `fp8`. */
  abstract bilinearMap(): BilinearMap;

  /** The convolution, or what the recipe makes of it. */
  protected convolve(x: Tensor, plain: (x: Tensor, weight: Tensor, bias?: Tensor) => Tensor): Tensor {
    const fp8 = guarded(() => this.fp8);
    const operands = [x, this.weight.read(), this.bias?.read()] as const;
    return fp8 === null || inFullPrecision() ? plain(...operands) : fp8.apply(...operands);
  }

  /** `subject` names the layer in errors; the weight is (first, second / groups, …kernel), the bias (out). */
  protected constructor(
    subject: string,
    channels: { readonly first: number; readonly second: number; readonly out: number },
    kernelSize: PerAxis,
    rank: number,
    options: ParameterOptions & { readonly groups?: number },
  ) {
    super();
    const kernel = perAxis(`${subject}: kernel size`, kernelSize, rank, 1);
    const groups = options.groups ?? 1;
    requireInteger(`${subject}: groups`, groups, 1);
    if (channels.first % groups !== 0 || channels.second % groups !== 0) {
      throw new BinadeError(
        "value.range",
        `${subject}: groups ${groups} does not divide ${channels.first} and ${channels.second} channels; change groups or the channels`,
      );
    }
    const seeds = seedsOf(options.seed);
    const shape = [channels.first, channels.second / groups, ...kernel];
    const init = options.initialWeight ?? kaimingUniform();
    const random = seeds.next();
    this.weight = new Variable("weight", shape, "float32", () => init(shape, random));
    const bound = 1 / Math.sqrt(shape.slice(1).reduce((a, b) => a * b, 1));
    const initialBias = options.initialBias ?? uniform({ low: -bound, high: bound });
    const biasShape = [channels.out];
    this.bias =
      (options.bias ?? true) ? new Variable("bias", biasShape, "float32", initialBias(biasShape, seeds.next())) : null;
  }
}

function requireChannels(subject: string, inputs: number, outputs: number): void {
  requireInteger(`${subject}: input channels`, inputs, 1);
  requireInteger(`${subject}: output channels`, outputs, 1);
}

abstract class Forward extends Convolution {
  readonly options: ConvolutionOptions;

  protected constructor(
    rank: number,
    inputs: number,
    outputs: number,
    kernelSize: PerAxis,
    options: ConvolutionLayerOptions,
  ) {
    const subject = `Conv${rank}d`;
    requireKnownKeys(subject, options, ["stride", "padding", "dilation", ...PARAMETER_KEYS]);
    requireChannels(subject, inputs, outputs);
    super(subject, { first: outputs, second: inputs, out: outputs }, kernelSize, rank, options);
    const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
    this.options = { stride, padding, dilation, groups };
  }
}

abstract class Transposed extends Convolution {
  readonly options: TransposedConvolutionOptions;

  protected constructor(
    rank: number,
    inputs: number,
    outputs: number,
    kernelSize: PerAxis,
    options: TransposedConvolutionLayerOptions,
  ) {
    const subject = `ConvTranspose${rank}d`;
    requireKnownKeys(subject, options, ["stride", "padding", "outputPadding", "dilation", ...PARAMETER_KEYS]);
    requireChannels(subject, inputs, outputs);
    super(subject, { first: inputs, second: outputs, out: outputs }, kernelSize, rank, options);
    const { stride = 1, padding = 0, outputPadding = 0, dilation = 1, groups = 1 } = options;
    this.options = { stride, padding, outputPadding, dilation, groups };
  }
}

/**
 * Convolution along one axis: (batch, in, length) → (batch, out, …), in the compute dtype under autocast. The weight is
 * (out, in / groups, taps), the bias (out), both float32; initial values as PyTorch's.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for bad options.
 * @example
 * new nn.Conv1d(4, 16, 5, { padding: "same" }).forward(x); // x [8, 4, 100] → [8, 16, 100]
 */
export class Conv1d extends Forward {
  constructor(inputs: number, outputs: number, kernelSize: PerAxis, options: ConvolutionLayerOptions = {}) {
    super(1, inputs, outputs, kernelSize, options);
  }

  forward(x: Tensor): Tensor {
    return this.convolve(x, (...operands) => conv1d(...operands, this.options));
  }

  override bilinearMap(): BilinearMap {
    return convolutionMap(1, this.options);
  }
}

/**
 * Convolution over height and width: (batch, in, height, width) → (batch, out, …), otherwise as `Conv1d`.
 *
 * @example
 * new nn.Conv2d(3, 16, 3, { stride: 2, padding: 1 }).forward(x); // x [8, 3, 32, 32] → [8, 16, 16, 16]
 */
export class Conv2d extends Forward {
  constructor(inputs: number, outputs: number, kernelSize: PerAxis, options: ConvolutionLayerOptions = {}) {
    super(2, inputs, outputs, kernelSize, options);
  }

  forward(x: Tensor): Tensor {
    return this.convolve(x, (...operands) => conv2d(...operands, this.options));
  }

  override bilinearMap(): BilinearMap {
    return convolutionMap(2, this.options);
  }
}

/**
 * Transposed convolution along one axis: (batch, in, length) → (batch, out, …). The weight is (in, out / groups, taps).
 *
 * @throws BinadeError as `Conv1d`.
 * @example
 * new nn.ConvTranspose1d(16, 4, 4, { stride: 2, padding: 1 }).forward(x); // x [8, 16, 50] → [8, 4, 100]
 */
export class ConvTranspose1d extends Transposed {
  constructor(inputs: number, outputs: number, kernelSize: PerAxis, options: TransposedConvolutionLayerOptions = {}) {
    super(1, inputs, outputs, kernelSize, options);
  }

  forward(x: Tensor): Tensor {
    return this.convolve(x, (...operands) => convTranspose1d(...operands, this.options));
  }

  override bilinearMap(): BilinearMap {
    return transposedConvolutionMap(1, this.options);
  }
}

/**
 * Transposed convolution over height and width, otherwise as `ConvTranspose1d`.
 *
 * @example
 * new nn.ConvTranspose2d(16, 4, 2, { stride: 2 }).forward(x); // x [8, 16, 8, 8] → [8, 4, 16, 16]
 */
export class ConvTranspose2d extends Transposed {
  constructor(inputs: number, outputs: number, kernelSize: PerAxis, options: TransposedConvolutionLayerOptions = {}) {
    super(2, inputs, outputs, kernelSize, options);
  }

  forward(x: Tensor): Tensor {
    return this.convolve(x, (...operands) => convTranspose2d(...operands, this.options));
  }

  override bilinearMap(): BilinearMap {
    return transposedConvolutionMap(2, this.options);
  }
}
