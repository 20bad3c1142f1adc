/** Which nodes are never stored, but recomputed inside every kernel that reads them; and what reads see through movements. */
import { byteSize, type DType } from "../formats/table.ts";
import type { Node, Op } from "../ir/graph.ts";
import { contiguousView, isContiguous, sizeOf, type View } from "../ops/shape.ts";

/** A value as its reader sees it: the node that is computed or stored, and the view through the movements in between. */
export interface Source {
  readonly base: Node;
  readonly view: View;
  /** The reader's element i is the base's element i, in row-major order. */
  readonly linear: boolean;
}

const sources = new WeakMap<Node, Source>();

/** Follows movements down to the node whose elements are read. A movement that no strides express is a copy: it ends the walk. */
export function sourceOf(node: Node): Source {
  const known = sources.get(node);
  if (known !== undefined) return known;
  const source = trace(node);
  sources.set(node, source);
  return source;
}

function trace(node: Node): Source {
  const [x] = node.inputs;
  if (node.op.kind !== "movement" || x === undefined || isBarrier(node)) return itself(node);
  const below = sourceOf(x);
  const view = node.op.view(below.view, node.shape, node.attributes);
  if (view === null) return itself(node);
  const linear = isContiguous(view) && view.offset === 0 && sizeOf(view.shape) === sizeOf(below.base.shape);
  return { base: below.base, view, linear };
}

const itself = (node: Node): Source => ({ base: node, view: contiguousView(node.shape), linear: true });

export const isInput = (node: Node): boolean => node.op.kind === "source" && node.op.source === "input";

export const isBarrier = (node: Node): boolean => node.op.kind === "movement" && node.op.opaque === true;

/** The node or leaf whose memory a base is read from: itself, or what stands behind barriers. */
export function memoryOf(base: Node): Node {
  const [x] = base.inputs;
  return x !== undefined && isBarrier(base) ? memoryOf(sourceOf(x).base) : base;
}

/** What must be known before a base is read: what the barriers on it wait for. */
export function awaitedBy(base: Node): readonly Node[] {
  const [x, after] = base.inputs;
  return x !== undefined && after !== undefined && isBarrier(base) ? [after, ...awaitedBy(sourceOf(x).base)] : [];
}

/** The memory that `nodes` are read from, seen through inlined expressions. */
export function storedBehind(nodes: readonly Node[], inline: ReadonlySet<Node>): readonly Node[] {
  return nodes.flatMap((node) => {
    const { base } = sourceOf(node);
    return inline.has(base) ? storedBehind(base.inputs, inline) : [memoryOf(base)];
  });
}

const CHEAP_CHAIN = 4;

/** Nodes that every reader recomputes: literals, random numbers, and cheap expressions whose operands cost no more memory than they do. */
export function inlined(nodes: readonly Node[], required: ReadonlySet<Node>, fuse: boolean): ReadonlySet<Node> {
  const readers = readersOf(nodes);
  const result = new Map<Node, number>();
  for (const node of nodes) {
    const length = chainLength(node, result, readers, required, fuse);
    if (length !== null) result.set(node, length);
  }
  return new Set(result.keys());
}

/** A node that reads another's elements. */
export interface Reader {
  readonly node: Node;
  /** Read as it is, element for element. */
  readonly direct: boolean;
}

export function readersOf(nodes: readonly Node[]): ReadonlyMap<Node, readonly Reader[]> {
  const readers = new Map<Node, Reader[]>();
  for (const node of nodes) {
    if (node.op.kind === "movement" && !isCopy(node) && !isBarrier(node)) continue;
    // A barrier reads its first operand alone, and like memory: what stands behind it is stored.
    const read = isBarrier(node) ? node.inputs.slice(0, 1) : node.inputs;
    for (const input of read) {
      const { base } = sourceOf(input);
      const list = readers.get(base) ?? [];
      list.push({ node, direct: base === input && !isBarrier(node) });
      readers.set(base, list);
    }
  }
  return readers;
}

/** A movement that strides cannot express from its operand's stored elements: a kernel of its own. */
export const isCopy = (node: Node): boolean =>
  node.op.kind === "movement" && sourceOf(node).base === node && !isBarrier(node);

