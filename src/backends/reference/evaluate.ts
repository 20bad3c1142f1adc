/** What every row means, element by element: the definition that other backends are held against. Slow and obvious. */
import { BinadeError } from "../../errors.ts";
import { type DType, FORMATS, isFloat, philox, round, storageArray, uniform } from "../../formats/index.ts";
import { build, describe, type Node } from "../../ir/graph.ts";
import { topological } from "../../ir/walk.ts";
import { type Attributes, listOf, numberOf } from "../../ops/define.ts";
import { fold } from "../../ops/expr.ts";
import { ABOVE_FLOAT16, EXPONENTS, MAGNITUDE_COUNTS, ZEROS } from "../../ops/magnitudes.ts";
import { extent, isContiguous, rowMajor, type Shape, sizeOf, type View } from "../../ops/shape.ts";
import { DIALECTS, type Values } from "./scalar.ts";

/** An index outside its table: its position among the indices, and its value. */
export interface IndexFault {
  readonly position: number;
  readonly value: number;
}

/** The elements of `node` in row-major order, from those of its operands. Every element is exactly a value of the node's dtype. */
export function evaluate(
  node: Node,
  operands: readonly Float64Array[],
  report: (fault: IndexFault) => void,
): Float64Array {
  const { op, attributes } = node;
  switch (op.kind) {
    case "source":
      return generate(node, operands);
    case "pointwise": {
      if (op.reinterprets === true) return reinterpret(operand(operands, 0), node);
      const slots = Object.fromEntries(op.slots.map((name, i) => [name, operand(operands, i)]));
      return stored(fold<Values>(op.value, DIALECTS[computeFormat(node)], slots), node);
    }
    case "movement":
    case "placement":
      return move(node, operands);
    case "reduce":
      return reduce(node, operand(operands, 0), op.combine);
    case "magnitudes":
      return countMagnitudes(operand(operands, 0));
    case "contraction":
      return contract(node, operand(operands, 0), operand(operands, 1));
    case "index":
      return op.direction === "gather" ? gather(node, operands, report) : scatterAdd(node, operands, report);
    case "composite":
      return decomposed(node, op.decompose(build, node.inputs, attributes), operands, report);
  }
}

/** A composite that a program kept whole, as the simpler rows that define it. */
function decomposed(
  node: Node,
  definition: Node,
  operands: readonly Float64Array[],
  report: (fault: IndexFault) => void,
): Float64Array {
  const known = new Map(node.inputs.map((input, i) => [input, operand(operands, i)]));
  const elementsOf = (input: Node): Float64Array => {
    const value = known.get(input);
    if (value === undefined)
      throw new BinadeError("internal", `internal: ${describe(input)} has no value inside ${node.op.name}`);
    return value;
  };
  for (const part of topological([definition], (n) => known.has(n))) {
    if (!known.has(part)) known.set(part, evaluate(part, part.inputs.map(elementsOf), report));
  }
  return elementsOf(definition);
}

function operand(operands: readonly Float64Array[], i: number): Float64Array {
  const x = operands[i];
  if (x === undefined) throw new BinadeError("internal", `internal: operand ${i} is missing`);
  return x;
}

/**
 * The format in which an op's primitives round: that of its data operands, float32 for narrower floats and booleans.
 * A cast computes nothing: its value passes through exactly and is rounded once, when stored.
 */
function computeFormat({ op, inputs }: Node): keyof typeof DIALECTS {
  const dtypes: readonly DType[] = inputs.map((n) => n.dtype).filter((d) => d !== "bool");
  if ((op.kind === "pointwise" && op.converts === true) || dtypes.includes("float64")) return "float64";
  if (dtypes.some((d) => isFloat(d))) return "float32";
  if (dtypes.includes("int32")) return "int32";
  return dtypes.includes("uint32") ? "uint32" : "float32";
}

function reinterpret(values: Float64Array, { inputs, dtype }: Node): Float64Array {
  const from = new (storageArray(inputs[0]?.dtype ?? dtype))(values.length) as Float32Array;
  from.set(values);
  return Float64Array.from(new (storageArray(dtype))(from.buffer) as Float32Array);
}

function stored(values: Values, node: Node): Float64Array {
  const size = sizeOf(node.shape);
  const { dtype } = node;
  if (typeof values === "number") return new Float64Array(size).fill(round(values, dtype));
  if (dtype === "float64") return values.slice();
  const out = new Float64Array(size);
  for (let i = 0; i < size; i++) out[i] = round(values[i] as number, dtype);
  return out;
}

