/** A GPT: pre-norm transformer decoder with learned positions, exact GELU, and a head of its own. */
import { BinadeError } from "../errors.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import { type CheckpointOptions, checkpoint } from "../tensor/checkpoint.ts";
import { scaledDotProductAttention } from "../tensor/functions.ts";
import { RandomStream } from "../tensor/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type BlockChoice, recomputedBlocks } from "./blocks.ts";
import { type Initializer, normal, type Seed, seedsOf, zeros } from "./initializers.ts";
import { Dropout, Embedding, LayerNorm, Linear } from "./layers.ts";
import { Module } from "./module.ts";

export interface AttentionModuleOptions {
  /** Extent of the last axis of input and output. */
  readonly width: number;
  /** Divides `width`. */
  readonly heads: number;
  /** Default: the process's sequence, see `manualSeed`. */
  readonly seed?: Seed;
  /** Default as in `Linear`. */
  readonly initialWeight?: Initializer;
  /** Default as `initialWeight`. */
  readonly initialProjection?: Initializer;
  /** Default as in `Linear`. */
  readonly initialBias?: Initializer;
}

/** Leaves out what was not given: an option that is present overrides the layer's default. */
const given = <T extends object>(options: { [K in keyof T]: T[K] | undefined }): T =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;

/**
 * Causal self-attention with one product for queries, keys and values: (batch, time, width) → the same.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for bad options.
 * @example
 * new nn.CausalSelfAttention({ width: 128, heads: 4 }).forward(x); // x [8, 64, 128]
 */
export class CausalSelfAttention extends Module {
  readonly heads: number;
  readonly qkv: Linear;
  readonly projection: Linear;

  constructor(options: AttentionModuleOptions) {
    super();
    requireKnownKeys("CausalSelfAttention", options, [
      "width",
      "heads",
      "seed",
      "initialWeight",
      "initialProjection",
      "initialBias",
    ]);
    const { width, heads, initialWeight, initialBias, initialProjection = initialWeight } = options;
    requireHeads("CausalSelfAttention", width, heads);
    const seed = seedsOf(options.seed);
    this.heads = heads;
    this.qkv = new Linear(width, 3 * width, given({ seed, initialWeight, initialBias }));
    this.projection = new Linear(width, width, given({ seed, initialWeight: initialProjection, initialBias }));
  }

  forward(x: Tensor): Tensor {
    const [batch = 1, time = 1, width = 1] = x.shape;
    const joint = this.qkv.forward(x);
    const part = (i: number): Tensor =>
      joint.slice(2, i * width, width).reshape([batch, time, this.heads, width / this.heads]);
    const mixed = scaledDotProductAttention(part(0), part(1), part(2), { causal: true });
    return this.projection.forward(mixed.reshape([batch, time, width]));
  }
}

function requireHeads(subject: string, width: number, heads: number): void {
  requireInteger(`${subject}: width`, width, 1);
  requireInteger(`${subject}: heads`, heads, 1);
  if (width % heads !== 0) {
    throw new BinadeError(
      "option.invalid",
      `${subject}: expected heads to divide width, got ${heads} and ${width}; change one of them`,
    );
  }
}

interface FeedForwardOptions {
  readonly width: number;
  readonly seed: Seed;
  readonly initialWeight: Initializer;
  readonly initialProjection: Initializer;
}

/** Two linear maps with a GELU between, four times as wide inside. */
class FeedForward extends Module {
  readonly expand: Linear;
  readonly contract: Linear;

  constructor({ width, seed, initialWeight, initialProjection }: FeedForwardOptions) {
    super();
    this.expand = new Linear(width, 4 * width, { seed, initialWeight, initialBias: zeros });
    this.contract = new Linear(4 * width, width, { seed, initialWeight: initialProjection, initialBias: zeros });
  }

  forward(x: Tensor): Tensor {
    return this.contract.forward(this.expand.forward(x).gelu());
  }
}

interface BlockOptions extends FeedForwardOptions {
  readonly heads: number;
  readonly dropout: Dropout;
}

class Block extends Module {
  readonly norm1: LayerNorm;
  readonly attention: CausalSelfAttention;
  readonly norm2: LayerNorm;
  readonly feedForward: FeedForward;
  readonly dropout: Dropout;

  constructor(options: BlockOptions) {
    super();
    const { width, heads, dropout, seed, initialWeight, initialProjection } = options;
    this.norm1 = new LayerNorm(width);
    this.attention = new CausalSelfAttention({
      width,
      heads,
      seed,
      initialWeight,
      initialProjection,
      initialBias: zeros,
    });
    this.norm2 = new LayerNorm(width);
    this.feedForward = new FeedForward(options);
    this.dropout = dropout;
  }

  forward(x: Tensor): Tensor {
    const attended = x.add(this.dropout.forward(this.attention.forward(this.norm1.forward(x))));
    return attended.add(this.dropout.forward(this.feedForward.forward(this.norm2.forward(attended))));
  }
}

