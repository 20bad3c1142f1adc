/** Applying ops to tensors: autocast first, then broadcasting, then the node. */
import type { DType } from "../formats/index.ts";
import { build, type Node } from "../ir/graph.ts";
import type { Attributes, Op } from "../ops/define.ts";
import { OPS } from "../ops/index.ts";
import { broadcastShapes, normalizeAxes } from "../ops/shape.ts";
import { castOperands, inFunction } from "../precision/autocast.ts";

type Names<K extends Op["kind"]> = {
  [N in keyof typeof OPS]: (typeof OPS)[N]["kind"] extends K ? N : never;
}[keyof typeof OPS];
export type PointwiseName = Names<"pointwise">;
export type CompositeName = Names<"composite">;

/** A pointwise op over nodes and literals. */
export function pointwise(name: PointwiseName, operands: readonly (Node | number)[]): Node {
  const op = OPS[name];
  const cast = castOperands(
    op,
    operands.filter((x): x is Node => typeof x !== "number"),
  );
  let next = 0;
  return build.pointwise(
    op,
    operands.map((x) => (typeof x === "number" ? x : (cast[next++] as Node))),
  );
}

export function composite(name: CompositeName, inputs: readonly Node[], attributes: Attributes = {}): Node {
  return build.composite(name, castOperands(OPS[name], inputs), attributes);
}

/** Axes as given (one, several, none for all), normalised. */
export function axesOf(x: Node, axes: number | readonly number[] | undefined, subject: string): readonly number[] {
  const rank = x.shape.length;
  if (axes === undefined) return x.shape.map((_, i) => i);
  return normalizeAxes(typeof axes === "number" ? [axes] : axes, rank, subject);
}

export type ReduceName = "sum" | "mean" | "max" | "min" | "argMax" | "argMin";

/** A reduction; `mean` follows the class of `sum`, of which it is made. */
export function reduce(name: ReduceName, x: Node, axes: readonly number[], keepAxes: boolean): Node {
  const [input = x] =
    name === "mean" ? inFunction(name, () => castOperands(OPS.sum, [x])) : castOperands(OPS[name], [x]);
  const shape = x.shape.map((n, i) => (axes.includes(i) ? 1 : n));
  const reduced = reduceNode(name, input, axes);
  return keepAxes ? build.reshape(reduced, shape) : reduced;
}

function reduceNode(name: ReduceName, x: Node, axes: readonly number[]): Node {
  if (name === "sum") return build.sum(x, axes);
  if (name === "mean") return build.mean(x, axes);
  return build.node(OPS[name], [x], { axes });
}

/** a × b with NumPy's rules: vectors become matrices, batch axes broadcast. */
export function matmul(a: Node, w: Node): Node {
  const [x = a, y = w] = castOperands(OPS.matmul, [a, w]);
  const left = x.shape.length === 1 ? build.reshape(x, [1, ...x.shape]) : x;
  const right = y.shape.length === 1 ? build.reshape(y, [...y.shape, 1]) : y;
  const flat = right.shape.length === 2 && left.shape.length > 2;
  const product = flat ? rowsTimesMatrix(left, right) : build.matmul(...broadcastBatch(left, right));
  const shape = product.shape.filter(
    (_, i, { length }) => !(x.shape.length === 1 && i === length - 2) && !(y.shape.length === 1 && i === length - 1),
  );
  return build.reshape(product, shape);
}

/** (…, m, k) × (k, n): one product over all rows. */
export function rowsTimesMatrix(x: Node, w: Node, dtype: DType = x.dtype): Node {
  const k = x.shape[x.shape.length - 1] ?? 1;
  const rows = x.shape.slice(0, -1);
  const product = build.matmul(build.reshape(x, [rows.reduce((a, b) => a * b, 1), k]), w, dtype);
  return build.reshape(product, [...rows, w.shape[1] ?? 1]);
}

function broadcastBatch(a: Node, w: Node): [Node, Node] {
  const batch = broadcastShapes(a.shape.slice(0, -2), w.shape.slice(0, -2), "matmul");
  return [
    build.broadcastTo(a, [...batch, ...a.shape.slice(-2)]),
    build.broadcastTo(w, [...batch, ...w.shape.slice(-2)]),
  ];
}
