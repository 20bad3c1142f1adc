/** Running lazy graphs: what was asked for, together with every assignment made so far. */
import { BinadeError } from "../errors.ts";
import type { Node } from "../ir/graph.ts";
import type { Device } from "./device.ts";
import { defaultDevice } from "./devices.ts";
import { valuesBefore } from "./following.ts";
import {
  adoptLeaf,
  deviceOf,
  execute,
  isComputable,
  promiseLeaf,
  realizedLeaf,
  requireValue,
  substituteRealized,
} from "./runtime.ts";
import type { Tensor } from "./tensor.ts";
import { isTracing } from "./trace.ts";
import { takePending, type Variable } from "./variable.ts";

/** Throws if a compiled function is being recorded: nothing has a value there. */
function refuseInTrace(): void {
  if (isTracing()) {
    throw new BinadeError(
      "trace.read",
      "compile: a value was read inside the function, which only records; return the tensor and read it outside, or use debug(tensor, label)",
    );
  }
}

/** What was queued: the leaves that stand for the nodes from now on, and the end of the runs. */
export interface Launched {
  readonly leaves: readonly Node[];
  /** Rejects if a run fails. Not awaiting it is no mistake: whatever reads a result of that run gets the error. */
  readonly done: Promise<void>;
}

/** Computes `nodes` and commits every pending assignment; resolves to the leaves that hold the values. */
export async function realize(nodes: readonly Node[]): Promise<readonly Node[]> {
  const { leaves, done } = launch(nodes);
  await done;
  return leaves;
}

/** What the next run computes, too, as long as somebody holds it. */
let alongside: WeakRef<Tensor>[] = [];
/** Dead references are dropped when there are so many. */
const MANY = 1024;

/**
 * Values of a step that is not compiled, which are read when there is time: they are computed before anything is overwritten that
 * they are computed from. In a recording they are nothing special.
 */
export function computeWithNextRun(tensors: readonly Tensor[]): void {
  if (isTracing()) return;
  if (alongside.length > MANY) alongside = alongside.filter((reference) => reference.deref() !== undefined);
  alongside.push(...tensors.map((tensor) => new WeakRef(tensor)));
}

/** Nobody asked for these: what cannot be computed any more is left out. */
function takeAlongside(): readonly Node[] {
  const nodes = alongside.flatMap((reference) => reference.deref()?.node ?? []);
  alongside = [];
  return nodes.filter((node) => realizedLeaf(node) === node && isComputable(node));
}

interface Work {
  readonly wanted: Node[];
  readonly assigned: Map<Variable, Node>;
}

/**
 * Queues what `realize` does, before it returns: whatever is called afterwards sees the new values of variables.
 * One run per device, which holds that device's assignments.
 */
export function launch(nodes: readonly Node[]): Launched {
  refuseInTrace();
  const works = new Map<Device, Work>();
  const workOn = (device: Device): Work => {
    const work = works.get(device) ?? { wanted: [], assigned: new Map() };
    works.set(device, work);
    return work;
  };
  const pending = takePending();
  const wanted = [...nodes, ...valuesBefore(pending.keys()), ...takeAlongside()];
  const unknown = [...new Set(wanted)].filter((n) => realizedLeaf(n) === n);
  for (const node of unknown) if (!isLeaf(node)) workOn(deviceOf([node], defaultDevice)).wanted.push(node);
  for (const [variable, value] of pending) {
    const { wanted, assigned } = workOn(variable.device);
    assigned.set(variable, value);
    // The old value of a variable that is about to be overwritten is copied out like any other result.
    const old = unknown.find((node) => variable.isStoredAs(node));
    if (old !== undefined) wanted.push(old);
  }
  const runs = [...works].map(([device, work]) => attempt(() => queueRun(device, work)));
  const done = Promise.all(runs.map((run) => run())).then(() => undefined);
  done.catch(() => undefined);
  return { leaves: nodes.map(realizedLeaf), done };
}

/** What `body` returned or threw, to be had later: the work of one device does not stop at a mistake on another. */
function attempt<T>(body: () => T): () => T {
  try {
    const value = body();
    return () => value;
  } catch (error) {
    return () => {
      throw error;
    };
  }
}

function queueRun(device: Device, { wanted, assigned }: Work): Promise<void> {
  const run = prepareRun(device, { wanted, assigned });
  for (const variable of assigned.keys()) variable.commit();
  const results = wanted.map((node) => promiseLeaf(device, node));
  // What was read after an assignment is the variable's value until that changes again.
  const adopted = [...assigned].map(([variable, value]) => adoptLeaf(value, variable.leaf));
  const done = device.enqueue(async () => {
    try {
      const buffers = await run();
      for (const [i, buffer] of buffers.entries()) results[i]?.settle(buffer);
    } catch (error) {
      for (const result of results) result.fail(error);
      for (const { undo } of adopted) undo();
      throw error;
    }
  });
  done.catch(() => undefined);
  return done;
}

/** A run of the present values of leaves. If there is none, assignments that are not to blame are queued without the rest. */
function prepareRun(device: Device, { wanted, assigned }: Work): () => ReturnType<typeof execute> {
  try {
    const request = substituteRealized({
      outputs: wanted,
      assignments: new Map([...assigned].map(([variable, value]) => [variable.leaf, value])),
    });
    deviceOf([...request.outputs, ...request.assignments.keys(), ...request.assignments.values()], () => device);
    const prepared = device.prepare(request);
    const leaves = prepared.leaves.map(requireValue);
    return () => execute(device, prepared, leaves);
  } catch (error) {
    if (wanted.length > 0 && assigned.size > 0) void queueRun(device, { wanted: [], assigned });
    else for (const variable of assigned.keys()) variable.restore();
    throw error;
  }
}

const isLeaf = (node: Node): boolean => node.op.kind === "source" && node.op.source === "input";
