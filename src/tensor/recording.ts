/** A recorded function: its program over placeholders, what it assigns, and how to rebuild what it returned. */
import type { DeviceBuffer } from "../backends/backend.ts";
import type { MemoryPlan } from "../compile/plan.ts";
import { BinadeError } from "../errors.ts";
import { createInput, type Node } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { showShape } from "../ops/shape.ts";
import { outsideRegions } from "../precision/autocast.ts";
import type { Device } from "./device.ts";
import { defaultDevice } from "./devices.ts";
import { forgetFollowing } from "./following.ts";
import { planOf } from "./plan.ts";
import { deviceOf, execute, type LeafValue, leafOverBuffer, requireValue, substituteRealized } from "./runtime.ts";
import { hiddenTensors, mapTensors } from "./structure.ts";
import { Tensor } from "./tensor.ts";
import { recording, type Trace } from "./trace.ts";
import { dropPending, takePending, type Variable, withoutPending } from "./variable.ts";

export interface RecordingOptions {
  /** How many of the parts that a budget may recompute are recomputed. Default 0. */
  readonly chosen?: number;
  /** Whether variables are assigned. Default true; false: only what the function returned is computed. */
  readonly effects?: boolean;
}

/** One recording: the request with its placeholders, the variables it assigns, and how to rebuild what it returned. */
export class Recording<R> {
  readonly #signature: string;
  readonly #trace: Trace;
  readonly #device: Device;
  readonly #prepared: ReturnType<Device["prepare"]>;
  readonly #leafSources: readonly LeafSource[];
  readonly #rebuild: (leaves: readonly Tensor[]) => R;
  readonly #outputs: readonly Node[];
  readonly #assigned: readonly Variable[];

  constructor(fn: (...args: never) => R, args: readonly Tensor[], options: RecordingOptions = {}) {
    const { chosen = 0, effects = true } = options;
    this.#trace = { guards: [], probes: [], atEnd: new Map(), differentiated: [], checkpoints: { seen: 0, chosen } };
    this.#signature = signatureOf(args);
    const placeholders = args.map((a) => createInput(a.shape, a.dtype));
    const { returned, assigned } = withoutPending(() => record(fn, placeholders, this.#trace));
    const kept: ReadonlyMap<Variable, Node> = effects ? assigned : new Map();
    const { tensors, rebuild } = flatten(returned);
    const probes = this.#trace.probes.map((p) => p.node);
    const request = substituteRealized({
      outputs: [...tensors, ...probes],
      assignments: new Map([...kept].map(([v, node]) => [v.leaf, node])),
      ...livePhases(this.#trace, [...tensors, ...probes, ...kept.values()]),
    });
    this.#assigned = [...kept.keys()];
    this.#device = deviceOf(
      [...request.outputs, ...request.assignments.keys(), ...request.assignments.values(), ...args.map((a) => a.node)],
      defaultDevice,
    );
    this.#prepared = this.#device.prepare(request);
    this.#leafSources = this.#prepared.leaves.map((leaf) => sourceOfLeaf(leaf, placeholders));
    this.#outputs = request.outputs;
    this.#rebuild = rebuild;
  }

  /** Parts that a budget may have recomputed. */
  get checkpointCandidates(): number {
    return this.#trace.checkpoints.seen;
  }

  plan(): MemoryPlan {
    const { program, leafOf } = this.#prepared;
    return planOf(program, (leaf) => {
      const source = this.#leafSources[leafOf.get(leaf) ?? -1];
      return source?.kind === "captured" ? source.value : undefined;
    });
  }

  get arenaByteLength(): number {
    return this.#prepared.program.arenaByteLength;
  }

  matches(args: readonly Tensor[]): boolean {
    return signatureOf(args) === this.#signature && this.#trace.guards.every((g) => g.read() === g.value);
  }

  /** Runs once `before`, what was queued for the call's sake, is done. All but the waiting happens at once. */
  async run(leaves: readonly Node[], before: Promise<void>): Promise<R> {
    const given = leaves.map(requireValue);
    const overwritten = leaves.map((leaf) => this.#assigned.some((variable) => variable.isStoredAs(leaf)));
    const captured = this.#leafSources.map((source) => (source.kind === "argument" ? source : atCall(source.value)));
    // A new version begins: graphs built from the old value must not read the new one.
    for (const variable of this.#assigned) {
      variable.commit();
      forgetFollowing(variable);
    }
    const buffers = await this.#device.enqueue(async () => {
      await before;
      // An argument is copied where it is the memory of a variable that this very run overwrites.
      const values = await Promise.all(given.map((value, i) => (overwritten[i] === true ? copyOf(value) : value)));
      return execute(
        this.#device,
        this.#prepared,
        captured.map((v) => (v.kind === "argument" ? (values[v.index] as LeafValue) : v)),
      );
    });
    return this.#finish(buffers);
  }

  async #finish(buffers: readonly DeviceBuffer[]): Promise<R> {
    const tensors = this.#outputs.map((node, i) => {
      const buffer = buffers[i];
      if (buffer === undefined) throw new BinadeError("internal", "internal: a program returned too few outputs");
      return new Tensor(leafOverBuffer(this.#device, node.shape, node.dtype, buffer));
    });
    const returned = tensors.slice(0, tensors.length - this.#trace.probes.length);
    await this.#print(tensors.slice(returned.length));
    return this.#rebuild(returned);
  }

  async #print(probes: readonly Tensor[]): Promise<void> {
    for (const [i, tensor] of probes.entries()) console.log(`${this.#trace.probes[i]?.label}: ${await tensor.show()}`);
  }
}