function generate(node: Node, operands: readonly Float64Array[]): Float64Array {
  const size = sizeOf(node.shape);
  const out = new Float64Array(size);
  if (node.op.kind !== "source") return out;
  switch (node.op.source) {
    case "constant":
      return out.fill(round(numberOf(node.attributes, "value"), node.dtype));
    case "iota":
      return out.map((_, i) => i);
    case "random":
      return fillUniform(out, operand(operands, 0), numberOf(node.attributes, "stream"));
    case "input":
      throw new BinadeError("internal", `internal: ${describe(node)} was not given a value`);
  }
}

function fillUniform(out: Float64Array, key: Float64Array, stream: number): Float64Array {
  const [k0 = 0, k1 = 0, k2 = 0, k3 = 0] = key;
  const words = new Uint32Array(4);
  for (let i = 0; i < out.length; i += 4) {
    const block = i / 4;
    philox([block >>> 0, Math.floor(block / 2 ** 32), k2, (k3 ^ stream) >>> 0], [k0, k1], words);
    for (let lane = 0; lane < 4 && i + lane < out.length; lane++) out[i + lane] = uniform(words[lane] ?? 0);
  }
  return out;
}

/** The elements of a view in row-major order. */
export function readView(data: Float64Array, view: View): Float64Array {
  const size = sizeOf(view.shape);
  if (isContiguous(view)) return data.subarray(view.offset, view.offset + size);
  const out = new Float64Array(size);
  walk(view, (at, i) => {
    out[i] = data[at] as number;
  });
  return out;
}

/** Calls `visit(address, position)` for every element of the view in row-major order. */
export function walk(view: View, visit: (address: number, position: number) => void): void {
  const rank = view.shape.length;
  const index = new Array<number>(rank).fill(0);
  const size = sizeOf(view.shape);
  let at = view.offset;
  for (let i = 0; i < size; i++) {
    visit(at, i);
    for (let axis = rank - 1; axis >= 0; axis--) {
      at += extent(view.strides, axis);
      if (++(index[axis] as number) < extent(view.shape, axis)) break;
      at -= extent(view.strides, axis) * extent(view.shape, axis);
      index[axis] = 0;
    }
  }
}

const whole = (shape: Shape): View => ({ offset: 0, shape, strides: rowMajor(shape) });

function move(node: Node, operands: readonly Float64Array[]): Float64Array {
  const { op, inputs, attributes, shape } = node;
  if (op.kind === "movement") {
    const from = inputs[0]?.shape ?? [];
    const view = op.view(whole(from), shape, attributes);
    if (view === null)
      throw new BinadeError("internal", `internal: ${describe(node)} has no view of a contiguous operand`);
    return readView(operand(operands, 0), view).slice();
  }
  if (op.kind !== "placement") throw new BinadeError("internal", `internal: ${op.name} is not a movement`);
  const out = new Float64Array(sizeOf(shape)).fill(op.fill);
  op.starts(inputs, attributes).forEach((start, i) => {
    const part = inputs[i]?.shape ?? [];
    const strides = rowMajor(shape);
    const offset = start.reduce((sum, s, axis) => sum + s * extent(strides, axis), 0);
    walk({ offset, shape: part, strides }, (at, position) => {
      out[at] = operand(operands, i)[position] as number;
    });
  });
  return out;
}

/** Sums run in float32 (float64 for float64), in row-major order of the reduced axes. */
function reduce(node: Node, x: Float64Array, combine: string): Float64Array {
  const from = node.inputs[0]?.shape ?? [];
  const axes = listOf(node.attributes, "axes");
  const kept = from.map((_, axis) => axis).filter((axis) => !axes.includes(axis));
  const strides = rowMajor(from);
  const pick = (list: readonly number[]): View => ({
    offset: 0,
    shape: list.map((a) => extent(from, a)),
    strides: list.map((a) => extent(strides, a)),
  });
  const inner = pick(axes);
  const accumulate = COMBINES[combine as keyof typeof COMBINES](node.inputs[0]?.dtype ?? "float32");
  const out = new Float64Array(sizeOf(node.shape));
  walk(pick(kept), (at, i) => {
    const elements: number[] = [];
    walk({ ...inner, offset: at }, (address) => elements.push(x[address] as number));
    out[i] = round(accumulate(elements), node.dtype);
  });
  return out;
}

type Accumulate = (dtype: DType) => (elements: readonly number[]) => number;

const extreme =
  (better: (a: number, b: number) => boolean): ((elements: readonly number[]) => number) =>
  (elements) =>
    elements.reduce((best, v, i) => {
      const held = elements[best] as number;
      return !Number.isNaN(held) && (Number.isNaN(v) || better(v, held)) ? i : best;
    }, 0);

