/** Factories of tensors. */
import { BinadeError, showValue } from "../errors.ts";
import { byteSize, type DType, encodeArray } from "../formats/index.ts";
import { build } from "../ir/graph.ts";
import { OPS } from "../ops/index.ts";
import { type Shape, showShape, sizeOf } from "../ops/shape.ts";
import {
  requireDType,
  requireInteger,
  requireKnownKeys,
  requireNumber,
  requireOptions,
  requireShape,
} from "../precision/options.ts";
import type { Device } from "./device.ts";
import { defaultDevice } from "./devices.ts";
import { leafFromBytes } from "./runtime.ts";
import { Tensor } from "./tensor.ts";

/** Numbers nested as deep as the tensor has axes, or flat with a shape. */
export type Nested = number | boolean | readonly Nested[] | ArrayLike<number>;

export interface TensorOptions {
  /** Default float32; int32 for an Int32Array, uint8 for a Uint8Array, uint32 for a Uint32Array. */
  readonly dtype?: DType;
  /** Default: the nesting of the values. */
  readonly shape?: Shape;
  /** Default: the default device. */
  readonly device?: Device;
}

/**
 * A tensor of given values, rounded once to `dtype`.
 *
 * @throws BinadeError `shape.mismatch` if rows differ in length or the values do not fill the shape; `option.unknown`.
 * @example
 * tensor([[1, 2], [3, 4]]); // float32 [2, 2]
 * tensor(new Uint8Array(6), { shape: [2, 3] }); // uint8 [2, 3]
 */
export function tensor(values: Nested, options: TensorOptions = {}): Tensor {
  requireKnownKeys("tensor", options, ["dtype", "shape", "device"]);
  const flat: number[] | ArrayLike<number> = ArrayBuffer.isView(values) ? (values as ArrayLike<number>) : [];
  const nested = ArrayBuffer.isView(values) ? [flat.length] : nestingOf(values, flat as number[]);
  const shape = options.shape ?? nested;
  requireShape("tensor: shape", shape);
  if (sizeOf(shape) !== flat.length) {
    throw new BinadeError(
      "shape.mismatch",
      `tensor: shape ${showShape(shape)} holds ${sizeOf(shape)} elements, got ${flat.length}; give as many`,
    );
  }
  const dtype = options.dtype ?? dtypeOfArray(values);
  requireDType("tensor: dtype", dtype);
  const stored = encodeArray(flat, dtype);
  return fromBytes(new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength), { ...options, shape, dtype });
}

function dtypeOfArray(values: Nested): DType {
  if (values instanceof Int32Array) return "int32";
  if (values instanceof Uint32Array) return "uint32";
  if (values instanceof Uint8Array) return "uint8";
  return "float32";
}

function nestingOf(values: Nested, flat: number[]): Shape {
  if (typeof values === "number" || typeof values === "boolean") {
    flat.push(Number(values));
    return [];
  }
  if (typeof values !== "object" || values === null || !Number.isInteger(values.length)) {
    const sentence = `tensor: expected numbers, or lists of them, got ${showValue(values)}`;
    throw new BinadeError("option.invalid", `${sentence}; give an array or a typed array`);
  }
  const rows = Array.from(values as ArrayLike<Nested>);
  const shapes = rows.map((row) => nestingOf(row, flat));
  const [first = []] = shapes;
  if (shapes.some((s) => s.join() !== first.join())) {
    throw new BinadeError(
      "shape.mismatch",
      `tensor: rows have shapes ${showShape(first)} and ${showShape(shapes.find((s) => s.join() !== first.join()) ?? [])}; make them equal`,
    );
  }
  return [rows.length, ...first];
}

/**
 * A tensor over stored bytes, copied: row-major, little endian, 16-bit floats as their bits. The bytes must be as many as the
 * shape's elements take.
 *
 * @throws BinadeError `shape.mismatch` for another number of bytes.
 * @example
 * fromBytes(new Uint8Array([0x80, 0x3f]), { shape: [1], dtype: "bfloat16" }); // [1]
 */
export function fromBytes(
  bytes: Uint8Array,
  options: TensorOptions & { readonly shape: Shape; readonly dtype: DType },
): Tensor {
  requireOptions("fromBytes", options);
  const { shape, dtype } = options;
  requireShape("fromBytes: shape", shape);
  requireDType("fromBytes: dtype", dtype);
  if (!(bytes instanceof Uint8Array)) {
    const sentence = `fromBytes: expected a Uint8Array, got ${showValue(bytes)}`;
    throw new BinadeError("option.invalid", `${sentence}; make a view of the bytes`);
  }
  const byteLength = sizeOf(shape) * byteSize(dtype);
  if (bytes.byteLength !== byteLength) {
    throw new BinadeError(
      "shape.mismatch",
      `fromBytes: ${dtype} ${showShape(shape)} takes ${byteLength} bytes, got ${bytes.byteLength}; give as many`,
    );
  }
  return new Tensor(leafFromBytes(options.device ?? defaultDevice(), shape, dtype, bytes));
}

/**
 * Every element `value`, rounded to `dtype` (default float32); nothing is stored.
 *
 * @example
 * full([2, 3], 0.5, "bfloat16");
 */
export function full(shape: Shape, value: number, dtype: DType = "float32"): Tensor {
  return filled("full", shape, value, dtype);
}

function filled(subject: string, shape: Shape, value: number, dtype: DType): Tensor {
  requireShape(`${subject}: shape`, shape);
  requireNumber(`${subject}: value`, value, () => true, "a number");
  requireDType(`${subject}: dtype`, dtype);
  return new Tensor(build.node(OPS.full, [], { value, shape, dtype }));
}
/** Zeros, float32 by default. */
export const zeros = (shape: Shape, dtype: DType = "float32"): Tensor => filled("zeros", shape, 0, dtype);
/** Ones, float32 by default. */
export const ones = (shape: Shape, dtype: DType = "float32"): Tensor => filled("ones", shape, 1, dtype);
/** 0, 1, …, length−1 in int32. */
export function arange(length: number): Tensor {
  requireInteger("arange: length", length, 0);
  return new Tensor(build.iota(length));
}
