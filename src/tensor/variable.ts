/** Variables: values that live across steps and are overwritten in place. */
import type { DeviceBuffer } from "../backends/backend.ts";
import { BinadeError } from "../errors.ts";
import { byteSize, type DType } from "../formats/index.ts";
import { createInput, type Node } from "../ir/graph.ts";
import { type Shape, sameShape, showShape, sizeOf } from "../ops/shape.ts";
import { requireDType, requireNumber, requireShape, requireText } from "../precision/options.ts";
import type { Device } from "./device.ts";
import { defaultDevice } from "./devices.ts";
import { forgetFollowing } from "./following.ts";
import { launch } from "./realize.ts";
import { forgetLeaf, setLeafValue, type VariableRole } from "./runtime.ts";
import { Tensor } from "./tensor.ts";

/** Assignments that were made and not yet run, in order. */
const pending = new Map<Variable, Node>();

/** Takes the pending assignments. Whoever takes them runs them and commits, or restores. */
export function takePending(): ReadonlyMap<Variable, Node> {
  const taken = new Map(pending);
  pending.clear();
  return taken;
}

/** Runs `body` as if nothing were pending, and pends again what was: assignments made before a recording are not part of it. */
export function withoutPending<T>(body: () => T): T {
  const waiting = takePending();
  for (const variable of waiting.keys()) variable.restore();
  try {
    return body();
  } finally {
    for (const [variable, value] of waiting) variable.assign(new Tensor(value));
  }
}

/** Forgets pending assignments that a failed trace made. */
export function dropPending(): void {
  for (const variable of pending.keys()) variable.restore();
  pending.clear();
}

/** Initial elements as stored bytes, or what makes them. */
export type Initial = ArrayBufferView | (() => ArrayBufferView);

/**
 * A tensor that is overwritten in place: a parameter, a moment, a counter. Reads after `assign` see the new value.
 * Its memory is allocated when it is first read, written or computed with: a model that is only planned takes none.
 *
 * @example
 * const count = new Variable("count", [], "float32", new Float32Array([0]));
 * count.assign(count.read().add(1));
 */
export class Variable {
  /** Used in messages and checkpoints; a module gives its variables their dotted path. */
  name: string;
  readonly shape: Shape;
  readonly dtype: DType;
  readonly device: Device;
  /** What a memory plan counts it as. */
  role: VariableRole = "buffer";
  #buffer: DeviceBuffer | null = null;
  #initial: Initial | null;
  #leaf: Node;
  #value: Node;
  /** Whether a graph may hold the leaf. */
  #isLeafKnown = false;

  /** @param initial default zeros; a function is called when the memory is allocated. */
  constructor(name: string, shape: Shape, dtype: DType, initial?: Initial, device: Device = defaultDevice()) {
    requireText("Variable: name", name);
    requireShape(`variable ${name}: shape`, shape);
    requireDType(`variable ${name}: dtype`, dtype);
    this.name = name;
    this.shape = shape;
    this.dtype = dtype;
    this.device = device;
    this.#initial = initial ?? null;
    if (ArrayBuffer.isView(initial)) this.#bytesOf(initial);
    this.#leaf = this.#freshLeaf();
    this.#value = this.#leaf;
  }

  get byteLength(): number {
    return sizeOf(this.shape) * byteSize(this.dtype);
  }

  /** Bytes that the first use of the variable will allocate. */
  get unallocatedBytes(): number {
    return this.#buffer === null ? this.byteLength : 0;
  }

