/** The only constructor of nodes: immutable, hash-consed, shape and dtype from the row. */
import { BinadeError } from "../errors.ts";
import { makeBuilder } from "../ops/builder.ts";
import type { Attributes, Node, Op } from "../ops/define.ts";
import { OPS } from "../ops/index.ts";
import { showShape } from "../ops/shape.ts";

export type { Attributes, Node, Op } from "../ops/define.ts";

let created = 0;
const interned = new Map<string, WeakRef<Node>>();
const forgotten = new FinalizationRegistry<string>((key) => {
  if (interned.get(key)?.deref() === undefined) interned.delete(key);
});
/** Weak: the rows of ops that users make, and of layers that have rows of their own, go when nobody uses them. */
const opIds = new WeakMap<Op, number>();
let ops = 0;

/** A number that tells ops apart, equal names included. */
export function opId(op: Op): number {
  let id = opIds.get(op);
  if (id === undefined) opIds.set(op, (id = ops++));
  return id;
}

/** Canonical text of attributes: equal attributes give equal text. −0 and 0 differ. */
export function attributesKey(attributes: Attributes): string {
  const show = (v: unknown): string =>
    Array.isArray(v) ? `[${v.map(show).join(",")}]` : Object.is(v, -0) ? "-0" : String(v);
  return Object.keys(attributes)
    .sort()
    .map((name) => `${name}=${show(attributes[name])}`)
    .join(";");
}

/** The node of `op` over `inputs`; equal calls return the same object. Throws where the row's shape or dtype rule refuses. */
export function createNode(op: Op, inputs: readonly Node[], attributes: Attributes = {}): Node {
  const node = findOrMake(op, inputs, attributes);
  observer?.(node);
  return node;
}

let observer: ((node: Node) => void) | null = null;

/** Runs `body`; `observe` sees every node that it asks for, made before or not. */
export function observingNodes<T>(observe: (node: Node) => void, body: () => T): T {
  const before = observer;
  observer = (node) => {
    observe(node);
    before?.(node);
  };
  try {
    return body();
  } finally {
    observer = before;
  }
}

/** Runs `body`; the nodes that it asked for, made before or not. */
export function requestedNodes<T>(body: () => T): { readonly result: T; readonly nodes: ReadonlySet<Node> } {
  const nodes = new Set<Node>();
  const result = observingNodes((node) => nodes.add(node), body);
  return { result, nodes };
}

function findOrMake(op: Op, inputs: readonly Node[], attributes: Attributes): Node {
  const key = `${opId(op)}|${inputs.map((n) => n.id).join(",")}|${attributesKey(attributes)}`;
  const known = interned.get(key)?.deref();
  if (known !== undefined) return known;
  const node = makeNode(op, inputs, attributes);
  interned.set(key, new WeakRef(node));
  forgotten.register(node, key);
  return node;
}

function makeNode(op: Op, inputs: readonly Node[], attributes: Attributes): Node {
  const { shape, dtype } = inferNamed(op, inputs, attributes);
  return Object.freeze({
    id: created++,
    op,
    inputs: Object.freeze([...inputs]),
    attributes: frozen(attributes),
    shape: Object.freeze([...shape]),
    dtype,
  });
}

/** A copy whose lists are copies too: a caller that changes its own list later changes no node. */
const frozen = (attributes: Attributes): Attributes =>
  Object.freeze(
    Object.fromEntries(
      Object.entries(attributes).map(([name, v]) => [name, typeof v === "object" ? Object.freeze([...v]) : v]),
    ),
  );

function inferNamed(op: Op, inputs: readonly Node[], attributes: Attributes): ReturnType<Op["infer"]> {
  try {
    return op.infer(inputs, attributes);
  } catch (error) {
    if (error instanceof BinadeError && !error.message.startsWith(`${op.name}: `)) {
      throw new BinadeError(error.code, `${op.name}: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

/** The vocabulary of ops over this constructor. */
export const build: ReturnType<typeof makeBuilder> = makeBuilder(createNode);

let leaves = 0;
/** A fresh leaf, different from every other: it is not interned, for nobody can ask for it again. Training makes several per step. */
export function createInput(shape: readonly number[], dtype: Node["dtype"], name = ""): Node {
  return makeNode(OPS.input, [], { shape, dtype, name, key: leaves++ });
}
/** One line for messages: `matmul [32, 64] bfloat16`. */
export const describe = (node: Node): string => `${node.op.name} ${showShape(node.shape)} ${node.dtype}`;
