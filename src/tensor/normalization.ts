/** Norms of channels: batch norm with its running statistics, and group norm. Channels come second: (batch, channels, …). */
import { BinadeError } from "../errors.ts";
import { savedDType } from "../precision/autocast.ts";
import { isFraction, isNonNegative, requireInteger, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { composite } from "./apply.ts";
import { full } from "./create.ts";
import { assignFollowing } from "./following.ts";
import type { NormOptions } from "./functions.ts";
import { requireOperands } from "./require.ts";
import { Tensor } from "./tensor.ts";
import type { Variable } from "./variable.ts";

const NORM_EPS = 1e-5;

/** Mean and unbiased variance of each channel so far: float32 variables of shape (channels). */
export interface RunningStatistics {
  readonly mean: Variable;
  readonly variance: Variable;
}

export interface BatchNormOptions extends NormOptions {
  /** Moved towards the batch's statistics in training, used instead of them in evaluation. Default none. */
  readonly running?: RunningStatistics;
  /** Normalise by the batch's own statistics. Default true; false needs `running`. */
  readonly training?: boolean;
  /** Weight of the batch in the running statistics, from 0 to 1. Default 0.1. */
  readonly momentum?: number;
}

/**
 * (x − mean) / √(variance + eps) · weight + bias per channel. In training the statistics are the batch's, with the biased
 * variance, and the running ones move: running ← (1 − momentum) · running + momentum · statistic, with the unbiased variance.
 * They follow the step: if an optimizer skips it, they keep their bits. Inside everything is float32; the result is rounded
 * once. Backward keeps x and the statistics. Source: arXiv:1502.03167.
 *
 * @param x (batch, channels, …) floating @param weight, bias (channels), default ones and zeros
 * @returns x's shape and dtype, under autocast too.
 * @throws BinadeError `shape.invalid` for fewer than two axes, or one value per channel in training; `shape.mismatch`;
 * `option.invalid`, `option.unknown` or `value.range` for a bad option.
 * @example
 * batchNorm(x, weight, bias); // x [8, 16, 32, 32], weight and bias [16]
 */
export function batchNorm(x: Tensor, weight?: Tensor, bias?: Tensor, options: BatchNormOptions = {}): Tensor {
  requireOperands("batchNorm", { x }, { weight, bias });
  requireKnownKeys("batchNorm", options, ["running", "training", "momentum", "eps"]);
  const { running, training = true, momentum = 0.1, eps = NORM_EPS } = options;
  requireNumber("batchNorm: eps", eps, isNonNegative, "a finite number ≥ 0");
  requireNumber("batchNorm: momentum", momentum, isFraction, "a number from 0 to 1");
  const operands = [x.node, ...parametersOf(x, weight, bias)];
  if (!training) return new Tensor(composite("batchNormWith", [...operands, ...statisticsOf(running)], { eps }));
  const result = new Tensor(composite("batchNorm", operands, { eps }));
  const count = x.size / (x.shape[1] ?? 1);
  if (count === 1) {
    throw new BinadeError(
      "shape.invalid",
      `batchNorm: x [${x.shape.join(", ")}] has one value per channel, which has no variance to train on; give a larger batch, or evaluate`,
    );
  }
  if (running !== undefined && count > 1) moveTowards(running, x, momentum, count);
  return result;
}

const parametersOf = (x: Tensor, weight?: Tensor, bias?: Tensor) => {
  const shape = [x.shape[1] ?? 0];
  return [(weight ?? full(shape, 1)).node, (bias ?? full(shape, 0)).node] as const;
};

function statisticsOf(running: RunningStatistics | undefined) {
  if (running !== undefined) return [running.mean.read().node, running.variance.read().node];
  throw new BinadeError(
    "option.invalid",
    "batchNorm: expected running statistics to evaluate with, got none; pass `running`, or leave out training: false",
  );
}

/** Both statistics of the `count` values of each channel. */
function moveTowards({ mean, variance }: RunningStatistics, x: Tensor, momentum: number, count: number): void {
  const axes = x.shape.map((_, axis) => axis).filter((axis) => axis !== 1);
  const statistic = (name: "meanOver" | "varianceOver"): Tensor =>
    new Tensor(composite(name, [x.node], { axes })).cast("float32");
  const move = (variable: Variable, value: Tensor): void => {
    const moved = variable
      .read()
      .mul(1 - momentum)
      .add(value.mul(momentum));
    assignFollowing(variable, moved);
  };
  move(mean, statistic("meanOver"));
  move(variance, statistic("varianceOver").mul(count / (count - 1)));
}

/**
 * (x − mean) / √(variance + eps) · weight + bias with the statistics of each group of channels of one example: biased
 * variance, in float32. Backward keeps the normalised value in the compute dtype, and never x. Source: arXiv:1803.08494.
 *
 * @param x (batch, channels, …) floating @param groups divides the channels: group i holds neighbouring channels
 * @param weight, bias (channels), default ones and zeros
 * @returns the shape of x; float32 under autocast, else x's dtype.
 * @throws BinadeError `shape.invalid` for fewer than two axes, or groups that do not divide the channels; `shape.mismatch`;
 * `option.unknown` or `value.range` for a bad option.
 * @example
 * groupNorm(x, 4, weight, bias); // x [8, 16, 32, 32], weight and bias [16]
 */
export function groupNorm(
  x: Tensor,
  groups: number,
  weight?: Tensor,
  bias?: Tensor,
  options: NormOptions = {},
): Tensor {
  requireOperands("groupNorm", { x }, { weight, bias });
  requireKnownKeys("groupNorm", options, ["eps"]);
  const { eps = NORM_EPS } = options;
  requireInteger("groupNorm: groups", groups, 1);
  requireNumber("groupNorm: eps", eps, isNonNegative, "a finite number ≥ 0");
  const saved = savedDType("groupNorm", x.node);
  return new Tensor(composite("groupNorm", [x.node, ...parametersOf(x, weight, bias)], { eps, groups, saved }));
}