function chainLength(
  node: Node,
  known: ReadonlyMap<Node, number>,
  readers: ReadonlyMap<Node, readonly Reader[]>,
  required: ReadonlySet<Node>,
  fuse: boolean,
): number | null {
  if (required.has(node)) return null;
  const uses = readers.get(node) ?? [];
  const { op } = node;
  if (op.kind === "source" && op.source === "constant") return uses.every((use) => absorbsAny(use.node)) ? 0 : null;
  const generated = op.kind === "source" && op.source !== "input";
  const cheap = op.kind === "pointwise" && op.cheap;
  if (!fuse || (!generated && !cheap)) return null;
  const converts = op.kind === "pointwise" && op.converts === true;
  if (!uses.every((use) => use.direct && (absorbsAny(use.node) || (converts && packs(use.node, node))))) return null;
  if (uses.some((use) => reordersOperand(use.node)) && drawsRandom(node, known)) return null;
  if (generated) return 1;
  const widens = converts && node.inputs.every((n) => byteSize(n.dtype) < byteSize(node.dtype));
  if (uses.length < 2 && !widens && !uses.some((use) => convertsOperands(use.node))) return null;
  const operands = [...new Set(node.inputs)];
  const length = 1 + operands.reduce((sum, n) => sum + (known.get(n) ?? 0), 0);
  const readsStored = uses.some((use) => convertsOperands(use.node)) ? operands.every((n) => !known.has(n)) : true;
  return length <= CHEAP_CHAIN && readsStored && operandBytes(operands, known) <= bytesOf(node) ? length : null;
}

/**
 * The kernel walks its operand in another order than row-major: a reduction over other axes than the last ones. Random
 * numbers are drawn by position in the kernel, so they cannot be drawn there.
 */
export function reordersOperand({ op, attributes, inputs }: Node): boolean {
  const { axes } = attributes;
  const rank = inputs[0]?.shape.length ?? 0;
  return op.kind === "reduce" && Array.isArray(axes) && axes.some((axis, i) => axis !== rank - axes.length + i);
}

export const isRandom = (node: Node): boolean => node.op.kind === "source" && node.op.source === "random";

const drawsRandom = (node: Node, known: ReadonlyMap<Node, number>): boolean =>
  isRandom(node) || node.inputs.some((input) => known.has(input) && drawsRandom(input, known));

/** Kernels that evaluate expressions on what they load; the others read stored elements. */
const absorbsAny = ({ op }: Node): boolean =>
  ABSORBING.has(op.kind) || (op.kind === "composite" && op.native?.family === "row");
const ABSORBING: ReadonlySet<Op["kind"]> = new Set(["pointwise", "reduce", "magnitudes"]);

/** Kernels that pack or stage their operands, and convert them on the way. */
const convertsOperands = ({ op }: Node): boolean =>
  op.kind === "contraction" || (op.kind === "composite" && op.native?.convertsOperands === true);

const PACKED_FROM: readonly DType[] = ["float32", "float16", "bfloat16"];

/** `reader` can take the cast `node` upon itself: packing converts floats. Convolutions read rows of neighbouring elements. */
function packs(reader: Node, node: Node): boolean {
  const [x] = node.inputs;
  if (x === undefined || !convertsOperands(reader) || !PACKED_FROM.includes(x.dtype)) return false;
  return reader.op.kind === "contraction" || walksRows(x);
}

/** Neighbours along the last axis lie side by side in memory. */
export function walksRows(x: Node): boolean {
  const { view } = sourceOf(x);
  const last = view.shape.length - 1;
  return view.shape[last] === 1 || view.strides[last] === 1;
}

/** Bytes of a value in memory. */
export const bytesOf = (node: Node): number => sizeOf(node.shape) * byteSize(node.dtype);

/** Bytes kept alive for the sake of recomputing; leaves are alive anyway. */
function operandBytes(operands: readonly Node[], known: ReadonlyMap<Node, number>): number {
  return operands.reduce((sum, n) => {
    const { base } = sourceOf(n);
    if (memoryOf(base).op.kind === "source") return sum;
    return sum + (known.has(base) ? operandBytes([...new Set(base.inputs)], known) : bytesOf(base));
  }, 0);
}
