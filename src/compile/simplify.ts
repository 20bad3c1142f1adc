/** Local rewrites that change no bit of any result, and the decomposition of composites that the backend does not claim. */
import { byteSize, type DType, FORMATS, isFloat } from "../formats/table.ts";
import { build, createNode, type Node } from "../ir/graph.ts";
import { rewrite } from "../ir/walk.ts";
import type { NativeCore, OpOf, PointwiseRow } from "../ops/define.ts";
import { isContiguous, sameShape, sizeOf } from "../ops/shape.ts";
import { isBarrier, memoryOf, sourceOf, walksRows } from "./inline.ts";
import { type Capabilities, mapRequest, type Request } from "./program.ts";

/** Claimed composites stay; the rest become simpler rows. */
export function decompose(request: Request, { cores }: Capabilities): Request {
  return rewriteRequest(request, (node) => {
    const { op } = node;
    if (op.kind !== "composite") return node;
    const claimed =
      op.native !== undefined && cores.has(`${op.native.family}:${op.native.core}`) && node.dtype !== "float64";
    return claimed ? node : op.decompose(build, node.inputs, node.attributes);
  });
}

export function simplify(request: Request): Request {
  return rewriteRequest(request, (node) => RULES.reduce((n, rule) => (n === node ? (rule(n) ?? n) : n), node));
}

/** Kernels that address whole rows read contiguous memory: operands seen through other strides are copied first. */
export function legalize(request: Request): Request {
  return rewriteRequest(request, (node) => {
    const unit = rowsOf(node);
    if (unit === null) return node;
    const inputs = node.inputs.map((x) =>
      (unit === "all" ? isContiguous(sourceOf(x).view) : walksRows(x)) ? x : build.node(COPY, [x]),
    );
    return inputs.every((x, i) => x === node.inputs[i]) ? node : createNode(node.op, inputs, node.attributes);
  });
}

const WHOLE_ARRAYS: ReadonlySet<NativeCore["family"]> = new Set(["plane", "channelStatistic", "channelMap"]);

/** How much of an operand a kernel takes to be contiguous: everything, the last axis, or nothing. */
function rowsOf({ op }: Node): "all" | "last" | null {
  if (op.kind === "index") return "all";
  if (op.kind !== "composite" || op.native === undefined || op.native.family === "row") return null;
  return WHOLE_ARRAYS.has(op.native.family) ? "all" : "last";
}

/** Element for element, whatever the dtype: a value made contiguous. */
export const COPY: OpOf<PointwiseRow> = {
  name: "copy",
  kind: "pointwise",
  autocast: "as-is",
  slots: ["x"],
  value: { k: "slot", name: "x" },
  ulps: 0,
  domain: { low: -4, high: 4 },
  cheap: false,
  infer: ([x]) => ({ shape: x?.shape ?? [], dtype: x?.dtype ?? "float32" }),
  vjp: "none",
};

function rewriteRequest(request: Request, rule: (node: Node) => Node): Request {
  return mapRequest(request, (values) => rewrite(values, rule));
}

type Rule = (node: Node) => Node | undefined;

const isCast = (node: Node): boolean => node.op.kind === "pointwise" && node.op.converts === true;
const isLiteral = (node: Node): boolean => node.op.kind === "source" && node.op.source === "constant";

/** Every value of `narrow` is a value of `wide`. */
const contains = (wide: DType, narrow: DType): boolean => {
  const [w, n] = [FORMATS[wide], FORMATS[narrow]];
  return (
    w.kind === "float" &&
    n.kind === "float" &&
    w.mantissaBits >= n.mantissaBits &&
    w.maxFinite >= n.maxFinite &&
    w.minSubnormal <= n.minSubnormal
  );
};

/** cast(cast(x, wide), d) = cast(x, d) when the first cast lost nothing. */
const castOfCast: Rule = (node) => {
  const [inner] = node.inputs;
  const x = inner?.inputs[0];
  if (!isCast(node) || inner === undefined || x === undefined || !isCast(inner)) return undefined;
  return isFloat(node.dtype) && contains(inner.dtype, x.dtype) ? build.cast(x, node.dtype) : undefined;
};

/**
 * Casts that widen, and casts of leaves, stand above views: a kernel reads memory through one view and converts what it
 * loaded. Casts that narrow an intermediate stand below views: its narrow form is stored once and seen in many ways.
 */
const movementOfCast: Rule = (node) => {
  const [inner] = node.inputs;
  const x = inner?.inputs[0];
  if (node.op.kind !== "movement" || isBarrier(node) || inner === undefined || x === undefined || !isCast(inner))
    return undefined;
  const moved = createNode(node.op, [x], node.attributes);
  return readsAsStored(inner, moved) ? build.cast(moved, node.dtype) : undefined;
};

