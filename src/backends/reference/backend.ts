/** The reference backend: runs programs node by node, in plain JavaScript, exactly as the rows say. */

import { sourceOf } from "../../compile/inline.ts";
import type { Buffer, Kernel, Operand, Program } from "../../compile/program.ts";
import { invariant } from "../../errors.ts";
import { byteSize, DTYPES, type DType, decode, encode, isFloat } from "../../formats/index.ts";
import { describe, type Node } from "../../ir/graph.ts";
import { sizeOf } from "../../ops/shape.ts";
import { type Backend, type Executable, type Fault, HostBackend, hostBytes } from "../backend.ts";
import { evaluate, readView, walk } from "./evaluate.ts";

/** Options of the reference backend. */
export interface ReferenceOptions {
  /** Whether programs are fused as for a fast backend: the same kernels and memory plan, evaluated node by node. Default false. */
  readonly fuse?: boolean;
  /** Native cores (`family:core`) that programs keep whole; they run as their decomposition. Default none. */
  readonly cores?: ReadonlySet<string>;
}

export class ReferenceBackend extends HostBackend {
  override readonly kind = "reference";
  override readonly description = "reference: plain JavaScript, exact and slow";
  override readonly threads = 1;
  override readonly capabilities: Backend["capabilities"];

  constructor({ fuse = false, cores = new Set() }: ReferenceOptions = {}) {
    super();
    this.capabilities = { dtypes: new Set(DTYPES.filter((d) => d !== "int64")), cores, fuse };
  }

  override prepare(program: Program): Executable {
    return {
      run: (bindings) => Promise.resolve().then(() => runProgram(program, bindings.map(hostBytes))),
      release: () => undefined,
    };
  }
}

function runProgram(program: Program, bindings: readonly Uint8Array[]): Fault | null {
  // Every byte 0xff: floats read before they are written are NaN, and the mistake shows.
  const arena = new Uint8Array(program.arenaByteLength).fill(0xff);
  let fault: Fault | null = null;
  for (const [index, kernel] of program.kernels.entries()) {
    if (fault !== null && index >= program.commitFrom) break;
    runKernel(kernel, arena, bindings, (position, value) => {
      fault ??= { kernel: index, position, value };
    });
  }
  return fault;
}

function runKernel(
  kernel: Kernel,
  arena: Uint8Array,
  bindings: readonly Uint8Array[],
  report: (position: number, value: number) => void,
): void {
  const values = new Map<Node, Float64Array>();
  const elementsOf = (input: Node): Float64Array => {
    const operand = kernel.reads.get(input);
    if (operand !== undefined) return readView(load(operand.buffer, arena, bindings), operand.view);
    const { base, view } = sourceOf(input);
    const held = values.get(base);
    invariant(held !== undefined, () => `${describe(input)} is neither read nor computed in its kernel`);
    return readView(held, view);
  };
  for (const node of kernel.nodes) {
    values.set(
      node,
      evaluate(node, node.inputs.map(elementsOf), ({ position, value }) => report(position, value)),
    );
  }
  for (const { node, operand } of kernel.writes) store(values.get(node) ?? elementsOf(node), operand, arena, bindings);
}

/** The bytes of a buffer. */
function bytesOf({ dtype, elements, storage }: Buffer, arena: Uint8Array, bindings: readonly Uint8Array[]): Uint8Array {
  const byteLength = elements * byteSize(dtype);
  if (storage.kind === "arena") return arena.subarray(storage.byteOffset, storage.byteOffset + byteLength);
  const bytes = bindings[storage.index];
  invariant(
    bytes !== undefined && bytes.byteLength >= byteLength,
    () => `binding ${storage.index} holds ${bytes?.byteLength} of ${byteLength} bytes`,
  );
  return bytes;
}

type Getter = (view: DataView, at: number) => number;
type Setter = (view: DataView, at: number, value: number) => void;

const HALF: Getter = (view, at) => view.getUint16(at, true);

/** How elements of 32 and 64 bits, integers and booleans lie in memory; narrower floats go through their codec. */
const ACCESS: Readonly<Partial<Record<DType, readonly [Getter, Setter]>>> = {
  float64: [(v, at) => v.getFloat64(at, true), (v, at, x) => v.setFloat64(at, x, true)],
  float32: [(v, at) => v.getFloat32(at, true), (v, at, x) => v.setFloat32(at, x, true)],
  int32: [(v, at) => v.getInt32(at, true), (v, at, x) => v.setInt32(at, x, true)],
  uint32: [(v, at) => v.getUint32(at, true), (v, at, x) => v.setUint32(at, x, true)],
  int16: [(v, at) => v.getInt16(at, true), (v, at, x) => v.setInt16(at, x, true)],
  uint8: [(v, at) => v.getUint8(at), (v, at, x) => v.setUint8(at, x)],
  bool: [(v, at) => v.getUint8(at), (v, at, x) => v.setUint8(at, x === 0 ? 0 : 1)],
};

function accessOf(dtype: DType): readonly [Getter, Setter] {
  const plain = ACCESS[dtype];
  if (plain !== undefined) return plain;
  invariant(isFloat(dtype) && dtype !== "float64", () => `${dtype} has no arithmetic`);
  const get: Getter = byteSize(dtype) === 2 ? HALF : (view, at) => view.getUint8(at);
  const set: Setter =
    byteSize(dtype) === 2
      ? (v, at, x) => v.setUint16(at, encode(x, dtype), true)
      : (v, at, x) => v.setUint8(at, encode(x, dtype));
  return [(view, at) => decode(get(view, at), dtype), set];
}

function load(buffer: Buffer, arena: Uint8Array, bindings: readonly Uint8Array[]): Float64Array {
  const bytes = bytesOf(buffer, arena, bindings);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [get] = accessOf(buffer.dtype);
  const size = byteSize(buffer.dtype);
  return Float64Array.from({ length: buffer.elements }, (_, i) => get(view, i * size));
}

/**
 * A NaN that meets one in memory beyond the arena leaves its bits: numbers have no payloads, and a variable that keeps its
 * value, as in a skipped step, keeps every bit.
 */
function store(
  values: Float64Array,
  { buffer, view }: Operand,
  arena: Uint8Array,
  bindings: readonly Uint8Array[],
): void {
  const bytes = bytesOf(buffer, arena, bindings);
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [get, set] = accessOf(buffer.dtype);
  const size = byteSize(buffer.dtype);
  const keepsNaN = buffer.storage.kind !== "arena";
  invariant(sizeOf(view.shape) === values.length, () => "a kernel writes as many elements as its node has");
  walk(view, (at, i) => {
    const value = values[i] as number;
    if (keepsNaN && Number.isNaN(value) && Number.isNaN(get(data, at * size))) return;
    set(data, at * size, value);
  });
}
