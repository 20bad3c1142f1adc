/** Layers that normalise channels: batch norm, whose running statistics are buffers, and group norm. */
import { BinadeError } from "../errors.ts";
import { isFraction, isNonNegative, requireInteger, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { batchNorm, groupNorm } from "../tensor/normalization.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import { Module } from "./module.ts";

const NORM_EPS = 1e-5;

export interface BatchNormLayerOptions {
  /** Added to the variance, ≥ 0. Default 1e-5. */
  readonly eps?: number;
  /** Weight of a batch in the running statistics, from 0 to 1. Default 0.1. */
  readonly momentum?: number;
}

/** (channels) of one value, float32. */
const channelsOf = (name: string, channels: number, value: number): Variable =>
  new Variable(name, [channels], "float32", new Float32Array(channels).fill(value));

/**
 * What batch norms of any rank share. Training normalises by the batch and moves the running statistics, which follow the
 * step: one that is skipped leaves them untouched. Evaluation normalises by the running statistics. Both are buffers, saved
 * with the parameters.
 */
abstract class BatchNorm extends Module {
  readonly weight: Variable;
  readonly bias: Variable;
  readonly runningMean: Variable;
  readonly runningVariance: Variable;
  readonly eps: number;
  readonly momentum: number;
  protected abstract readonly ranks: readonly number[];

  constructor(channels: number, options: BatchNormLayerOptions = {}) {
    super();
    const { name } = this.constructor;
    requireKnownKeys(name, options, ["eps", "momentum"]);
    requireInteger(`${name}: channels`, channels, 1);
    this.eps = options.eps ?? NORM_EPS;
    this.momentum = options.momentum ?? 0.1;
    requireNumber(`${name}: eps`, this.eps, isNonNegative, "a finite number ≥ 0");
    requireNumber(`${name}: momentum`, this.momentum, isFraction, "a number from 0 to 1");
    this.weight = channelsOf("weight", channels, 1);
    this.bias = channelsOf("bias", channels, 0);
    this.runningMean = this.buffer(channelsOf("runningMean", channels, 0));
    this.runningVariance = this.buffer(channelsOf("runningVariance", channels, 1));
  }

  forward(x: Tensor): Tensor {
    const { eps, momentum, training } = this;
    if (!this.ranks.includes(x.shape.length)) {
      const expected = this.ranks.map((rank) => RANKS[rank]).join(" or ");
      throw new BinadeError(
        "shape.invalid",
        `${this.constructor.name}: x is [${x.shape.join(", ")}], expected ${expected}; reshape it`,
      );
    }
    const running = { mean: this.runningMean, variance: this.runningVariance };
    return batchNorm(x, this.weight.read(), this.bias.read(), { running, training, momentum, eps });
  }
}

const RANKS: Readonly<Record<number, string>> = {
  2: "(batch, channels)",
  3: "(batch, channels, length)",
  4: "(batch, channels, height, width)",
};

/**
 * Batch norm of (batch, channels) or (batch, channels, length). See `batchNorm`.
 *
 * @throws BinadeError `shape.invalid` in `forward` for another rank, or one value per channel in training;
 * `shape.mismatch` for other channels; `value.range` or `option.unknown` for bad options.
 * @example
 * new nn.BatchNorm1d(64).forward(x); // x [32, 64]
 */
export class BatchNorm1d extends BatchNorm {
  protected readonly ranks = [2, 3];
}

/**
 * Batch norm of (batch, channels, height, width). See `batchNorm` and `BatchNorm1d`.
 *
 * @example
 * new nn.BatchNorm2d(16).forward(x); // x [8, 16, 32, 32]
 */
export class BatchNorm2d extends BatchNorm {
  protected readonly ranks = [4];
}

export interface GroupNormOptions {
  /** Added to the variance, ≥ 0. Default 1e-5. */
  readonly eps?: number;
}

/**
 * Normalises each group of channels of each example: (batch, channels, …) → the same shape. See `groupNorm`.
 *
 * @throws BinadeError `shape.invalid` for groups that do not divide the channels; `shape.mismatch` in `forward` for other
 * channels; `value.range` or `option.unknown` for bad options.
 * @example
 * new nn.GroupNorm(4, 16).forward(x); // x [8, 16, 32, 32]
 */
export class GroupNorm extends Module {
  readonly groups: number;
  readonly weight: Variable;
  readonly bias: Variable;
  readonly eps: number;

  constructor(groups: number, channels: number, options: GroupNormOptions = {}) {
    super();
    requireKnownKeys("GroupNorm", options, ["eps"]);
    requireInteger("GroupNorm: groups", groups, 1);
    requireInteger("GroupNorm: channels", channels, 1);
    if (channels % groups !== 0) {
      throw new BinadeError(
        "shape.invalid",
        `GroupNorm: ${channels} channels do not divide into ${groups} groups; give a number of groups that divides them`,
      );
    }
    this.groups = groups;
    this.eps = options.eps ?? NORM_EPS;
    requireNumber("GroupNorm: eps", this.eps, isNonNegative, "a finite number ≥ 0");
    this.weight = channelsOf("weight", channels, 1);
    this.bias = channelsOf("bias", channels, 0);
  }

  forward(x: Tensor): Tensor {
    return groupNorm(x, this.groups, this.weight.read(), this.bias.read(), { eps: this.eps });
  }
}
