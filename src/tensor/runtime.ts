/** Leaves with values, pending assignments, and the run that realises both. */
import type { DeviceBuffer, Fault } from "../backends/backend.ts";
import { mapRequest, type Program, type Request } from "../compile/program.ts";
import { BinadeError } from "../errors.ts";
import { byteSize, type DType } from "../formats/index.ts";
import { createInput, describe, type Node } from "../ir/graph.ts";
import { rewrite, topological } from "../ir/walk.ts";
import { extent, sizeOf } from "../ops/shape.ts";
import type { Device, Prepared } from "./device.ts";
import { memoryError, planOf } from "./plan.ts";

/**
 * What a leaf stands for: memory on a device, or a number of the host. `buffer` throws while the run that yields it has not
 * ended (runs of a device are executed in order, so no later run sees that) and, with its error, if that run failed.
 * `owned`: the memory is the leaf's own, not a variable's. `latest`: what the host's number is by now.
 */
export type LeafValue =
  | {
      readonly kind: "buffer";
      readonly device: Device;
      readonly buffer: () => DeviceBuffer;
      readonly owned: boolean;
      /** The variable whose value it is. */
      readonly variable?: { readonly name: string; readonly role: VariableRole; readonly unallocatedBytes: number };
    }
  | { readonly kind: "host"; readonly bytes: Uint8Array; readonly latest: () => Uint8Array };

/** What a memory plan counts a variable as. */
export type VariableRole = "parameter" | "master" | "optimizerState" | "gradientSum" | "buffer";

const values = new WeakMap<Node, LeafValue>();
/** Nodes that were computed already, and the leaf that holds the result. */
const realized = new WeakMap<Node, Node>();
/** Computed nodes that read no leaf, such as literals: they belong to no device, so graphs on any of them compute these anew. */
const placeless = new WeakSet<Node>();

export function setLeafValue(leaf: Node, value: LeafValue): void {
  values.set(leaf, value);
}

/** A fresh leaf over `bytes`, copied to `device`. */
export function leafFromBytes(device: Device, shape: readonly number[], dtype: DType, bytes: Uint8Array): Node {
  return leafOverBuffer(device, shape, dtype, device.allocate(bytes.byteLength, bytes));
}

/** Gives memory back when the last holder of a leaf's value is collected. It watches the value: recordings hold values without their leaves. */
const collected = new FinalizationRegistry<{ readonly device: Device; readonly buffer: DeviceBuffer }>(
  ({ device, buffer }) => device.release(buffer),
);

/** A fresh leaf that owns `buffer`. */
export function leafOverBuffer(device: Device, shape: readonly number[], dtype: DType, buffer: DeviceBuffer): Node {
  const leaf = createInput(shape, dtype);
  const value: LeafValue = { kind: "buffer", device, buffer: () => buffer, owned: true };
  values.set(leaf, value);
  collected.register(value, { device, buffer }, value);
  return leaf;
}

/** The outcome of a run, told to a leaf that stands for one of its results. */
export interface Promised {
  readonly settle: (buffer: DeviceBuffer) => void;
  readonly fail: (error: unknown) => void;
}

/** From now on `node` is read from a leaf whose memory a queued run of `device` will yield. */
export function promiseLeaf(device: Device, node: Node): Promised {
  const leaf = createInput(node.shape, node.dtype);
  let buffer = (): DeviceBuffer => {
    throw new BinadeError("internal", `internal: ${describe(node)} is read before it is computed`);
  };
  const value: LeafValue = { kind: "buffer", device, buffer: () => buffer(), owned: true };
  values.set(leaf, value);
  realized.set(node, leaf);
  if (!readsLeaf(node)) placeless.add(node);
  return {
    settle: (held) => {
      buffer = () => held;
      collected.register(value, { device, buffer: held }, value);
    },
    fail: (error) => {
      buffer = () => {
        throw error;
      };
      if (realized.get(node) === leaf) forgetRealized(node);
    },
  };
}

