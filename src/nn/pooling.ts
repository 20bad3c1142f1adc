/** Layers without parameters that change the extents of pictures and sequences. */
import { BinadeError, showValue } from "../errors.ts";
import { requireInteger, requireKnownKeys } from "../precision/options.ts";
import type { PerAxis } from "../tensor/convolution.ts";
import {
  type AveragePoolOptions,
  adaptiveAvgPool1d,
  adaptiveAvgPool2d,
  adaptiveMaxPool1d,
  adaptiveMaxPool2d,
  avgPool1d,
  avgPool2d,
  flatten,
  type MaxPoolOptions,
  maxPool1d,
  maxPool2d,
  type UpsampleOptions,
  upsample,
} from "../tensor/pooling.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "./module.ts";

/** Options of a pool without the kernel size, which comes first. */
export type PoolLayerOptions = Omit<MaxPoolOptions, "kernelSize">;
export type AveragePoolLayerOptions = Omit<AveragePoolOptions, "kernelSize">;

const MAX_KEYS = ["stride", "padding", "dilation"] as const;
const AVERAGE_KEYS = ["stride", "padding", "countIncludePad"] as const;

/**
 * `maxPool1d` with these options. What the numbers must be is checked in `forward`, where the extents are known.
 *
 * @example
 * new nn.MaxPool1d(2).forward(x); // x [8, 16, 32] → [8, 16, 16]
 */
export class MaxPool1d extends Module {
  readonly options: MaxPoolOptions;

  constructor(kernelSize: PerAxis, options: PoolLayerOptions = {}) {
    super();
    requireKnownKeys("MaxPool1d", options, MAX_KEYS);
    this.options = { ...options, kernelSize };
  }

  forward(x: Tensor): Tensor {
    return maxPool1d(x, this.options);
  }
}

/**
 * `maxPool2d` with these options.
 *
 * @example
 * new nn.MaxPool2d(3, { stride: 2, padding: 1 }).forward(x); // x [8, 16, 32, 32] → [8, 16, 16, 16]
 */
export class MaxPool2d extends Module {
  readonly options: MaxPoolOptions;

  constructor(kernelSize: PerAxis, options: PoolLayerOptions = {}) {
    super();
    requireKnownKeys("MaxPool2d", options, MAX_KEYS);
    this.options = { ...options, kernelSize };
  }

  forward(x: Tensor): Tensor {
    return maxPool2d(x, this.options);
  }
}

/**
 * `avgPool1d` with these options.
 *
 * @example
 * new nn.AvgPool1d(2).forward(x); // x [8, 16, 32] → [8, 16, 16]
 */
export class AvgPool1d extends Module {
  readonly options: AveragePoolOptions;

  constructor(kernelSize: PerAxis, options: AveragePoolLayerOptions = {}) {
    super();
    requireKnownKeys("AvgPool1d", options, AVERAGE_KEYS);
    this.options = { ...options, kernelSize };
  }

  forward(x: Tensor): Tensor {
    return avgPool1d(x, this.options);
  }
}

/**
 * `avgPool2d` with these options.
 *
 * @example
 * new nn.AvgPool2d(2).forward(x); // x [8, 16, 32, 32] → [8, 16, 16, 16]
 */
export class AvgPool2d extends Module {
  readonly options: AveragePoolOptions;

  constructor(kernelSize: PerAxis, options: AveragePoolLayerOptions = {}) {
    super();
    requireKnownKeys("AvgPool2d", options, AVERAGE_KEYS);
    this.options = { ...options, kernelSize };
  }

  forward(x: Tensor): Tensor {
    return avgPool2d(x, this.options);
  }
}

/** A size that adaptive pools share. */
abstract class AdaptivePool extends Module {
  readonly outputSize: PerAxis;

  constructor(outputSize: PerAxis) {
    super();
    const list = typeof outputSize === "number" ? [outputSize] : outputSize;
    const subject = `${this.constructor.name}: outputSize`;
    if (!Array.isArray(list)) {
      const sentence = `${subject}: expected a number or a list of them, got ${showValue(list)}`;
      throw new BinadeError("option.invalid", `${sentence}; give the extents of the result`);
    }
    for (const n of list) requireInteger(subject, n, 1);
    this.outputSize = outputSize;
  }
}

/**
 * Means of windows that divide the length evenly: (batch, channels, length) → (batch, channels, outputSize).
 *
 * @example
 * new nn.AdaptiveAvgPool1d(4).forward(x); // x [8, 16, 30] → [8, 16, 4]
 */
export class AdaptiveAvgPool1d extends AdaptivePool {
  forward(x: Tensor): Tensor {
    return adaptiveAvgPool1d(x, this.outputSize);
  }
}

/**
 * Means of windows that divide height and width evenly: (batch, channels, height, width) → (batch, channels, …outputSize).
 *
 * @example
 * new nn.AdaptiveAvgPool2d(1).forward(x); // x [8, 64, 7, 9] → [8, 64, 1, 1]
 */
export class AdaptiveAvgPool2d extends AdaptivePool {
  forward(x: Tensor): Tensor {
    return adaptiveAvgPool2d(x, this.outputSize);
  }
}

/**
 * Maxima of windows that divide the length evenly: (batch, channels, length) → (batch, channels, outputSize).
 *
 * @example
 * new nn.AdaptiveMaxPool1d(4).forward(x); // x [8, 16, 30] → [8, 16, 4]
 */
export class AdaptiveMaxPool1d extends AdaptivePool {
  forward(x: Tensor): Tensor {
    return adaptiveMaxPool1d(x, this.outputSize);
  }
}

/**
 * Maxima of windows that divide height and width evenly: (batch, channels, height, width) → (batch, channels, …outputSize).
 *
 * @example
 * new nn.AdaptiveMaxPool2d([2, 3]).forward(x); // x [8, 64, 7, 9] → [8, 64, 2, 3]
 */
export class AdaptiveMaxPool2d extends AdaptivePool {
  forward(x: Tensor): Tensor {
    return adaptiveMaxPool2d(x, this.outputSize);
  }
}

/**
 * `upsample` with these options.
 *
 * @throws BinadeError `option.invalid` or `option.unknown` for bad options.
 * @example
 * new nn.Upsample({ scaleFactor: 2, mode: "bilinear" }).forward(x); // x [8, 16, 4, 4] → [8, 16, 8, 8]
 */
export class Upsample extends Module {
  readonly options: UpsampleOptions;

  constructor(options: UpsampleOptions) {
    super();
    requireKnownKeys("Upsample", options, ["size", "scaleFactor", "mode", "alignCorners"]);
    if ((options.size === undefined) === (options.scaleFactor === undefined)) {
      throw new BinadeError("option.invalid", "Upsample: expected either size or scaleFactor; give one of them");
    }
    this.options = options;
  }

  forward(x: Tensor): Tensor {
    return upsample(x, this.options);
  }
}

/**
 * All axes from `start` to `end` as one, (batch, …) → (batch, elements) by default.
 *
 * @throws BinadeError `shape.invalid` or `value.range` in `forward` for axes that x does not have.
 * @example
 * new nn.Flatten().forward(x); // x [8, 64, 1, 1] → [8, 64]
 */
export class Flatten extends Module {
  readonly start: number;
  readonly end: number;

  constructor(start = 1, end = -1) {
    super();
    this.start = start;
    this.end = end;
  }

  forward(x: Tensor): Tensor {
    return flatten(x, this.start, this.end);
  }
}
