/** Layers: linear maps, tables, norms, dropout, activations, and their sequence. */
import { BinadeError } from "../errors.ts";
import { inFullPrecision } from "../precision/autocast.ts";
import { requireInteger, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { LINEAR_MAP } from "../tensor/fp8-maps.ts";
import type { BilinearMap } from "../tensor/fp8-product.ts";
import { embedding, layerNorm, linear, rmsNorm, where } from "../tensor/functions.ts";
import { RandomStream } from "../tensor/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { guarded } from "../tensor/trace.ts";
import { Variable } from "../tensor/variable.ts";
import type { Fp8 } from "./fp8.ts";
import {
  type Initializer,
  kaimingUniform,
  normal,
  ones,
  type Seed,
  type SeedSequence,
  seedsOf,
  uniform,
  zeros,
} from "./initializers.ts";
import { Module } from "./module.ts";

/** A float32 parameter with initial values. */
function parameter(name: string, shape: readonly number[], init: Initializer, seeds: SeedSequence): Variable {
  const random = seeds.next();
  return new Variable(name, shape, "float32", () => init(shape, random));
}

export interface LinearOptions {
  /** Whether a bias is added. Default true. */
  readonly bias?: boolean;
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
  /** Default uniform in ±1/√in, as PyTorch. */
  readonly initialWeight?: Initializer;
  /** Default uniform in ±1/√in, as PyTorch. */
  readonly initialBias?: Initializer;
}

/**
 * x wᵀ + bias: (…, in) → (…, out), in the compute dtype under autocast. The weight is (out, in), the bias (out); both are
 * float32, and the bias is added before the result is rounded.
 *
 * @throws BinadeError `value.range` or `option.unknown` for bad options.
 *
 * @example
 * const layer = new nn.Linear(784, 10);
 * layer.forward(x); // x [32, 784] → [32, 10]
 */
export class Linear extends Module {
  readonly weight: Variable;
  readonly bias: Variable | null;
  /** The 8-bit recipe that `fp8` gave the layer, with its state. */
  fp8: Fp8 | null = null;

  constructor(inputWidth: number, outputWidth: number, options: LinearOptions = {}) {
    super();
    requireKnownKeys("Linear", options, ["bias", "seed", "initialWeight", "initialBias"]);
    requireInteger("Linear: input width", inputWidth, 1);
    requireInteger("Linear: output width", outputWidth, 1);
    const bound = 1 / Math.sqrt(inputWidth);
    const seeds = seedsOf(options.seed);
    this.weight = parameter("weight", [outputWidth, inputWidth], options.initialWeight ?? kaimingUniform(), seeds);
    const initialBias = options.initialBias ?? uniform({ low: -bound, high: bound });
    this.bias = (options.bias ?? true) ? parameter("bias", [outputWidth], initialBias, seeds) : null;
  }

  forward(x: Tensor): Tensor {
    const fp8 = guarded(() => this.fp8);
    const operands = [x, this.weight.read(), this.bias?.read()] as const;
    return fp8 === null || inFullPrecision() ? linear(...operands) : fp8.apply(...operands);
  }

  /** What an 8-bit recipe computes in place of `linear`; for `fp8`. */
  bilinearMap(): BilinearMap {
    return LINEAR_MAP;
  }
}

export interface EmbeddingOptions {
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
  /** Default standard normal, as PyTorch. */
  readonly initialWeight?: Initializer;
}

/**
 * Rows of a table by integer: (…) of int32, uint32 or uint8 → (…, width), float32. The weight is (count, width). An index
 * outside 0…count − 1 fails the step with `index.outOfRange` and changes nothing.
 *
 * @example
 * new nn.Embedding(256, 64).forward(tokens); // tokens [8, 32] → [8, 32, 64]
 */
export class Embedding extends Module {
  readonly weight: Variable;

  constructor(count: number, width: number, options: EmbeddingOptions = {}) {
    super();
    requireKnownKeys("Embedding", options, ["seed", "initialWeight"]);
    requireInteger("Embedding: count", count, 1);
    requireInteger("Embedding: width", width, 1);
    this.weight = parameter("weight", [count, width], options.initialWeight ?? normal(), seedsOf(options.seed));
  }

  forward(indices: Tensor): Tensor {
    return embedding(this.weight.read(), indices);
  }
}

export interface LayerNormOptions {
  /** Added to the variance, ≥ 0. Default 1e-5. */
  readonly eps?: number;
}

const NORM_EPS = 1e-5;
/** Ones and zeros need no random numbers, but take their place in a sequence only where a layer draws. */
const constantParameter = (name: string, width: number, init: Initializer): Variable =>
  new Variable(
    name,
    [width],
    "float32",
    init([width], () => 0),
  );

/**
 * (x − mean) / √(variance + eps) · weight + bias over the last axis: (…, width) → the same shape, computed in float32 under
 * autocast. Weight and bias are (width), ones and zeros at first. Source: arXiv:1607.06450.
 *
 * @example
 * new nn.LayerNorm(128).forward(x); // x [8, 32, 128]
 */
export class LayerNorm extends Module {
  readonly weight: Variable;
  readonly bias: Variable;
  readonly eps: number;

  constructor(width: number, options: LayerNormOptions = {}) {
    super();
    requireKnownKeys("LayerNorm", options, ["eps"]);
    requireInteger("LayerNorm: width", width, 1);
    this.eps = options.eps ?? NORM_EPS;
    this.weight = constantParameter("weight", width, ones);
    this.bias = constantParameter("bias", width, zeros);
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight.read(), this.bias.read(), { eps: this.eps });
  }
}

