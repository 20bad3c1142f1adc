/** What a benchmark times: one kernel or one training step, with the work that it cannot do without. */
import type { DType } from "../formats/index.ts";
import { tensor } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Precision } from "../train/presets.ts";
import type { PeakKind } from "./peaks.ts";

/** A workload whose tensors and program exist. */
export interface Prepared {
  /** Float operations of a run; a multiply-add is two. */
  readonly operations: number;
  /** Bytes that must move between memory and the processor at least once; null where nobody counted them. */
  readonly bytes: number | null;
  /** Does the work once and waits for its end. */
  run(): Promise<void>;
  /** Bytes of intermediates that the program plans; known after the first run. */
  plannedBytes(): number;
}

export interface Workload {
  /** Such as `matmul 1024 NN`; at most 26 ASCII characters. */
  readonly name: string;
  /** The dtype of its products: of kernels by themselves `fp32`, `bf16` or `fp16`, of steps also the rest, as in `bf16-mixed`. */
  readonly precision: string;
  /** The peak that bounds it: a format's arithmetic (float16 is storage and multiplied in float32), or memory. */
  readonly bound: PeakKind;
  prepare(): Prepared;
}

/** The dtype that a kernel computes in. */
export const KERNEL_DTYPE = {
  fp32: "float32",
  "bf16-mixed": "bfloat16",
  "fp16-mixed": "float16",
} as const satisfies Readonly<Record<Precision, DType>>;

export const BYTES = { float32: 4, bfloat16: 2, float16: 2 } as const;

export const peakOf = (precision: Precision): PeakKind => (precision === "bf16-mixed" ? "bfloat16" : "float32");

/** A kernel's name of a precision: nothing is mixed there. */
export const kernelPrecision = (precision: Precision): string => precision.replace("-mixed", "");

/** Numbers of either sign below 1 that no arithmetic is faster on. */
export function numbers(shape: readonly number[], dtype: DType = "float32"): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(
    Float32Array.from({ length: size }, (_, i) => Math.sin(i * 12.9898)),
    { shape, dtype },
  );
}

/**
 * A few elements of a kernel's result. The whole is computed, into the planned memory, as within a step; returned whole, it
 * would need fresh memory for each run, whose pages cost as much as a small kernel.
 */
export const corner = (x: Tensor): Tensor => x.slice(0, 0, 1);
