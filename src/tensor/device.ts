/** Devices: a backend, its programs by structure, and its queue of runs. */
import type { Backend, DeviceBuffer, DeviceKind, Executable, Fault } from "../backends/backend.ts";
import { structureOf } from "../compile/cache.ts";
import { compileProgram } from "../compile/pipeline.ts";
import type { Program, Request } from "../compile/program.ts";
import { createInput, type Node } from "../ir/graph.ts";
import { rewrite } from "../ir/walk.ts";

/** A compiled request: `leafOf` maps the leaf of a binding to the position of the request's leaf that it stands for. */
export interface Prepared {
  readonly program: Program;
  readonly executable: Executable;
  readonly leafOf: ReadonlyMap<Node, number>;
}

/** Programs kept per device; the least recently used goes first. */
const PROGRAM_LIMIT = 64;

/** The request over other leaves. */
function substitute({ outputs, assignments }: Request, leaves: ReadonlyMap<Node, Node>): Request {
  const known = (node: Node): Node | undefined => leaves.get(node);
  const roots = rewrite([...outputs, ...assignments.values()], (node) => node, known);
  const values = roots.slice(outputs.length);
  return {
    outputs: roots.slice(0, outputs.length),
    assignments: new Map([...assignments.keys()].map((v, i) => [known(v) ?? v, values[i] as Node])),
  };
}

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
      // Compiled over leaves of its own: a program that is kept must not keep the memory behind the leaves that it first ran on.
      const own = new Map(
        leaves.map((leaf) => [leaf, createInput(leaf.shape, leaf.dtype, String(leaf.attributes.name ?? ""))]),
      );
      const program = compileProgram(substitute(request, own), this.backend.capabilities);
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
