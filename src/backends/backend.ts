/** The contract of a backend: it states its capabilities, owns buffers, and runs programs. It knows nothing of training. */
import type { Capabilities, Program } from "../compile/program.ts";
import { BinadeError } from "../errors.ts";

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
  /** Copies `bytes` to the start of `buffer`. */
  write(buffer: DeviceBuffer, bytes: Uint8Array): void;
  /** A copy of the buffer's bytes. */
  read(buffer: DeviceBuffer): Promise<Uint8Array>;
  prepare(program: Program): Executable;
}

export type DeviceKind = "cpu" | "reference" | "null";

/** Host memory as a device buffer: what backends without a device of their own hand out. */
export class HostBuffer implements DeviceBuffer {
  #bytes: Uint8Array | null;

  constructor(byteLength: number) {
    this.#bytes = new Uint8Array(new ArrayBuffer(byteLength));
  }

  get byteLength(): number {
    return this.bytes.byteLength;
  }

  get bytes(): Uint8Array {
    if (this.#bytes === null)
      throw new BinadeError(
        "tensor.disposed",
        "buffer: used after it was released; keep the tensor until its last use",
      );
    return this.#bytes;
  }

  release(): void {
    this.#bytes = null;
  }
}

/** The bytes behind a buffer of a host backend. */
export function hostBytes(buffer: DeviceBuffer | undefined): Uint8Array {
  if (!(buffer instanceof HostBuffer))
    throw new BinadeError("internal", "internal: a buffer of another backend was passed");
  return buffer.bytes;
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

  write(buffer: DeviceBuffer, bytes: Uint8Array): void {
    hostBytes(buffer).set(bytes);
  }

  read(buffer: DeviceBuffer): Promise<Uint8Array> {
    return Promise.resolve(hostBytes(buffer).slice());
  }
}
