/** Tensor: a lazy, immutable value. Arithmetic builds a graph; `data()` runs what it needs. */
import { BinadeError, showValue } from "../errors.ts";
import {
  byteSize,
  type DType,
  decodeArray,
  type Float16View,
  isFloat,
  type StorageArray,
  storageArray,
  toFloat16Array,
} from "../formats/index.ts";
import { build, type Node } from "../ir/graph.ts";
import { normalizeAxis, type Shape, showShape, sizeOf } from "../ops/shape.ts";
import { requireBoolean, requireDType, requireInteger, requireKnownKeys, requireShape } from "../precision/options.ts";
import { axesOf, composite, matmul, type PointwiseName, pointwise, type ReduceName, reduce } from "./apply.ts";
import { launch } from "./realize.ts";
import { releaseNode, requireValue } from "./runtime.ts";

/** A tensor or a number that takes part in arithmetic. */
export type Operand = Tensor | number;

/** Reductions take one axis, several, or all (default); `keepAxes` leaves them with extent 1. */
export interface ReduceOptions {
  readonly axes?: number | readonly number[];
  readonly keepAxes?: boolean;
}

/**
 * An n-dimensional array of one dtype. Operations are recorded, not run; `await x.data()` computes.
 * Operands broadcast as in NumPy. Floats of different width meet in the wider one; float16 and bfloat16 never meet silently.
 *
 * @example
 * const x = tensor([[1, 2], [3, 4]]);
 * await x.matmul(x.transpose()).data(); // Float32Array [5, 11, 11, 25]
 */
export class Tensor {
  /** The graph node; for use by other parts of the library. */
  readonly node: Node;
  #disposed = false;

  constructor(node: Node) {
    this.node = node;
  }

  get shape(): Shape {
    return this.node.shape;
  }
  get dtype(): DType {
    return this.node.dtype;
  }
  get size(): number {
    return sizeOf(this.node.shape);
  }

