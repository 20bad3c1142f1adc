/** Builds nodes by name: the vocabulary in which gradients, decompositions and the public API are written. */
import { BinadeError } from "../errors.ts";
import { round } from "../formats/codec.ts";
import { type DType, isFloat } from "../formats/table.ts";
import { COMPOSITE } from "./composite.ts";
import type { Attributes, Node, Op } from "./define.ts";
import { ELEMENTWISE } from "./elementwise.ts";
import { INDEXING } from "./indexing.ts";
import { LINEAR } from "./linear.ts";
import { MAGNITUDE } from "./magnitudes.ts";
import { MOVEMENT } from "./movement.ts";
import { REDUCE } from "./reduce.ts";
import { broadcastShapes, extent, type Shape, sameShape } from "./shape.ts";
import { SOURCE } from "./source.ts";

/** Makes (or finds) the node of an op; the only constructor, given by `ir/graph.ts`. */
export type NodeFactory = (op: Op, inputs: readonly Node[], attributes?: Attributes) => Node;
export type Operand = Node | number;

/** dtype of sums and of the inside of norms: float32, or float64 for float64. */
export const accumulatorOf = (dtype: DType): DType => (dtype === "float64" ? "float64" : "float32");

type PointwiseName = keyof typeof ELEMENTWISE;

export type Builder = ReturnType<typeof makeBuilder>;

