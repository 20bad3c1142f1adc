/** Shapes, broadcasting and strided views: pure arithmetic on lists of numbers. */
import { BinadeError } from "../errors.ts";

/** Extents of a tensor's axes, outermost first; `[]` is a scalar. */
export type Shape = readonly number[];

/** A window on a row-major buffer: element (i₀, …) lies at `offset + Σ iₖ·strides[k]`, in elements. */
export interface View {
  readonly offset: number;
  readonly shape: Shape;
  readonly strides: readonly number[];
}

export const sizeOf = (shape: Shape): number => shape.reduce((a, b) => a * b, 1);
export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((n, i) => n === b[i]);
export const showShape = (shape: Shape): string => `[${shape.join(", ")}]`;

/** The shape itself, if every extent is a whole number that is not negative. */
export function requireShape(shape: Shape): Shape {
  if (shape.every((n) => Number.isInteger(n) && n >= 0)) return shape;
  throw new BinadeError(
    "shape.invalid",
    `shape ${showShape(shape)}: expected extents that are whole numbers from 0 on; correct the one that is not`,
  );
}

/** Extent of axis `axis`; an axis outside the shape is a fault of the caller. */
export function extent(shape: readonly number[], axis: number): number {
  const n = shape[axis];
  if (n === undefined) throw new BinadeError("internal", `internal: axis ${axis} of ${showShape(shape)}`);
  return n;
}

/** Maps −rank…rank−1 to 0…rank−1. */
export function normalizeAxis(axis: number, rank: number, subject: string): number {
  if (!Number.isInteger(axis) || axis < -rank || axis >= rank) {
    throw new BinadeError(
      "shape.invalid",
      `${subject}: axis ${axis} is outside −${rank}…${rank - 1}; the tensor has ${rank} axes`,
    );
  }
  return axis < 0 ? axis + rank : axis;
}

/** Normalised, sorted, distinct axes. */
export function normalizeAxes(axes: readonly number[], rank: number, subject: string): readonly number[] {
  const list = axes.map((a) => normalizeAxis(a, rank, subject)).sort((a, b) => a - b);
  if (new Set(list).size !== list.length) {
    throw new BinadeError("shape.invalid", `${subject}: axes [${axes.join(", ")}] name one axis twice; name each once`);
  }
  return list;
}

/** NumPy broadcasting of two shapes. */
export function broadcastShapes(a: Shape, b: Shape, subject: string): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new BinadeError(
        "shape.mismatch",
        `${subject}: shapes ${showShape(a)} and ${showShape(b)} do not broadcast (axis ${i - rank}: ${x} vs ${y}); reshape one so that the axes are equal or 1`,
      );
    }
    return x === 1 ? y : x;
  });
}

/** Row-major strides of a shape, in elements. */
export function rowMajor(shape: Shape): readonly number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= extent(shape, i);
  }
  return strides;
}

export const contiguousView = (shape: Shape): View => ({ offset: 0, shape, strides: rowMajor(shape) });

/** True if the view walks its buffer in row-major order without gaps (axes of extent 1 may have any stride). */
export function isContiguous(view: View): boolean {
  const expected = rowMajor(view.shape);
  return view.shape.every((n, i) => n === 1 || view.strides[i] === expected[i]) || sizeOf(view.shape) === 0;
}

/** The same elements, in order, at the same places. */
export const sameView = (a: View, b: View): boolean =>
  a.offset === b.offset &&
  a.shape.length === b.shape.length &&
  a.shape.every((n, i) => n === b.shape[i] && (n === 1 || a.strides[i] === b.strides[i]));

export function permuteView(view: View, order: readonly number[]): View {
  return {
    offset: view.offset,
    shape: order.map((axis) => extent(view.shape, axis)),
    strides: order.map((axis) => extent(view.strides, axis)),
  };
}

/** Repeats axes of extent 1 (and missing leading axes) with stride 0. */
export function broadcastView(view: View, shape: Shape): View {
  const lead = shape.length - view.shape.length;
  return {
    offset: view.offset,
    shape,
    strides: shape.map((n, i) =>
      i < lead || (view.shape[i - lead] === 1 && n !== 1) ? 0 : extent(view.strides, i - lead),
    ),
  };
}

export function sliceView(view: View, starts: readonly number[], shape: Shape): View {
  const offset = starts.reduce((sum, start, axis) => sum + start * extent(view.strides, axis), view.offset);
  return { offset, shape, strides: view.strides };
}

/**
 * The view of another shape over the same elements in the same order, or null if strides cannot express it.
 * Axes are grouped from the right into runs that are mutually contiguous; every new axis must divide one run.
 */
export function reshapeView(view: View, shape: Shape): View | null {
  if (sizeOf(shape) === 0) return contiguousView(shape);
  const runs = contiguousRuns(view);
  const strides = new Array<number>(shape.length);
  let run = runs.pop();
  let left = run?.extent ?? 1;
  let stride = run?.stride ?? 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const n = extent(shape, axis);
    if (n === 1) {
      strides[axis] = stride;
      continue;
    }
    if (left === 1) {
      run = runs.pop();
      if (run === undefined) return null;
      left = run.extent;
      stride = run.stride;
    }
    if (left % n !== 0) return null;
    strides[axis] = stride;
    stride *= n;
    left /= n;
  }
  return { offset: view.offset, shape, strides };
}

function contiguousRuns(view: View): { extent: number; stride: number }[] {
  const runs: { extent: number; stride: number }[] = [];
  view.shape.forEach((n, axis) => {
    if (n === 1) return;
    const stride = extent(view.strides, axis);
    const last = runs[runs.length - 1];
    if (last !== undefined && last.stride === stride * n) {
      last.extent *= n;
      last.stride = stride;
    } else runs.push({ extent: n, stride });
  });
  return runs;
}
