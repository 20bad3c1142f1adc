/** Convolutions by themselves, forward and both gradients: the layers of ResNet-20 on 32 × 32 pictures, batch 64. */
import { compile } from "../tensor/compile.ts";
import { conv2d } from "../tensor/convolution.ts";
import { gradientsOf } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Precision } from "../train/presets.ts";
import { kernel } from "./kernels.ts";
import { BYTES, corner, KERNEL_DTYPE, numbers, type Workload } from "./workload.ts";

const BATCH = 64;
const KERNEL = 3;

interface Layer {
  readonly channels: number;
  readonly outputs: number;
  /** Rows and columns of the input. */
  readonly size: number;
  readonly stride: number;
}

/** 3 × 3, padding 1. */
const LAYERS: readonly Layer[] = [
  { channels: 3, outputs: 16, size: 32, stride: 1 },
  { channels: 16, outputs: 16, size: 32, stride: 1 },
  { channels: 16, outputs: 32, size: 32, stride: 2 },
  { channels: 32, outputs: 32, size: 16, stride: 1 },
  { channels: 32, outputs: 64, size: 16, stride: 2 },
  { channels: 64, outputs: 64, size: 8, stride: 1 },
];

/** Forward, gradient of the input (not of pictures: nobody needs it) and gradient of the weight: as many operations each. */
export function convWorkloads(precision: Precision): Workload[] {
  const dtype = KERNEL_DTYPE[precision];
  return LAYERS.flatMap(({ channels, outputs, size, stride }) => {
    const out = size / stride;
    const [inputShape, weightShape, outputShape] = [
      [BATCH, channels, size, size],
      [outputs, channels, KERNEL, KERNEL],
      [BATCH, outputs, out, out],
    ] as const;
    const elements = BATCH * (channels * size ** 2 + outputs * out ** 2) + outputs * channels * KERNEL ** 2;
    const work = {
      operations: 2 * BATCH * outputs * out ** 2 * channels * KERNEL ** 2,
      bytes: elements * BYTES[dtype],
    };
    const forward = (x: Tensor, w: Tensor): Tensor => conv2d(x, w, undefined, { stride, padding: 1 });
    /** Of one operand, under a cotangent `g` of the output. */
    const gradient = (operand: 0 | 1) =>
      compile((x: Tensor, w: Tensor, g: Tensor) =>
        gradientsOf(forward(x, w).mul(g).sum(), [operand === 0 ? x : w]).map(corner),
      );
    const operands = (): readonly [Tensor, Tensor] => [numbers(inputShape, dtype), numbers(weightShape, dtype)];
    const withCotangent = (): readonly [Tensor, Tensor, Tensor] => [...operands(), numbers(outputShape, dtype)];
    const name = `conv ${channels}-${outputs} ${size}x${size}${stride === 1 ? "" : `/${stride}`}`;
    const step = compile((x: Tensor, w: Tensor) => corner(forward(x, w)));
    const rows = [
      kernel(name, precision, work, () => ({ step, args: operands() })),
      kernel(`${name} input`, precision, work, () => ({ step: gradient(0), args: withCotangent() })),
      kernel(`${name} weight`, precision, work, () => ({ step: gradient(1), args: withCotangent() })),
    ];
    return channels === 3 ? rows.filter((_, i) => i !== 1) : rows;
  });
}
