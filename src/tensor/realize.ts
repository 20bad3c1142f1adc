/** Running lazy graphs: what was asked for, together with every assignment made so far. */
import { BinadeError } from "../errors.ts";
import type { Node } from "../ir/graph.ts";
import { defaultDevice } from "./devices.ts";
import type { LeafValue } from "./runtime.ts";
import { deviceOf, execute, leafOverBuffer, markRealized, realizedLeaf, requireValue, substituteRealized } from "./runtime.ts";
import { isTracing } from "./trace.ts";
import { takePending } from "./variable.ts";

/** Throws if a compiled function is being recorded: nothing has a value there. */
export function refuseInTrace(): void {
  if (isTracing()) {
    throw new BinadeError("trace.read", "compile: a value was read inside the function, which only records; return the tensor and read it outside, or use debug(tensor, label)");
  }
}

/** Computes `nodes` and commits every pending assignment; resolves to the leaves that hold the values. */
export async function realize(nodes: readonly Node[]): Promise<readonly Node[]> {
  refuseInTrace();
  const assignments = takePending();
  // The old value of a variable that is about to be overwritten is copied out like any other result.
  const overwritten = new Set([...assignments.keys()].map((variable) => variable.leaf));
  const wanted = [...new Set(nodes)].filter((n) => realizedLeaf(n) === n && (!isLeaf(n) || overwritten.has(n)));
  if (wanted.length > 0 || assignments.size > 0) await run(wanted, assignments);
  return nodes.map(realizedLeaf);
}

async function run(wanted: readonly Node[], assigned: ReturnType<typeof takePending>): Promise<void> {
  const request = substituteRealized({ outputs: wanted, assignments: new Map([...assigned].map(([variable, value]) => [variable.leaf, value])) });
  const device = deviceOf([...request.outputs, ...request.assignments.keys(), ...request.assignments.values()], defaultDevice);
  const prepared = device.prepare(request);
  // Leaves are resolved now, before the variables' new versions begin.
  const leaves: readonly LeafValue[] = prepared.leaves.map(requireValue);
  for (const variable of assigned.keys()) variable.commit();
  const buffers = await device.enqueue(() => execute(device, prepared, (position) => leaves[position] as LeafValue));
  wanted.forEach((node, i) => {
    const buffer = buffers[i];
    if (buffer !== undefined) markRealized(node, leafOverBuffer(device, node.shape, node.dtype, buffer));
  });
}

const isLeaf = (node: Node): boolean => node.op.kind === "source" && node.op.source === "input";