/** From now on `node`, which was assigned to a variable, is read from the variable's leaf; `undo` if the assignment failed. */
export function adoptLeaf(node: Node, leaf: Node): { readonly undo: () => void } {
  const adopts = realizedLeaf(node) === node && readsLeaf(node) && !values.has(node);
  if (adopts) realized.set(node, leaf);
  return {
    undo: () => {
      if (adopts && realized.get(node) === leaf) realized.delete(node);
    },
  };
}

/** The node is computed anew when it is next needed. */
function forgetRealized(node: Node): void {
  realized.delete(node);
  placeless.delete(node);
}

/**
 * Releases what a computed node owns, after every queued run; whether there was anything to release. A variable's memory and
 * uncomputed nodes are left alone. An equal expression is the same node: where it is needed again, it is computed anew.
 */
export function releaseNode(node: Node): boolean {
  const leaf = realizedLeaf(node);
  const value = values.get(leaf);
  if (value?.kind !== "buffer" || !value.owned) return false;
  values.delete(leaf);
  forgetRealized(node);
  void value.device.enqueue(async () => {
    if (collected.unregister(value)) value.device.release(value.buffer());
  });
  return true;
}

/** Replaces what was computed before by the leaves that hold it. */
export function substituteRealized(request: Request): Request {
  return mapRequest(request, (values) => rewrite(values, (node) => node, heldLeaf));
}

/** The leaf that takes a computed node's place in graphs on its device. */
const heldLeaf = (node: Node): Node | undefined =>
  placeless.has(node) || realizedLeaf(node) === node ? undefined : realized.get(node);

function readsLeaf(node: Node): boolean {
  const seen = new Set<Node>();
  const stack = [node];
  for (let n = stack.pop(); n !== undefined; n = stack.pop()) {
    const isLeaf = n.op.kind === "source" && n.op.source === "input";
    if (isLeaf || (n !== node && realized.has(n) && !placeless.has(n))) return true;
    for (const input of n.inputs) if (!seen.has(input)) stack.push(input);
    seen.add(n);
  }
  return false;
}

/** The leaf that holds a computed node's value; the node itself while it is not computed, or not any more. */
export function realizedLeaf(node: Node): Node {
  const leaf = realized.get(node);
  return leaf === undefined || !values.has(leaf) ? node : leaf;
}

/** The device on which a graph's leaves live; `fallback` if it has none. Two devices in one graph are a mistake. */
export function deviceOf(roots: readonly Node[], fallback: () => Device): Device {
  const devices = new Set<Device>();
  for (const node of topological(roots, (n) => heldLeaf(n) !== undefined)) {
    const value = values.get(heldLeaf(node) ?? node);
    if (value?.kind === "buffer") devices.add(value.device);
  }
  const [first, second] = devices;
  if (first !== undefined && second !== undefined) {
    throw new BinadeError(
      "device.failed",
      `a graph mixes tensors of the devices ${first.kind} and ${second.kind}; create them on one device`,
    );
  }
  return first ?? fallback();
}

/** Whether everything that a node is computed from is still there, on one device. */
export function isComputable(root: Node): boolean {
  const devices = new Set<Device>();
  for (const node of topological([root], (n) => heldLeaf(n) !== undefined)) {
    const leaf = heldLeaf(node) ?? node;
    const value = values.get(leaf);
    if (value?.kind === "buffer") devices.add(value.device);
    else if (value === undefined && leaf.op.kind === "source" && leaf.op.source === "input") return false;
  }
  return devices.size <= 1;
}