const castOfMovement: Rule = (node) => {
  const [inner] = node.inputs;
  const x = inner?.inputs[0];
  if (!isCast(node) || inner?.op.kind !== "movement" || isBarrier(inner) || x === undefined) return undefined;
  if (readsAsStored(node, inner)) return undefined;
  // A slice would cast what it leaves out.
  return sizeOf(inner.shape) < sizeOf(x.shape)
    ? undefined
    : createNode(inner.op, [build.cast(x, node.dtype)], inner.attributes);
};

/** The cast's operand is what memory holds: a leaf, or the narrower form. */
function readsAsStored(cast: Node, x: Node): boolean {
  return byteSize(x.dtype) <= byteSize(cast.dtype) || memoryOf(sourceOf(x).base).op.kind === "source";
}

/** Placing widened parts is widening the placed parts. */
const placementOfCasts: Rule = (node) => {
  const [first] = node.inputs;
  const from = first?.inputs[0]?.dtype;
  if (node.op.kind !== "placement" || from === undefined || byteSize(from) >= byteSize(node.dtype)) return undefined;
  if (!node.inputs.every((n) => isCast(n) && n.inputs[0]?.dtype === from)) return undefined;
  return build.cast(
    createNode(
      node.op,
      node.inputs.flatMap((n) => n.inputs),
      node.attributes,
    ),
    node.dtype,
  );
};

const movementOfLiteral: Rule = (node) => {
  const [inner] = node.inputs;
  if (node.op.kind !== "movement" || inner === undefined || !isLiteral(inner)) return undefined;
  return createNode(inner.op, [], { ...inner.attributes, shape: node.shape });
};

/** Two movements of the same op whose second states the whole result (reshape of reshape, broadcast of broadcast). */
const movementOfMovement: Rule = (node) => {
  const [inner] = node.inputs;
  const x = inner?.inputs[0];
  if (node.op.kind !== "movement" || isBarrier(node) || inner === undefined || x === undefined) return undefined;
  if (sameShape(inner.shape, node.shape) && isIdentity(node)) return inner;
  const statesShape = Object.keys(node.attributes).join() === "shape";
  const composable = statesShape && inner.op === node.op;
  return composable && !sameShape(x.shape, node.shape)
    ? createNode(node.op, [x], node.attributes)
    : composable
      ? x
      : undefined;
};

/** A barrier stands on what is stored: views are made anew over it. */
const barrierOfMovement: Rule = (node) => {
  const [inner, after] = node.inputs;
  const x = inner?.inputs[0];
  if (!isBarrier(node) || inner?.op.kind !== "movement" || x === undefined || after === undefined) return undefined;
  const below = build.barrier(x, after);
  return isBarrier(inner) ? below : createNode(inner.op, [below], inner.attributes);
};

function isIdentity(node: Node): boolean {
  const { order, starts } = node.attributes;
  if (Array.isArray(order)) return order.every((axis, i) => axis === i);
  return starts === undefined || (Array.isArray(starts) && starts.every((s) => s === 0));
}

/** (A B)ᵀ = Bᵀ Aᵀ, with the same sums in the same order: a weight's gradient is written as the weight lies. */
const transposeOfProduct: Rule = (node) => {
  const [product] = node.inputs;
  const [a, w] = product?.inputs ?? [];
  if (product?.op.kind !== "contraction" || a === undefined || w === undefined || !swapsLastTwo(node)) return undefined;
  return createNode(product.op, [build.transpose(w), build.transpose(a)], product.attributes);
};

function swapsLastTwo(node: Node): boolean {
  const { order } = node.attributes;
  const rank = node.shape.length;
  return (
    node.op.kind === "movement" &&
    Array.isArray(order) &&
    order.every((axis, i) => axis === (i === rank - 1 ? rank - 2 : i === rank - 2 ? rank - 1 : i))
  );
}

/** x · 1 and x / 1 are x, bit for bit (x + 0 is not: −0 + 0 = 0). */
const multiplyByOne: Rule = (node) => {
  const [x, y] = node.inputs;
  if (x === undefined || y === undefined || node.op.kind !== "pointwise") return undefined;
  const { value } = node.op;
  if (value.k !== "call" || value.args.some((arg) => arg.k !== "slot")) return undefined;
  if (value.fn === "mul" && isOne(x) && node.dtype === y.dtype) return y;
  return (value.fn === "mul" || value.fn === "div") && isOne(y) && node.dtype === x.dtype ? x : undefined;
};

const isOne = (node: Node): boolean => isLiteral(node) && node.attributes.value === 1;

const RULES: readonly Rule[] = [
  castOfCast,
  movementOfLiteral,
  movementOfCast,
  castOfMovement,
  placementOfCasts,
  movementOfMovement,
  barrierOfMovement,
  transposeOfProduct,
  multiplyByOne,
];