const COMBINES: Readonly<Record<"sum" | "max" | "min" | "argMax" | "argMin", Accumulate>> = {
  sum: (dtype) => {
    const wrap =
      dtype === "float64"
        ? (v: number) => v
        : isFloat(dtype)
          ? Math.fround
          : dtype === "uint32"
            ? (v: number) => v >>> 0
            : (v: number) => v | 0;
    return (elements) => elements.reduce((a, b) => wrap(a + b), 0);
  },
  max: () => (elements) => elements.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY),
  min: () => (elements) => elements.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY),
  argMax: () => extreme((a, b) => a > b),
  argMin: () => extreme((a, b) => a < b),
};

/** The upper bits of a float32, without its sign, are its exponent. */
function countMagnitudes(x: Float64Array): Float64Array {
  const counts = new Float64Array(MAGNITUDE_COUNTS);
  const count = (at: number): void => {
    counts[at] = (counts[at] as number) + 1;
  };
  for (const bits of new Uint32Array(Float32Array.from(x).buffer)) count((bits >>> 23) % EXPONENTS);
  for (const value of x) {
    if (value === 0) count(ZEROS);
    if (Number.isFinite(value) && Math.abs(value) > FORMATS.float16.maxFinite) count(ABOVE_FLOAT16);
  }
  return counts;
}

/** Products and sums in float32, each rounded, in order of k; float64 operands in float64. */
function contract(node: Node, a: Float64Array, w: Float64Array): Float64Array {
  const [shapeA, shapeW] = node.inputs.map((n) => n.shape);
  const m = extent(node.shape, node.shape.length - 2);
  const n = extent(node.shape, node.shape.length - 1);
  const k = extent(shapeA ?? [], (shapeA ?? []).length - 1);
  const batch = sizeOf((shapeW ?? []).slice(0, -2));
  const single = node.inputs[0]?.dtype !== "float64";
  const out = new Float64Array(batch * m * n);
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let p = 0; p < k; p++) {
          const product = (a[(b * m + i) * k + p] as number) * (w[(b * k + p) * n + j] as number);
          sum = single ? Math.fround(sum + Math.fround(product)) : sum + product;
        }
        out[(b * m + i) * n + j] = round(sum, node.dtype);
      }
    }
  }
  return out;
}

interface IndexLayout {
  readonly outer: number;
  readonly rows: number;
  readonly count: number;
  readonly inner: number;
}

function layout(table: Shape, indices: Shape, attributes: Attributes): IndexLayout {
  const axis = numberOf(attributes, "axis");
  return {
    outer: sizeOf(table.slice(0, axis)),
    rows: extent(table, axis),
    count: sizeOf(indices),
    inner: sizeOf(table.slice(axis + 1)),
  };
}

/** The row numbers, or null where a row does not exist: the first of them is reported. */
function checkedRows(indices: Float64Array, rows: number, report: (fault: IndexFault) => void): Float64Array | null {
  const position = indices.findIndex((r) => r < 0 || r >= rows);
  if (position < 0) return indices;
  report({ position, value: indices[position] as number });
  return null;
}

function gather(node: Node, operands: readonly Float64Array[], report: (fault: IndexFault) => void): Float64Array {
  const [table, indices] = [operand(operands, 0), operand(operands, 1)];
  const { outer, rows, count, inner } = layout(
    node.inputs[0]?.shape ?? [],
    node.inputs[1]?.shape ?? [],
    node.attributes,
  );
  const out = new Float64Array(sizeOf(node.shape));
  const rowOf = checkedRows(indices, rows, report);
  if (rowOf === null) return out;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < count; i++) {
      const from = (o * rows + (rowOf[i] as number)) * inner;
      out.set(table.subarray(from, from + inner), (o * count + i) * inner);
    }
  }
  return out;
}

function scatterAdd(node: Node, operands: readonly Float64Array[], report: (fault: IndexFault) => void): Float64Array {
  const [values, indices] = [operand(operands, 0), operand(operands, 1)];
  const { outer, rows, count, inner } = layout(node.shape, node.inputs[1]?.shape ?? [], node.attributes);
  // Sums of integers are exact below 2^53 in float64, and rounded once at the end; Math.fround would drop bits above 2^24.
  const add = ["float64", "int32", "uint32"].includes(node.inputs[0]?.dtype ?? "") ? (v: number) => v : Math.fround;
  const out = new Float64Array(sizeOf(node.shape));
  const rowOf = checkedRows(indices, rows, report);
  if (rowOf === null) return out;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < count; i++) {
      for (let e = 0; e < inner; e++) {
        const to = (o * rows + (rowOf[i] as number)) * inner + e;
        out[to] = add((out[to] as number) + (values[(o * count + i) * inner + e] as number));
      }
    }
  }
  return out.map((v) => round(v, node.dtype));
}