/** The buffers of a run: leaves in, fresh buffers out. `temporary` are released after the run. */
function bind(
  device: Device,
  program: Program,
  leafAt: (leaf: Node) => LeafValue,
): { bindings: DeviceBuffer[]; outputs: DeviceBuffer[]; temporary: DeviceBuffer[] } {
  // Leaves first: one whose run failed throws, and nothing is allocated yet.
  const held = program.bindings.map(({ role, node }) => {
    const value = role === "output" ? null : leafAt(node);
    return value?.kind === "buffer" ? value.buffer() : (value?.bytes ?? null);
  });
  const temporary: DeviceBuffer[] = [];
  const bindings = program.bindings.map(({ buffer }, i) => {
    const given = held[i];
    if (given === undefined || given === null) return device.allocate(buffer.elements * byteSize(buffer.dtype));
    if (!(given instanceof Uint8Array)) return given;
    const host = device.allocate(given.byteLength, given);
    temporary.push(host);
    return host;
  });
  const outputs = program.outputs.map((index) => bindings[index] as DeviceBuffer);
  return { bindings, outputs, temporary };
}

/** Throws before anything is allocated where the machine has not got what the run takes. */
function requireRoom(device: Device, program: Program, valueAt: (leaf: Node) => LeafValue): void {
  const fresh = program.bindings.map(({ role, node, buffer }) => {
    const value = role === "output" ? null : valueAt(node);
    if (value?.kind === "buffer") return value.variable?.unallocatedBytes ?? 0;
    return buffer.elements * byteSize(buffer.dtype);
  });
  const lacking = device.shortage(
    program.arenaByteLength,
    fresh.reduce((a, b) => a + b, 0),
  );
  if (lacking !== null) throw memoryError(planOf(program, valueAt), lacking.needed, lacking.available);
  device.noteArena(program.arenaByteLength);
}

/** Runs a prepared program; resolves to the buffers of its outputs. */
export async function execute(
  device: Device,
  prepared: Prepared,
  leaves: readonly LeafValue[],
): Promise<DeviceBuffer[]> {
  const { program, executable, leafOf } = prepared;
  const valueAt = (leaf: Node): LeafValue => requireLeaf(leaves[leafOf.get(leaf) ?? -1], leaf);
  requireRoom(device, program, valueAt);
  const { bindings, outputs, temporary } = bind(device, program, valueAt);
  try {
    const fault = await device.run(executable, bindings);
    if (fault !== null) throw faultError(program, fault);
    return outputs;
  } catch (error) {
    for (const buffer of outputs) device.release(buffer);
    throw error;
  } finally {
    for (const buffer of temporary) device.release(buffer);
  }
}

/** The value of a leaf; a leaf of an overwritten variable has none. */
/** Name of the variable whose stored value the leaf is, as it is called now; undefined for other leaves. */
export function variableName(leaf: Node): string | undefined {
  const value = values.get(leaf);
  return value?.kind === "buffer" ? value.variable?.name : undefined;
}

export const requireValue = (leaf: Node): LeafValue => requireLeaf(values.get(leaf), leaf);

function requireLeaf(value: LeafValue | undefined, leaf: Node): LeafValue {
  if (value !== undefined) return value;
  throw new BinadeError(
    "tensor.disposed",
    `${describe(leaf)}: its value is gone (disposed, or a variable assigned since); compute what needs it before that`,
  );
}

export function forgetLeaf(leaf: Node): void {
  values.delete(leaf);
}

function faultError(program: Program, { kernel, position, value }: Fault): BinadeError {
  const core = program.kernels[kernel]?.cores[0];
  const limit = core === undefined ? 0 : tableRows(core);
  const name = core?.op.name ?? "index";
  return new BinadeError(
    "index.outOfRange",
    `${name}: index ${value} at position ${position} is outside 0…${limit - 1}; nothing was changed. Check the labels or token ids against the number of classes.`,
  );
}

function tableRows(core: Node): number {
  const { op, inputs, attributes, shape } = core;
  if (op.kind === "index" && op.direction === "gather") return extent(inputs[0]?.shape ?? [], Number(attributes.axis));
  if (op.kind === "index") return extent(shape, Number(attributes.axis));
  const widest = inputs.map((n) => n.shape).reduce((a, b) => (sizeOf(b) > sizeOf(a) ? b : a), [] as readonly number[]);
  return widest[widest.length - 1] ?? 0;
}