export interface GPTOptions {
  /** Number of tokens. */
  readonly vocabulary: number;
  /** Greatest sequence length. */
  readonly context: number;
  readonly layers: number;
  /** Divides `width`. */
  readonly heads: number;
  readonly width: number;
  /** Probability with which the sum of embeddings and each branch of a block are dropped. Default 0. */
  readonly dropout?: number;
  /** Seed of the initial values and of dropout. Default 0. */
  readonly seed?: number;
  /** Masks come from here instead of a stream of the model's own. */
  readonly random?: RandomStream;
  /**
   * Blocks whose values backward recomputes (see `checkpoint`): "all", or positions from 0 on. Default none, which leaves the
   * choice to `compile(fn, { memoryBudget })`. Loss and gradients have the same bits either way.
   */
  readonly checkpointBlocks?: BlockChoice;
}

const KEYS = ["vocabulary", "context", "layers", "heads", "width", "dropout", "seed", "random", "checkpointBlocks"];
/** Standard deviation of initial weights. Source: Radford et al. 2019, GPT-2. */
const DEVIATION = 0.02;

/**
 * Logits of the next token. Weights start normal with deviation 0.02, those that end a residual branch with
 * 0.02/√(2 layers), so that the variance of the residual stream does not grow with depth; biases start at 0.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for a bad option.
 * @example
 * const model = new nn.GPT({ vocabulary: 256, context: 256, layers: 6, heads: 6, width: 384 });
 * const loss = autocast("bfloat16", () => crossEntropy(model.forward(tokens), targets));
 */
export class GPT extends Module {
  readonly options: Readonly<Required<Omit<GPTOptions, "random" | "checkpointBlocks">>>;
  /** Position in the sequence of dropout masks; in checkpoints as the buffer "random". */
  readonly random: RandomStream;
  readonly dropout: Dropout;
  readonly tokenEmbedding: Embedding;
  readonly positionEmbedding: Embedding;
  readonly blocks: readonly Block[];
  readonly finalNorm: LayerNorm;
  readonly head: Linear;
  readonly #recompute: (block: number) => CheckpointOptions;

  constructor(options: GPTOptions) {
    super();
    requireKnownKeys("GPT", options, KEYS);
    const { vocabulary, context, layers, heads, width, dropout = 0, seed = 0 } = options;
    requireInteger("GPT: vocabulary", vocabulary, 1);
    requireInteger("GPT: context", context, 1);
    requireInteger("GPT: layers", layers, 1);
    requireHeads("GPT", width, heads);
    this.#recompute = recomputedBlocks("GPT", options.checkpointBlocks ?? [], layers);
    this.options = { vocabulary, context, layers, heads, width, dropout, seed };
    this.random = options.random ?? new RandomStream(seed);
    this.dropout = new Dropout(dropout, { random: this.random });
    const seeds = seedsOf(seed);
    const initialWeight = normal({ deviation: DEVIATION });
    const initialProjection = normal({ deviation: DEVIATION / Math.sqrt(2 * layers) });
    const block = { width, heads, dropout: this.dropout, seed: seeds, initialWeight, initialProjection };
    this.tokenEmbedding = new Embedding(vocabulary, width, { seed: seeds, initialWeight });
    this.positionEmbedding = new Embedding(context, width, { seed: seeds, initialWeight });
    this.blocks = Array.from({ length: layers }, () => new Block(block));
    this.finalNorm = new LayerNorm(width);
    this.head = new Linear(width, vocabulary, { bias: false, seed: seeds, initialWeight });
    this.namedParameters();
    this.namedBuffers();
  }

  /** Tokens that the model sees at once. */
  get context(): number {
    return this.options.context;
  }

  /**
   * @param tokens (batch, time) of int32, uint32 or uint8; time is at most `context`.
   * @returns (batch, time, vocabulary), float32 or the compute dtype under autocast.
   * @throws BinadeError `shape.mismatch` or `dtype.unsupported` for other tokens.
   */
  forward(tokens: Tensor): Tensor {
    const time = this.#requireTokens(tokens);
    const positions = this.positionEmbedding.weight.read().slice(0, 0, time);
    const embedded = this.dropout.forward(this.tokenEmbedding.forward(tokens).add(positions));
    const hidden = this.blocks.reduce(
      (x, block, i) => checkpoint(() => block.forward(x), this.#recompute(i)),
      embedded,
    );
    return this.head.forward(this.finalNorm.forward(hidden));
  }

  #requireTokens({ shape, dtype }: Tensor): number {
    const { context } = this.options;
    const [, time] = shape;
    if (shape.length !== 2 || time === undefined || time > context) {
      throw new BinadeError(
        "shape.mismatch",
        `GPT: expected tokens (batch, time ≤ ${context}), got [${shape.join(", ")}]; shorten or reshape them`,
      );
    }
    if (dtype === "int32" || dtype === "uint32" || dtype === "uint8") return time;
    throw new BinadeError(
      "dtype.unsupported",
      `GPT: expected tokens of int32, uint32 or uint8, got ${dtype}; cast them, for instance tokens.cast("int32")`,
    );
  }
}
