/** Devices: a backend, its programs by structure, and its queue of runs. */
import type { Backend, DeviceBuffer, DeviceKind, Executable, Fault } from "../backends/backend.ts";
import { structureOf } from "../compile/cache.ts";
import { compileProgram } from "../compile/pipeline.ts";
import { mapRequest, type Program, type Request } from "../compile/program.ts";
import { createInput, type Node } from "../ir/graph.ts";
import { rewrite } from "../ir/walk.ts";
import { MemoryError } from "./memory-error.ts";

/** A compiled request: `leafOf` maps the leaf of a binding to the position of the request's leaf that it stands for. */
export interface Prepared {
  readonly program: Program;
  readonly executable: Executable;
  readonly leafOf: ReadonlyMap<Node, number>;
}

/** Allocations up to this sum are made without asking how much memory is left. */
const UNCHECKED_BYTES = 64 * 2 ** 20;

/** No device has as much for intermediates, and offsets are counted in fewer than 2^53 steps: backends take what is at most this. */
const LARGEST_ARENA_BYTES = 2 ** 44;

/** Programs kept per device; the least recently used goes first. */
const PROGRAM_LIMIT = 64;

/** The request over other leaves. */
function substitute(request: Request, leaves: ReadonlyMap<Node, Node>): Request {
  const known = (node: Node): Node | undefined => leaves.get(node);
  return mapRequest(
    request,
    (values) => rewrite(values, (node) => node, known),
    (leaf) => known(leaf) ?? leaf,
  );
}

export class Device {
  readonly backend: Backend;
  readonly #programs = new Map<string, Prepared>();
  #queue: Promise<unknown> = Promise.resolve();
  #liveBuffers = 0;
  #liveBytes = 0;
  /** Largest arena of the programs that ran: the backend keeps one for all. */
  #arenaBytes = 0;
  #uncheckedBytes = 0;

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

  /**
   * What a run that needs `arena` bytes for intermediates and allocates `others` lacks: null, or the bytes that it needs and
   * those that are left. Small needs are added up and not looked into one by one, which would cost more than they.
   */
  shortage(arena: number, others: number): { readonly needed: number; readonly available: number } | null {
    const needed = Math.max(0, arena - this.#arenaBytes) + others;
    if (needed + this.#uncheckedBytes < UNCHECKED_BYTES) return null;
    const available = this.backend.availableMemory(this.#liveBytes + this.#arenaBytes);
    if (needed > available) return { needed, available };
    this.#uncheckedBytes = 0;
    return null;
  }

  /** The backend holds an arena of this size from now on. */
  noteArena(byteLength: number): void {
    this.#arenaBytes = Math.max(this.#arenaBytes, byteLength);
  }

  allocate(byteLength: number, bytes?: Uint8Array): DeviceBuffer {
    const lacking = this.shortage(0, byteLength);
    if (lacking !== null) {
      throw new MemoryError(
        `memory: a tensor of ${byteLength} bytes was asked for, and the machine has ${lacking.available} left for this process`,
        "use smaller tensors, or release what is not needed (dispose)",
        { availableBytes: lacking.available },
      );
    }
    this.#uncheckedBytes += byteLength;
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
      // Compiled over leaves of its own: a program that is kept must not keep the memory behind the leaves that it first ran on.
      const own = new Map(
        leaves.map((leaf) => [leaf, createInput(leaf.shape, leaf.dtype, String(leaf.attributes.name ?? ""))]),
      );
      const program = compileProgram(substitute(request, own), this.backend.capabilities);
      if (program.arenaByteLength > LARGEST_ARENA_BYTES) {
        throw new MemoryError(
          `memory: intermediates of ${program.arenaByteLength} bytes were asked for, expected at most ${LARGEST_ARENA_BYTES} on any device`,
          "use smaller tensors, such as a smaller batch",
          { availableBytes: LARGEST_ARENA_BYTES },
        );
      }
      prepared = {
        program,
        executable: this.backend.prepare(program),
        leafOf: new Map(leaves.map((leaf, i) => [own.get(leaf) ?? leaf, i])),
      };
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
