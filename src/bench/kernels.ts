/** Kernels by themselves: matrix products, attention, row kernels and the optimizer's update. */
import { AdamW } from "../optim/adam.ts";
import { type Compiled, compile } from "../tensor/compile.ts";
import { layerNorm, scaledDotProductAttention } from "../tensor/functions.ts";
import { gradients, gradientsOf } from "../tensor/gradients.ts";
import { magnitudesOf } from "../tensor/magnitudes.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import type { Precision } from "../train/presets.ts";
import type { PeakKind } from "./peaks.ts";
import {
  BYTES,
  corner,
  KERNEL_DTYPE,
  kernelPrecision,
  numbers,
  type Prepared,
  peakOf,
  type Workload,
} from "./workload.ts";

/** A workload that runs a compiled function of `args` over and over and drops what it returns. */
export function kernel<A extends readonly Tensor[]>(
  name: string,
  precision: Precision,
  work: Pick<Prepared, "operations" | "bytes">,
  make: () => { readonly step: Compiled<A, Tensor | readonly Tensor[]>; readonly args: NoInfer<Readonly<A>> },
  bound: PeakKind = peakOf(precision),
): Workload {
  return {
    name,
    precision: kernelPrecision(precision),
    bound,
    prepare: () => {
      const { step, args } = make();
      const run = async (): Promise<void> => {
        for (const result of [await step(...args)].flat()) result.dispose();
      };
      return { ...work, run, plannedBytes: () => step.arenaByteLength };
    },
  };
}

const SIZES = [256, 512, 1024] as const;
const LAYOUTS = {
  NN: (a: Tensor, b: Tensor) => a.matmul(b),
  NT: (a: Tensor, b: Tensor) => a.matmul(b.transpose()),
  TN: (a: Tensor, b: Tensor) => a.transpose().matmul(b),
} as const;

/** Square products; T: that operand is transposed. */
export function matmulWorkloads(precision: Precision): Workload[] {
  const dtype = KERNEL_DTYPE[precision];
  return SIZES.flatMap((n) =>
    Object.entries(LAYOUTS).map(([layout, product]) =>
      kernel(`matmul ${n} ${layout}`, precision, { operations: 2 * n ** 3, bytes: 3 * n * n * BYTES[dtype] }, () => ({
        step: compile((a: Tensor, b: Tensor) => corner(product(a, b))),
        args: [numbers([n, n], dtype), numbers([n, n], dtype)] as const,
      })),
    ),
  );
}

const [BATCH, TIME, HEADS, WIDTH] = [8, 256, 6, 64] as const;

/** Causal attention of the GPT `m`, batch × time × heads × width. */
export function attentionWorkloads(precision: Precision): Workload[] {
  const dtype = KERNEL_DTYPE[precision];
  const byteLength = BATCH * TIME * HEADS * WIDTH * BYTES[dtype];
  // Two products, of which causality hides half.
  const forward = 2 * (2 * BATCH * HEADS * TIME * TIME * WIDTH) * 0.5;
  const operands = (): readonly [Tensor, Tensor, Tensor] => {
    const make = (): Tensor => numbers([BATCH, TIME, HEADS, WIDTH], dtype);
    return [make(), make(), make()];
  };
  const attend = (q: Tensor, k: Tensor, v: Tensor): Tensor => scaledDotProductAttention(q, k, v, { causal: true });
  const name = `attention ${BATCH}x${TIME}x${HEADS}x${WIDTH}`;
  return [
    kernel(name, precision, { operations: forward, bytes: 4 * byteLength }, () => ({
      step: compile((q: Tensor, k: Tensor, v: Tensor) => corner(attend(q, k, v))),
      args: operands(),
    })),
    // Backward has five products where forward has two.
    kernel(`${name} grad`, precision, { operations: 3.5 * forward, bytes: 11 * byteLength }, () => ({
      step: compile((q: Tensor, k: Tensor, v: Tensor) =>
        gradientsOf(attend(q, k, v).cast("float32").sum(), [q, k, v]).map(corner),
      ),
      args: operands(),
    })),
  ];
}

/** Operations per element, for the record: memory decides. */
const [NORM_OPERATIONS, SOFTMAX_OPERATIONS, ADAM_OPERATIONS, COUNT_OPERATIONS] = [8, 30, 17, 3];
/** 64 MB of float32, beyond the caches. */
const [ROWS, COLUMNS] = [16384, 1024] as const;
const ADAM_PARAMETERS = 10_000_000;

/** Kernels that memory bounds, in float32. */
export function rowWorkloads(): Workload[] {
  const size = ROWS * COLUMNS;
  const memoryKernel = (name: string, operations: number, arrays: number, f: (x: Tensor) => Tensor): Workload =>
    kernel(
      `${name} ${ROWS}x${COLUMNS}`,
      "fp32",
      { operations: operations * size, bytes: arrays * 4 * size },
      () => ({ step: compile((x: Tensor) => f(x)), args: [numbers([ROWS, COLUMNS])] as const }),
      "memory",
    );
  const [weight, bias] = [numbers([COLUMNS]), numbers([COLUMNS])];
  return [
    memoryKernel("layer norm", NORM_OPERATIONS, 2, (x) => corner(layerNorm(x, weight, bias))),
    memoryKernel("softmax", SOFTMAX_OPERATIONS, 2, (x) => corner(x.softmax())),
    memoryKernel("column sums", 1, 1, (x) => x.sum({ axes: 0 })),
    memoryKernel("magnitudes", COUNT_OPERATIONS, 1, magnitudesOf),
    adamWorkload(),
  ];
}

/** One update of ten million parameters: reads weight and both moments and writes all three; the gradient is a constant. */
function adamWorkload(): Workload {
  const make = () => {
    const weight = new Variable("weight", [ADAM_PARAMETERS], "float32");
    const optimizer = new AdamW([weight], { lr: 1e-3 });
    const step = compile((scale: Tensor) => {
      optimizer.apply(gradients(weight.read().mul(scale).sum(), [weight]));
      return scale;
    });
    return { step, args: [numbers([1]).reshape([])] as const };
  };
  const work = { operations: ADAM_OPERATIONS * ADAM_PARAMETERS, bytes: 6 * 4 * ADAM_PARAMETERS };
  return kernel("AdamW 10M", "fp32", work, make, "memory");
}
