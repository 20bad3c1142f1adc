/** Rows that move elements and compute nothing: views by strides, placements into boxes, and the cast. */
import { BinadeError } from "../errors.ts";
import { type DType, isFloat } from "../formats/table.ts";
import {
  type Attributes,
  type Infer,
  listOf,
  type MovementRow,
  nameRows,
  type PlacementRow,
  type PointwiseRow,
} from "./define.ts";
import { slot } from "./expr.ts";
import { commonDType } from "./pointwise.ts";
import {
  broadcastView,
  extent,
  permuteView,
  requireShape,
  reshapeView,
  type Shape,
  showShape,
  sizeOf,
  sliceView,
} from "./shape.ts";
import { windows } from "./windows.ts";

const shapeAttribute: Infer = ([x], attributes) => ({
  shape: requireShape(listOf(attributes, "shape")),
  dtype: x?.dtype ?? "float32",
});

const cast: PointwiseRow = {
  kind: "pointwise",
  autocast: "as-is",
  slots: ["x"],
  value: slot("x"),
  ulps: 0.5,
  domain: { low: -4, high: 4 },
  cheap: true,
  converts: true,
  infer: ([x], attributes) => ({ shape: x?.shape ?? [], dtype: dtypeOf(attributes) }),
  vjp: ({ b, g, ins: [x] }) => [x !== undefined && isFloat(x.dtype) ? () => b.cast(g, x.dtype) : null],
};

const BITS_OF_32: readonly DType[] = ["float32", "int32", "uint32"];

/** The bits of x as `attributes.dtype`, both of 32 bits. Which of the NaNs a NaN is, differs between backends. */
const bitcast: PointwiseRow = {
  kind: "pointwise",
  autocast: "as-is",
  slots: ["x"],
  value: slot("x"),
  ulps: 0,
  domain: { low: -4, high: 4 },
  cheap: true,
  reinterprets: true,
  infer: ([x], attributes) => {
    const other = [x?.dtype ?? "float32", dtypeOf(attributes)].find((dtype) => !BITS_OF_32.includes(dtype));
    if (other !== undefined) {
      throw new BinadeError(
        "dtype.unsupported",
        `expected float32, int32 or uint32, got ${other}; cast to one of them first`,
      );
    }
    return { shape: x?.shape ?? [], dtype: dtypeOf(attributes) };
  },
  vjp: "none",
};

/** The dtype-valued attribute `dtype`. */
export function dtypeOf(attributes: Attributes): DType {
  return attributes.dtype as DType;
}

const reshape: MovementRow = {
  kind: "movement",
  autocast: "as-is",
  infer: (inputs, attributes) => {
    const { shape, dtype } = shapeAttribute(inputs, attributes);
    const from = inputs[0]?.shape ?? [];
    if (sizeOf(from) !== sizeOf(shape)) {
      throw new BinadeError(
        "shape.mismatch",
        `${showShape(from)} has ${sizeOf(from)} elements and ${showShape(shape)} has ${sizeOf(shape)}; give a shape with as many elements`,
      );
    }
    return { shape, dtype };
  },
  view: (view, out) => reshapeView(view, out),
  vjp: ({ b, g, ins: [x] }) => [() => b.reshape(g, x?.shape ?? [])],
};

const permute: MovementRow = {
  kind: "movement",
  autocast: "as-is",
  infer: ([x], attributes) => {
    const order = listOf(attributes, "order");
    const shape = x?.shape ?? [];
    if (order.length !== shape.length || [...order].sort((a, b) => a - b).some((axis, i) => axis !== i)) {
      throw new BinadeError(
        "shape.invalid",
        `order [${order.join(", ")}] does not name each of the ${shape.length} axes once; give a permutation of 0…${shape.length - 1}`,
      );
    }
    return { shape: order.map((axis) => extent(shape, axis)), dtype: x?.dtype ?? "float32" };
  },
  view: (view, _out, attributes) => permuteView(view, listOf(attributes, "order")),
  vjp: ({ b, g, attributes }) => {
    const order = listOf(attributes, "order");
    return [
      () =>
        b.permute(
          g,
          order.map((_, axis) => order.indexOf(axis)),
        ),
    ];
  },
};

const broadcast: MovementRow = {
  kind: "movement",
  autocast: "as-is",
  infer: (inputs, attributes) => {
    const { shape, dtype } = shapeAttribute(inputs, attributes);
    const from = inputs[0]?.shape ?? [];
    const lead = shape.length - from.length;
    if (lead < 0 || from.some((n, i) => n !== 1 && n !== shape[i + lead])) {
      throw new BinadeError(
        "shape.mismatch",
        `${showShape(from)} does not broadcast to ${showShape(shape)}; axes must be equal or 1`,
      );
    }
    return { shape, dtype };
  },
  view: (view, out) => broadcastView(view, out),
  // Summing back over broadcast axes happens here and nowhere else; in float32 where the operand is a cast from float32.
  vjp: ({ b, g, ins: [x], wanted: [dtype] }) => [() => b.sumTo(g, x?.shape ?? [], dtype ?? g.dtype)],
};