/** What was differentiated, as far as `roots` need it: a scaled loss that nobody reads stands for what it was made of. */
function livePhases(
  { differentiated }: Trace,
  roots: readonly Node[],
): { readonly losses: readonly Node[]; readonly gradients: readonly Node[] } {
  const live = new Set(topological(roots));
  const losses = new Set<Node>();
  const stack = differentiated.map(({ loss }) => loss);
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (live.has(node)) losses.add(node);
    else stack.push(...node.inputs);
  }
  const found = differentiated.flatMap(({ gradients }) => gradients.filter((node) => live.has(node)));
  return { losses: [...losses], gradients: [...new Set(found)] };
}

type LeafSource =
  | { readonly kind: "argument"; readonly index: number }
  | { readonly kind: "captured"; readonly value: LeafValue };

function sourceOfLeaf(leaf: Node, placeholders: readonly Node[]): LeafSource {
  const index = placeholders.indexOf(leaf);
  return index >= 0 ? { kind: "argument", index } : { kind: "captured", value: requireValue(leaf) };
}

/** The value as it is when the function is called: a number of the host may change before the run starts. */
const atCall = (value: LeafValue): LeafValue => (value.kind === "host" ? { ...value, bytes: value.latest() } : value);

async function copyOf(value: LeafValue): Promise<LeafValue> {
  if (value.kind === "host") return value;
  const bytes = await value.device.backend.read(value.buffer());
  return { kind: "host", bytes, latest: () => bytes };
}

const signatureOf = (args: readonly Tensor[]): string => args.map((a) => `${a.dtype}${showShape(a.shape)}`).join();

function record<R>(
  fn: (...args: never) => R,
  placeholders: readonly Node[],
  trace: Trace,
): { returned: R; assigned: ReadonlyMap<Variable, Node> } {
  try {
    // Calls that share the recording may come from any autocast region: it depends on none.
    const returned = recording(trace, () =>
      outsideRegions(() => {
        const result = (fn as (...args: readonly Tensor[]) => R)(...placeholders.map((n) => new Tensor(n)));
        for (const finish of trace.atEnd.values()) finish();
        return result;
      }),
    );
    if (returned instanceof Promise) {
      throw new BinadeError(
        "trace.structure",
        "compile: the function returned a promise; it is recorded synchronously, so await outside of it",
      );
    }
    const assigned = takePending();
    for (const variable of assigned.keys()) variable.restore();
    return { returned, assigned };
  } catch (error) {
    dropPending();
    throw error;
  }
}

/** Tensors elsewhere than in arrays and plain objects would never be computed: their later readers would find no value. */
function requireVisible(value: unknown): void {
  const holder = hiddenTensors(value);
  if (holder === null) return;
  throw new BinadeError(
    "trace.structure",
    `compile: the function returned tensors inside ${holder}, expected them in arrays and plain objects; return, for instance, Object.fromEntries or [...map.values()]`,
  );
}

/** The tensors of a structure, and how to put computed ones in their places; the structure is kept as it is now. */
function flatten<R>(value: R): { tensors: readonly Node[]; rebuild: (computed: readonly Tensor[]) => R } {
  requireVisible(value);
  const tensors: Node[] = [];
  const kept = mapTensors(value, (tensor) => {
    tensors.push(tensor.node);
    return tensor;
  });
  const rebuild = (computed: readonly Tensor[]): R => {
    let next = 0;
    return mapTensors(kept, () => computed[next++] as Tensor);
  };
  return { tensors, rebuild };
}