/**
 * x / √(mean(x²) + eps) · weight over the last axis: (…, width) → the same shape. The weight is (width), ones at first.
 * Source: arXiv:1910.07467.
 *
 * @example
 * new nn.RMSNorm(128).forward(x); // x [8, 32, 128]
 */
export class RMSNorm extends Module {
  readonly weight: Variable;
  readonly eps: number;

  constructor(width: number, options: LayerNormOptions = {}) {
    super();
    requireKnownKeys("RMSNorm", options, ["eps"]);
    requireInteger("RMSNorm: width", width, 1);
    this.eps = options.eps ?? NORM_EPS;
    this.weight = constantParameter("weight", width, ones);
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight.read(), { eps: this.eps });
  }
}

export interface DropoutOptions {
  /** Where the masks come from; may be shared by layers. Default a stream of its own with seed 0. */
  readonly random?: RandomStream;
}

/**
 * In training: each element is 0 with `probability`, else x / (1 − probability), by other masks in every step. In
 * evaluation: the identity. Source: Srivastava et al. 2014, in the inverted form.
 *
 * @example
 * const random = new RandomStream(1);
 * const [first, second] = [new nn.Dropout(0.1, { random }), new nn.Dropout(0.1, { random })];
 */
export class Dropout extends Module {
  readonly probability: number;
  readonly random: RandomStream;

  /** @param probability from 0 to less than 1; otherwise BinadeError `value.range`. Default 0.5. */
  constructor(probability = 0.5, options: DropoutOptions = {}) {
    super();
    requireKnownKeys("Dropout", options, ["random"]);
    requireNumber("Dropout: probability", probability, (p) => p >= 0 && p < 1, "a number from 0 to less than 1");
    this.probability = probability;
    this.random = options.random ?? new RandomStream();
  }

  forward(x: Tensor): Tensor {
    if (this.probability === 0 || !this.training) return x;
    const keep = this.random.draw(x.shape).greaterEqual(this.probability);
    return where(keep, x.div(1 - this.probability), 0);
  }
}

/** max(x, 0). */
export class ReLU extends Module {
  forward(x: Tensor): Tensor {
    return x.relu();
  }
}

/** x · Φ(x), exact. */
export class GELU extends Module {
  forward(x: Tensor): Tensor {
    return x.gelu();
  }
}

/** x / (1 + e⁻ˣ). */
export class SiLU extends Module {
  forward(x: Tensor): Tensor {
    return x.silu();
  }
}

/** The hyperbolic tangent. */
export class Tanh extends Module {
  forward(x: Tensor): Tensor {
    return x.tanh();
  }
}

/** 1 / (1 + e⁻ˣ). */
export class Sigmoid extends Module {
  forward(x: Tensor): Tensor {
    return x.sigmoid();
  }
}

/** A module from one tensor to one tensor. */
export interface Layer extends Module {
  forward(x: Tensor): Tensor;
}

/**
 * Layers one after another; parameters are named "layers.0.weight" and so on.
 *
 * @example
 * const model = new nn.Sequential(new nn.Linear(784, 256), new nn.GELU(), new nn.Linear(256, 10));
 */
export class Sequential extends Module {
  readonly layers: readonly Layer[];

  constructor(...layers: readonly Layer[]) {
    super();
    const wrong = layers.findIndex((layer) => !(layer instanceof Module));
    if (wrong >= 0) {
      throw new BinadeError(
        "option.invalid",
        `Sequential: layer ${wrong} is not a module; pass layers such as new nn.GELU()`,
      );
    }
    this.layers = layers;
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((value, layer) => layer.forward(value), x);
  }
}