const slice: MovementRow = {
  kind: "movement",
  autocast: "as-is",
  infer: ([x], attributes) => {
    const [starts, shape] = [listOf(attributes, "starts"), requireShape(listOf(attributes, "shape"))];
    const from = x?.shape ?? [];
    if (
      starts.length !== from.length ||
      shape.length !== from.length ||
      starts.some((s, i) => !Number.isInteger(s) || s < 0 || s + extent(shape, i) > extent(from, i))
    ) {
      throw new BinadeError(
        "shape.invalid",
        `box at [${starts.join(", ")}] of shape ${showShape(shape)} does not lie inside ${showShape(from)}; move or shrink it`,
      );
    }
    return { shape, dtype: x?.dtype ?? "float32" };
  },
  view: (view, out, attributes) => sliceView(view, listOf(attributes, "starts"), out),
  vjp: ({ b, g, ins: [x], attributes }) => [() => b.pad(g, listOf(attributes, "starts"), x?.shape ?? [])],
};

/** Zeros of shape `shape` with the operand placed at `starts`. */
const pad: PlacementRow = {
  kind: "placement",
  autocast: "as-is",
  infer: (inputs, attributes) => {
    const { shape, dtype } = shapeAttribute(inputs, attributes);
    const starts = listOf(attributes, "starts");
    const from = inputs[0]?.shape ?? [];
    if (
      starts.length !== shape.length ||
      from.length !== shape.length ||
      from.some((n, i) => extent(starts, i) < 0 || extent(starts, i) + n > extent(shape, i))
    ) {
      throw new BinadeError(
        "shape.invalid",
        `${showShape(from)} at [${starts.join(", ")}] does not lie inside ${showShape(shape)}; move it or enlarge the shape`,
      );
    }
    return { shape, dtype };
  },
  starts: (_, attributes) => [listOf(attributes, "starts")],
  fill: 0,
  vjp: ({ b, g, ins: [x], attributes }) => [() => b.slice(g, listOf(attributes, "starts"), x?.shape ?? [])],
};

const concatenate: PlacementRow = {
  kind: "placement",
  autocast: "widest",
  infer: (inputs, attributes) => {
    const axis = attributes.axis as number;
    const [first] = inputs;
    if (first === undefined) throw new BinadeError("shape.invalid", "expected at least one operand, got none");
    const other = inputs.find(
      (n) => n.shape.length !== first.shape.length || n.shape.some((d, i) => i !== axis && d !== first.shape[i]),
    );
    if (other !== undefined) {
      throw new BinadeError(
        "shape.mismatch",
        `shapes ${showShape(first.shape)} and ${showShape(other.shape)} differ outside axis ${axis}; make them equal there`,
      );
    }
    const total = inputs.reduce((sum, n) => sum + extent(n.shape, axis), 0);
    return { shape: first.shape.map((d, i) => (i === axis ? total : d)), dtype: commonDType(inputs) };
  },
  starts: (inputs, attributes) =>
    boxesAlong(
      inputs.map((n) => n.shape),
      attributes.axis as number,
    ),
  fill: 0,
  vjp: ({ b, g, ins, attributes }) => {
    const starts = boxesAlong(
      ins.map((n) => n.shape),
      attributes.axis as number,
    );
    return ins.map((x, i) => () => b.slice(g, starts[i] ?? [], x.shape));
  },
};

function boxesAlong(shapes: readonly Shape[], axis: number): readonly (readonly number[])[] {
  let at = 0;
  return shapes.map((shape) => {
    const start = shape.map((_, i) => (i === axis ? at : 0));
    at += extent(shape, axis);
    return start;
  });
}

/**
 * The first operand under another name, to be read once the second is known. Equal structure is one node, so that whatever
 * backward computes anew would be found in forward, and kept; over a barrier it is another node, and it is not computed before
 * its cotangent has arrived (autodiff/recompute.ts). It is no copy: it has its operand's memory.
 */
const barrier: MovementRow = {
  kind: "movement",
  opaque: true,
  autocast: "as-is",
  infer: ([x]) => ({ shape: x?.shape ?? [], dtype: x?.dtype ?? "float32" }),
  view: (view) => view,
  vjp: ({ g }) => [() => g, null],
  reference: "optimization_barrier of XLA, which JAX's rematerialisation uses to the same end",
};

export const MOVEMENT = nameRows({
  cast,
  bitcast,
  reshape,
  permute,
  broadcast,
  slice,
  pad,
  concatenate,
  windows,
  barrier,
});