  #unary(name: PointwiseName): Tensor {
    return new Tensor(pointwise(name, [this.node]));
  }
  #binary(name: PointwiseName, other: Operand): Tensor {
    return new Tensor(pointwise(name, [this.node, nodeOf(name, other)]));
  }
  #reduce(name: ReduceName, options: ReduceOptions): Tensor {
    requireReduction(name, options);
    const { axes, keepAxes = false } = options;
    return new Tensor(reduce(name, this.node, axesOf(this.node, axes, name), keepAxes));
  }

  add(other: Operand): Tensor {
    return this.#binary("add", other);
  }
  sub(other: Operand): Tensor {
    return this.#binary("sub", other);
  }
  mul(other: Operand): Tensor {
    return this.#binary("mul", other);
  }
  div(other: Operand): Tensor {
    return this.#binary("div", other);
  }
  pow(other: Operand): Tensor {
    return this.#binary("pow", other);
  }
  minimum(other: Operand): Tensor {
    return this.#binary("minimum", other);
  }
  maximum(other: Operand): Tensor {
    return this.#binary("maximum", other);
  }
  equal(other: Operand): Tensor {
    return this.#binary("equal", other);
  }
  notEqual(other: Operand): Tensor {
    return this.#binary("notEqual", other);
  }
  less(other: Operand): Tensor {
    return this.#binary("less", other);
  }
  lessEqual(other: Operand): Tensor {
    return this.#binary("lessEqual", other);
  }
  greater(other: Operand): Tensor {
    return this.#binary("greater", other);
  }
  greaterEqual(other: Operand): Tensor {
    return this.#binary("greaterEqual", other);
  }
  and(other: Tensor): Tensor {
    return this.#binary("logicalAnd", other);
  }
  or(other: Tensor): Tensor {
    return this.#binary("logicalOr", other);
  }
  not(): Tensor {
    return this.#unary("logicalNot");
  }
  /** The same values as a constant: no gradient flows through. */
  detach(): Tensor {
    return this.#unary("detach");
  }
  neg(): Tensor {
    return this.#unary("neg");
  }
  abs(): Tensor {
    return this.#unary("abs");
  }
  sign(): Tensor {
    return this.#unary("sign");
  }
  floor(): Tensor {
    return this.#unary("floor");
  }
  ceil(): Tensor {
    return this.#unary("ceil");
  }
  /** Ties to even. */
  round(): Tensor {
    return this.#unary("round");
  }
  sqrt(): Tensor {
    return this.#unary("sqrt");
  }
  rsqrt(): Tensor {
    return this.#unary("rsqrt");
  }
  reciprocal(): Tensor {
    return this.#unary("reciprocal");
  }
  square(): Tensor {
    return this.#unary("square");
  }
  exp(): Tensor {
    return this.#unary("exp");
  }
  expm1(): Tensor {
    return this.#unary("expm1");
  }
  log(): Tensor {
    return this.#unary("log");
  }
  log1p(): Tensor {
    return this.#unary("log1p");
  }
  sin(): Tensor {
    return this.#unary("sin");
  }
  cos(): Tensor {
    return this.#unary("cos");
  }
  tanh(): Tensor {
    return this.#unary("tanh");
  }
  erf(): Tensor {
    return this.#unary("erf");
  }
  relu(): Tensor {
    return this.#unary("relu");
  }
  sigmoid(): Tensor {
    return this.#unary("sigmoid");
  }
  silu(): Tensor {
    return this.#unary("silu");
  }
  softplus(): Tensor {
    return this.#unary("softplus");
  }
  /** x · Φ(x), exact; `geluTanh` is the approximation by tanh. */
  gelu(): Tensor {
    return this.#unary("gelu");
  }
  geluTanh(): Tensor {
    return this.#unary("geluTanh");
  }
  /** True where the element is neither infinite nor NaN. */
  isFinite(): Tensor {
    return this.#unary("isFinite");
  }

  sum(options: ReduceOptions = {}): Tensor {
    return this.#reduce("sum", options);
  }
  mean(options: ReduceOptions = {}): Tensor {
    return this.#reduce("mean", options);
  }
  max(options: ReduceOptions = {}): Tensor {
    return this.#reduce("max", options);
  }
  min(options: ReduceOptions = {}): Tensor {
    return this.#reduce("min", options);
  }
  /** int32 position of the first maximum along the axes (linearised). */
  argMax(options: ReduceOptions = {}): Tensor {
    return this.#reduce("argMax", options);
  }
  argMin(options: ReduceOptions = {}): Tensor {
    return this.#reduce("argMin", options);
  }
  /** Biased variance: the mean of squared deviations from the mean. */
  variance(options: ReduceOptions = {}): Tensor {
    requireReduction("variance", options);
    const axes = axesOf(this.node, options.axes, "variance");
    const deviation = this.sub(this.mean({ axes, keepAxes: true }));
    return deviation.square().mean({ ...options, axes });
  }

  /** Matrix product with NumPy's rules: (…, m, k) × (…, k, n) → (…, m, n). */
  matmul(other: Tensor): Tensor {
    requireTensor("matmul: other", other);
    return new Tensor(matmul(this.node, other.node));
  }

  /** The last axis as probabilities. */
  softmax(): Tensor {
    return new Tensor(composite("softmax", [this.node]));
  }
  logSoftmax(): Tensor {
    return new Tensor(composite("logSoftmax", [this.node]));
  }
  /** log Σ exp over the last axis, which disappears. */
  logSumExp(): Tensor {
    return new Tensor(composite("logSumExp", [this.node]));
  }

  /** The same values in another dtype, rounded to nearest even once; differentiable between floats. */
  cast(dtype: DType): Tensor {
    requireDType("cast", dtype);
    return new Tensor(build.cast(this.node, dtype));
  }

  /** The same elements in another shape; one extent may be −1 and is computed. */
  reshape(shape: Shape): Tensor {
    requireShape("reshape", shape, -1);
    const known = shape.filter((n) => n !== -1).reduce((a, b) => a * b, 1);
    const rest = this.size / known;
    if (shape.includes(-1) && (!Number.isInteger(rest) || shape.indexOf(-1) !== shape.lastIndexOf(-1))) {
      throw new BinadeError(
        "shape.mismatch",
        `reshape: the ${this.size} elements of ${showShape(this.shape)} leave no single extent for −1 in ${showShape(shape)}; state the extents`,
      );
    }
    return new Tensor(
      build.reshape(
        this.node,
        shape.map((n) => (n === -1 ? rest : n)),
      ),
    );
  }
  /** Axes in another order. */
  permute(order: readonly number[]): Tensor {
    requireShape("permute", order, -this.shape.length);
    return new Tensor(
      build.permute(
        this.node,
        order.map((axis) => normalizeAxis(axis, this.shape.length, "permute")),
      ),
    );
  }
  /** Swaps the last two axes. */
  transpose(): Tensor {
    return new Tensor(build.transpose(this.node));
  }
  broadcastTo(shape: Shape): Tensor {
    requireShape("broadcastTo", shape);
    return new Tensor(build.broadcastTo(this.node, shape));
  }
  /** `length` elements from `start` along `axis`. */
  slice(axis: number, start: number, length: number): Tensor {
    requireInteger("slice: start", start, 0);
    requireInteger("slice: length", length, 0);
    const at = normalizeAxis(axis, this.shape.length, "slice");
    return new Tensor(
      build.slice(
        this.node,
        this.shape.map((_, i) => (i === at ? start : 0)),
        this.shape.map((n, i) => (i === at ? length : n)),
      ),
    );
  }
  /** Rows of this table by integer indices, along `axis` (default 0). */
  gather(indices: Tensor, axis = 0): Tensor {
    requireTensor("gather: indices", indices);
    return new Tensor(build.gather(this.node, indices.node, normalizeAxis(axis, this.shape.length, "gather")));
  }

  /** Computes the tensor; resolves to a copy of its elements as numbers (float64 in a Float64Array, integers exactly). */
  async data(): Promise<Float32Array | Float64Array | Int32Array | Uint32Array | Int16Array | Uint8Array> {
    const stored = await this.storage();
    if (stored instanceof BigInt64Array)
      throw new BinadeError("dtype.unsupported", "int64 exists in files only; cast to int32");
    return isFloat(this.dtype) ? decodeArray(stored, this.dtype) : (stored as Int32Array);
  }

  /** Computes the tensor; resolves to its stored form: 16-bit floats as Uint16Array bits. */
  async storage(): Promise<StorageArray> {
    const bytes = await this.bytes();
    return new (storageArray(this.dtype))(bytes.buffer as ArrayBuffer, 0, this.size);
  }

  /** Half-precision elements as Float16Array where the runtime has it, else as bits. float16 only. */
  async float16(): Promise<Float16View | Uint16Array> {
    if (this.dtype !== "float16")
      throw new BinadeError("dtype.mismatch", `float16: the tensor is ${this.dtype}; cast("float16") first`);
    return toFloat16Array((await this.storage()) as Uint16Array);
  }

  /** Computes the tensor; resolves to a copy of its bytes, row-major, little endian. */
  async bytes(): Promise<Uint8Array> {
    if (this.#disposed)
      throw new BinadeError("tensor.disposed", `${this}: its value is gone, it was disposed; read it before that`);
    const {
      leaves: [leaf = this.node],
      done,
    } = launch([this.node]);
    const value = requireValue(leaf);
    if (value.kind === "host") return value.bytes.slice();
    const [bytes] = await Promise.all([value.device.enqueue(() => value.device.backend.read(value.buffer())), done]);
    return bytes.slice(0, this.size * byteSize(this.dtype));
  }

  /** The only element, as a number. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new BinadeError(
        "shape.mismatch",
        `item: the tensor has shape ${showShape(this.shape)}; reduce it to one element, or use data()`,
      );
    const [value = Number.NaN] = await this.data();
    return value;
  }

  /** The elements as text, shortened. */
  async show(): Promise<string> {
    const values = [...(await this.data())];
    const shown = values
      .slice(0, 16)
      .map((v) => (Number.isInteger(v) ? String(v) : v.toPrecision(6).replace(/\.?0+$/, "")));
    return `${this.dtype} ${showShape(this.shape)} [${shown.join(", ")}${values.length > 16 ? ", …" : ""}]`;
  }

  /** Frees the memory of a computed tensor once queued runs are done; otherwise the collector does in the end. Never a variable's. */
  dispose(): void {
    if (releaseNode(this.node)) this.#disposed = true;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    return `Tensor(${this.dtype} ${showShape(this.shape)})`;
  }
}

/** An axis by another name would be ignored, and everything reduced. */
function requireReduction(name: string, options: ReduceOptions): void {
  requireKnownKeys(name, options, ["axes", "keepAxes"]);
  requireBoolean(`${name}: keepAxes`, options.keepAxes);
}

/** Throws `option.invalid` unless `value` is a tensor: something else would fail far from here, or pass for a constant. */
export function requireTensor(subject: string, value: unknown): asserts value is Tensor {
  if (value instanceof Tensor) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected a tensor, got ${showValue(value)}; make one of it, with full or tensor`,
  );
}

/** What an op sees of an operand: a tensor's node, or a number. */
export function nodeOf(subject: string, operand: Operand): Node | number {
  if (typeof operand === "number") return operand;
  requireTensor(subject, operand);
  return operand.node;
}