  #memory(): DeviceBuffer {
    if (this.#buffer === null) {
      const initial = typeof this.#initial === "function" ? this.#initial() : this.#initial;
      this.#buffer = this.device.allocate(this.byteLength, initial === null ? undefined : this.#bytesOf(initial));
      this.#initial = null;
    }
    return this.#buffer;
  }

  #bytesOf(initial: ArrayBufferView): Uint8Array {
    const { name, dtype, shape, byteLength } = this;
    if (initial.byteLength === byteLength) return new Uint8Array(initial.buffer, initial.byteOffset, byteLength);
    throw new BinadeError(
      "shape.mismatch",
      `variable ${name}: ${dtype} ${showShape(shape)} needs ${byteLength} bytes, got ${initial.byteLength}`,
    );
  }

  #freshLeaf(): Node {
    const leaf = createInput(this.shape, this.dtype, this.name);
    setLeafValue(leaf, {
      kind: "buffer",
      device: this.device,
      buffer: () => this.#memory(),
      owned: false,
      variable: this,
    });
    return leaf;
  }

  /** The present value: what was assigned last, or what is stored. */
  read(): Tensor {
    return new Tensor(this.node);
  }

  get node(): Node {
    this.#isLeafKnown = true;
    return this.#value;
  }

  /** The leaf that stands for the stored value of this version. */
  get leaf(): Node {
    this.#isLeafKnown = true;
    return this.#leaf;
  }

  /** Whether `leaf` stands for the stored value of this version. */
  isStoredAs(leaf: Node): boolean {
    return leaf === this.#leaf;
  }

  /** Overwrites the variable when the step (or the next `data()`) runs; all assignments commit together at its end. */
  assign(value: Tensor): void {
    if (value.dtype !== this.dtype || !sameShape(value.shape, this.shape)) {
      throw new BinadeError(
        "shape.mismatch",
        `variable ${this.name}: expected ${this.dtype} ${showShape(this.shape)}, got ${value.dtype} ${showShape(value.shape)}; cast or reshape before assigning`,
      );
    }
    this.#value = value.node;
    pending.set(this, value.node);
  }

  /** The assignment was handed to a run: a new version begins, and the old leaf loses its value. */
  commit(): void {
    // A leaf that no graph holds serves the next version too. Leaves are keys of weak tables, which only a full collection
    // clears: a fresh one per variable and step would pile up between two of these.
    if (this.#isLeafKnown) {
      forgetLeaf(this.#leaf);
      this.#leaf = this.#freshLeaf();
      this.#isLeafKnown = false;
    }
    this.#value = this.#leaf;
  }

  /** Undoes an assignment that will not run. */
  restore(): void {
    this.#value = this.#leaf;
  }

  /** Stored bytes, after every assignment and every queued run. */
  async bytes(): Promise<Uint8Array> {
    const { done } = launch([]);
    const [bytes] = await Promise.all([this.device.enqueue(() => this.device.backend.read(this.#memory())), done]);
    return bytes;
  }

  /** Overwrites the stored bytes after every queued run, in place of an assignment that is still pending. */
  async load(bytes: Uint8Array): Promise<void> {
    if (bytes.byteLength !== this.byteLength) {
      throw new BinadeError(
        "checkpoint.mismatch",
        `variable ${this.name}: ${this.dtype} ${showShape(this.shape)} needs ${this.byteLength} bytes, got ${bytes.byteLength}; load a checkpoint of the same model`,
      );
    }
    pending.delete(this);
    forgetFollowing(this);
    this.restore();
    // Assignments of other variables may read the old value; then a new version begins, and nothing computed from the old
    // value passes for a value computed from the new one.
    const { done } = launch([]);
    this.commit();
    const copy = bytes.slice();
    await Promise.all([this.device.enqueue(async () => this.device.backend.write(this.#memory(), copy)), done]);
  }
}

/** A number of the host that compiled steps read anew at every call: the learning rate, a switch. float32. */
export class HostNumber {
  readonly #name: string;
  #value: number;
  #leaf: Node;

  constructor(name: string, value: number) {
    requireText("HostNumber: name", name);
    requireNumber(`${name}: value`, value, () => true, "a number");
    this.#name = name;
    this.#value = value;
    this.#leaf = this.#freshLeaf();
  }

  get value(): number {
    return this.#value;
  }

  /** A new leaf goes with a new value: results that were computed from the old one stay its results. */
  set value(value: number) {
    requireNumber(`${this.#name}: value`, value, () => true, "a number");
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    this.#leaf = this.#freshLeaf();
  }

  #freshLeaf(): Node {
    const leaf = createInput([], "float32", this.#name);
    const latest = (): Uint8Array => new Uint8Array(new Float32Array([this.#value]).buffer);
    setLeafValue(leaf, { kind: "host", bytes: latest(), latest });
    return leaf;
  }

  read(): Tensor {
    return new Tensor(this.#leaf);
  }
}
