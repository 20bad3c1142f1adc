/** Devices: a backend, its programs by structure, and its queue of runs. */
import type { Backend, DeviceBuffer, DeviceKind, Executable, Fault } from "../backends/backend.ts";
import { structureOf } from "../compile/cache.ts";
import { compileProgram } from "../compile/pipeline.ts";
import type { Program, Request } from "../compile/program.ts";
import type { Node } from "../ir/graph.ts";

/** A compiled request: `leafOf` maps a binding's leaf to its position among the request's leaves. */
interface Prepared {
  readonly program: Program;
  readonly executable: Executable;
  readonly leafOf: ReadonlyMap<Node, number>;
}

/** Programs kept per device; the least recently used goes first. */
const PROGRAM_LIMIT = 64;

export class Device {
  readonly backend: Backend;
  readonly #programs = new Map<string, Prepared>();
  #queue: Promise<unknown> = Promise.resolve();
  #liveBuffers = 0;
  #liveBytes = 0;

  constructor(backend: Backend) {
    this.backend = backend;
  }

  get kind(): DeviceKind {
    return this.backend.kind;
  }

  /** Buffers that were allocated here and are not yet released, and their bytes. */
  get live(): { readonly buffers: number; readonly byteLength: number } {
    return { buffers: this.#liveBuffers, byteLength: this.#liveBytes };
  }

  allocate(byteLength: number, bytes?: Uint8Array): DeviceBuffer {
    const buffer = this.backend.allocate(byteLength);
    this.#liveBuffers++;
    this.#liveBytes += byteLength;
    if (bytes !== undefined) this.backend.write(buffer, bytes);
    return buffer;
  }

  release(buffer: DeviceBuffer): void {
    this.#liveBuffers--;
    this.#liveBytes -= buffer.byteLength;
    buffer.release();
  }

  /** Compiles `request`, or finds the program of an equal structure. */
  prepare(request: Request): Prepared & { readonly leaves: readonly Node[] } {
    const { key, leaves } = structureOf(request);
    let prepared = this.#programs.get(key);
    if (prepared === undefined) {
      const program = compileProgram(request, this.backend.capabilities);
      prepared = { program, executable: this.backend.prepare(program), leafOf: new Map(leaves.map((leaf, i) => [leaf, i])) };
    } else this.#programs.delete(key);
    this.#programs.set(key, prepared);
    this.#evict();
    return { ...prepared, leaves };
  }

  #evict(): void {
    for (const [key, { executable }] of this.#programs) {
      if (this.#programs.size <= PROGRAM_LIMIT) return;
      this.#programs.delete(key);
      executable.release();
    }
  }

  /** Starts `work` after everything queued before it. */
  enqueue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => undefined);
    return result;
  }

  run(executable: Executable, bindings: readonly DeviceBuffer[]): Promise<Fault | null> {
    return executable.run(bindings);
  }
}