/** The vocabulary over one node factory. Pointwise methods broadcast their operands; numbers are literals. */
export function makeBuilder(node: NodeFactory) {
  const constant = (value: number, shape: Shape = [], dtype: DType = "float32"): Node =>
    node(SOURCE.constant, [], { value, shape, dtype });

  /** A literal next to `like`: float32 beside any narrower float, else the operand's own dtype, which must hold it exactly. */
  const literal = (value: number, like: Node): Node => {
    if (isFloat(like.dtype)) return constant(value, like.shape, accumulatorOf(like.dtype));
    if (round(value, like.dtype) === value) return constant(value, like.shape, like.dtype);
    throw new BinadeError(
      "value.range",
      `the number ${value} is not a value of ${like.dtype}; cast the tensor first, for instance x.cast("float32")`,
    );
  };

  const broadcastTo = (x: Node, shape: Shape): Node =>
    sameShape(x.shape, shape) ? x : node(MOVEMENT.broadcast, [x], { shape });

  /** Applies a pointwise op, broadcasting operands to one shape. */
  const pointwise = (op: Op, operands: readonly Operand[]): Node => {
    const nodes = operands.filter((x): x is Node => typeof x !== "number");
    const shape = nodes.map((n) => n.shape).reduce((a, b) => broadcastShapes(a, b, op.name));
    const like = nodes.find((n) => n.dtype !== "bool") ?? nodes[0];
    return node(
      op,
      operands.map((x) => (typeof x === "number" ? literal(x, { ...(like as Node), shape }) : broadcastTo(x, shape))),
    );
  };

  const binary =
    (name: PointwiseName) =>
    (x: Operand, y: Operand): Node =>
      pointwise(ELEMENTWISE[name], [x, y]);
  const unary =
    (name: PointwiseName) =>
    (x: Node): Node =>
      node(ELEMENTWISE[name], [x]);

  const cast = (x: Node, dtype: DType): Node => (x.dtype === dtype ? x : node(MOVEMENT.cast, [x], { dtype }));
  const bitcast = (x: Node, dtype: "float32" | "int32" | "uint32"): Node =>
    x.dtype === dtype ? x : node(MOVEMENT.bitcast, [x], { dtype });
  const reshape = (x: Node, shape: Shape): Node =>
    sameShape(x.shape, shape) ? x : node(MOVEMENT.reshape, [x], { shape });
  const permute = (x: Node, order: readonly number[]): Node =>
    order.length === x.shape.length && order.every((axis, i) => axis === i)
      ? x
      : node(MOVEMENT.permute, [x], { order });
  const slice = (x: Node, starts: readonly number[], shape: Shape): Node =>
    sameShape(x.shape, shape) && starts.every((start) => start === 0)
      ? x
      : node(MOVEMENT.slice, [x], { starts, shape });
  const sum = (x: Node, axes: readonly number[], dtype: DType = x.dtype): Node =>
    axes.length === 0 ? cast(x, dtype) : node(REDUCE.sum, [x], { axes, dtype });

  /** Puts reduced axes back as repeats: the transpose of a reduction. */
  const restoreAxes = (x: Node, shape: Shape, axes: readonly number[]): Node =>
    broadcastTo(
      reshape(
        x,
        shape.map((n, i) => (axes.includes(i) ? 1 : n)),
      ),
      shape,
    );

  /** Sums over the axes along which `shape` was broadcast to x's shape. */
  const sumTo = (x: Node, shape: Shape, dtype: DType): Node => {
    const lead = x.shape.length - shape.length;
    const axes = x.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && x.shape[i] !== 1));
    return reshape(sum(x, axes, dtype), shape);
  };

  const mean = (x: Node, axes: readonly number[]): Node => {
    if (!isFloat(x.dtype))
      throw new BinadeError(
        "dtype.unsupported",
        `mean: expected a floating dtype, got ${x.dtype}; cast it first, for instance x.cast("float32")`,
      );
    const count = axes.reduce((n, axis) => n * extent(x.shape, axis), 1);
    return cast(pointwise(ELEMENTWISE.mul, [sum(x, axes, accumulatorOf(x.dtype)), 1 / count]), x.dtype);
  };

  return {
    node,
    constant,
    literal,
    barrier: (x: Node, after: Node): Node => node(MOVEMENT.barrier, [x, after]),
    pointwise,
    broadcastTo,
    cast,
    bitcast,
    reshape,
    permute,
    slice,
    sum,
    sumTo,
    restoreAxes,
    mean,
    /** x in at least float32: where decompositions compute. */
    widen: (x: Node): Node => cast(x, isFloat(x.dtype) ? accumulatorOf(x.dtype) : x.dtype),
    iota: (length: number): Node => node(SOURCE.iota, [], { length }),
    random: (key: Node, shape: Shape, stream: number): Node => node(SOURCE.random, [key], { shape, stream }),
    pad: (x: Node, starts: readonly number[], shape: Shape): Node => node(MOVEMENT.pad, [x], { starts, shape }),
    windows: (x: Node, attributes: Attributes): Node => node(MOVEMENT.windows, [x], attributes),
    concatenate: (xs: readonly Node[], axis: number): Node =>
      xs.length === 1 && xs[0] !== undefined ? xs[0] : node(MOVEMENT.concatenate, xs, { axis }),
    /** Swaps the last two axes. */
    transpose: (x: Node): Node => {
      const rank = x.shape.length;
      return permute(
        x,
        x.shape.map((_, i) => (i === rank - 1 ? rank - 2 : i === rank - 2 ? rank - 1 : i)),
      );
    },
    add: binary("add"),
    sub: binary("sub"),
    mul: binary("mul"),
    div: binary("div"),
    pow: binary("pow"),
    minimum: binary("minimum"),
    maximum: binary("maximum"),
    equal: binary("equal"),
    notEqual: binary("notEqual"),
    less: binary("less"),
    lessEqual: binary("lessEqual"),
    greater: binary("greater"),
    greaterEqual: binary("greaterEqual"),
    and: binary("logicalAnd"),
    or: binary("logicalOr"),
    not: unary("logicalNot"),
    neg: unary("neg"),
    abs: unary("abs"),
    floor: unary("floor"),
    sqrt: unary("sqrt"),
    square: unary("square"),
    exp: unary("exp"),
    log: unary("log"),
    cos: unary("cos"),
    detach: unary("detach"),
    expm1: unary("expm1"),
    isFinite: unary("isFinite"),
    where: (condition: Node, x: Operand, y: Operand): Node => {
      if (typeof x === "number" && typeof y === "number") {
        const like = constant(x, condition.shape);
        return node(ELEMENTWISE.where, [condition, like, constant(y, condition.shape)]);
      }
      return pointwise(ELEMENTWISE.where, [condition, x, y]);
    },
    max: (x: Node, axes: readonly number[]): Node => node(REDUCE.max, [x], { axes }),
    min: (x: Node, axes: readonly number[]): Node => node(REDUCE.min, [x], { axes }),
    magnitudeCounts: (x: Node): Node => node(MAGNITUDE.magnitudeCounts, [x]),
    matmul: (a: Node, w: Node, dtype: DType = a.dtype): Node => node(LINEAR.matmul, [a, w], { dtype }),
    gather: (table: Node, indices: Node, axis = 0): Node => node(INDEXING.gather, [table, indices], { axis }),
    scatterAdd: (values: Node, indices: Node, to: { axis: number; rows: number; dtype: DType }): Node =>
      node(INDEXING.scatterAdd, [values, indices], to),
    composite: (name: keyof typeof COMPOSITE, inputs: readonly Node[], attributes: Attributes = {}): Node =>
      node(COMPOSITE[name], inputs, attributes),
    /** True if the node's elements are one literal. */
    isConstant: (x: Node, value: number): boolean => x.op === SOURCE.constant && x.attributes.value === value,
  };
}
