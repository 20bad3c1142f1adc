/** The contract of a backend: it states its capabilities, owns buffers, and runs programs. It knows nothing of training. */
import type { Capabilities, Program } from "../compile/program.ts";
import { BinadeError } from "../errors.ts";
import { availableMemory } from "./memory.ts";

/** Memory of a device, held by whoever asked for it until `release`. */
export interface DeviceBuffer {
  readonly byteLength: number;
  /** Frees the memory; using the buffer afterwards is an error. */
  release(): void;
}

/** A value-dependent fault: an index or label outside its table. Variables are unchanged. */
export interface Fault {
  /** Position of the kernel in the program. */
  readonly kernel: number;
  /** Row-major position of the offending index among the indices. */
  readonly position: number;
  readonly value: number;
}

/** A program made ready for one backend. */
export interface Executable {
  /** Runs the program over `bindings` (one buffer per binding of the program, in order); calls run one after another. */
  run(bindings: readonly DeviceBuffer[]): Promise<Fault | null>;
  release(): void;
}

export interface Backend {
  readonly kind: DeviceKind;
  readonly capabilities: Capabilities;
  /** One line for people: instruction set, threads, adapter. */
  readonly description: string;
  /** Worker threads. */
  readonly threads: number;
  allocate(byteLength: number): DeviceBuffer;
  /** Bytes that could still be allocated when `held` are; infinite where nothing limits them. */
  availableMemory(held: number): number;
  /** Copies `bytes` to the start of `buffer`. */
  write(buffer: DeviceBuffer, bytes: Uint8Array): void;
  /** A copy of the buffer's bytes. */
  read(buffer: DeviceBuffer): Promise<Uint8Array>;
  prepare(program: Program): Executable;
}

export type DeviceKind = "cpu" | "reference" | "null";

/** Host memory as a device buffer: what backends without a device of their own hand out. */
export class HostBuffer implements DeviceBuffer {
  readonly byteLength: number;
  #memory: ArrayBuffer | null;

  constructor(byteLength: number) {
    this.byteLength = byteLength;
    this.#memory = allocateHost(byteLength);
  }

  /** All bytes; may be longer than a typed array of bytes can be. */
  get memory(): ArrayBuffer {
    if (this.#memory === null)
      throw new BinadeError(
        "tensor.disposed",
        "buffer: used after it was released; keep the tensor until its last use",
      );
    return this.#memory;
  }

  get bytes(): Uint8Array {
    return bytesIn(this.memory, 0, this.byteLength);
  }

  release(): void {
    this.#memory = null;
  }
}

function allocateHost(byteLength: number): ArrayBuffer {
  try {
    return new ArrayBuffer(byteLength);
  } catch (error) {
    throw new BinadeError(
      "memory.insufficient",
      `a tensor needs ${byteLength} bytes, and the system has not got them; use a smaller batch or model`,
      { cause: error },
    );
  }
}

/** A window of bytes. Older versions of Node end a typed array at 2³² elements. */
function bytesIn(memory: ArrayBuffer, byteOffset: number, byteLength: number): Uint8Array {
  try {
    return new Uint8Array(memory, byteOffset, byteLength);
  } catch (error) {
    throw new BinadeError(
      "value.range",
      `a tensor of ${byteLength} bytes does not fit into one array of bytes of this version of Node; read slices of it`,
      { cause: error },
    );
  }
}

/** The memory behind a buffer of a host backend. */
export function hostMemory(buffer: DeviceBuffer | undefined): ArrayBuffer {
  if (!(buffer instanceof HostBuffer))
    throw new BinadeError("internal", "internal: a buffer of another backend was passed");
  return buffer.memory;
}

/** The same as bytes. */
export function hostBytes(buffer: DeviceBuffer | undefined): Uint8Array {
  const memory = hostMemory(buffer);
  return bytesIn(memory, 0, memory.byteLength);
}

/** What backends in host memory share: their buffers. */
export abstract class HostBackend implements Backend {
  abstract readonly kind: DeviceKind;
  abstract readonly capabilities: Capabilities;
  abstract readonly description: string;
  abstract readonly threads: number;
  abstract prepare(program: Program): Executable;

  allocate(byteLength: number): DeviceBuffer {
    return new HostBuffer(byteLength);
  }

  availableMemory(held: number): number {
    return availableMemory(held);
  }

  write(buffer: DeviceBuffer, bytes: Uint8Array): void {
    bytesIn(hostMemory(buffer), 0, bytes.byteLength).set(bytes);
  }

  read(buffer: DeviceBuffer): Promise<Uint8Array> {
    return Promise.resolve(hostBytes(buffer).slice());
  }
}
