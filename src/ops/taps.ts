/** Which positions of an axis each output position reads: the windows of pooling, the neighbours of resampling. */
import { accumulatorOf, type Builder } from "./builder.ts";
import { type Attributes, listOf, type Node } from "./define.ts";
import { extent } from "./shape.ts";

/**
 * `window`: `size` positions, `dilation` apart, from o · stride − padding on. `adaptive`: from ⌊o I / O⌋ to ⌈(o + 1) I / O⌉.
 * `nearest`: ⌊o · scale⌋. `linear`: the two neighbours of (o + ½) · scale − ½; of o · scale where `aligned` is 1.
 */
export type TapKind = "window" | "adaptive" | "nearest" | "linear";

/** One axis of `input` positions seen from `output` positions. Numbers that its kind does not use are 0. */
export interface TapAxis {
  readonly kind: TapKind;
  readonly input: number;
  readonly output: number;
  readonly size: number;
  readonly stride: number;
  readonly padding: number;
  readonly dilation: number;
  readonly scale: number;
  readonly aligned: number;
}

const LISTS = ["input", "output", "size", "stride", "padding", "dilation", "scale", "aligned"] as const;

/** The axes as attributes of a node. */
export const attributesOf = (axes: readonly TapAxis[]): Attributes => ({
  kind: axes[0]?.kind ?? "window",
  ...Object.fromEntries(LISTS.map((key) => [key, axes.map((axis) => axis[key])])),
});

/** The axes in a node's attributes; they are the last of its operand. */
export const tapAxes = (attributes: Attributes): readonly TapAxis[] =>
  listOf(attributes, "input").map((_, i) => ({
    kind: attributes.kind as TapKind,
    ...(Object.fromEntries(LISTS.map((key) => [key, extent(listOf(attributes, key), i)])) as Omit<TapAxis, "kind">),
  }));

/** Numbers that tell axes apart. */
export const tapParameters = (attributes: Attributes): readonly number[] => [
  ["window", "adaptive", "nearest", "linear"].indexOf(attributes.kind as TapKind),
  ...LISTS.flatMap((key) => listOf(attributes, key)),
];

/** The taps of every output position, `count` each, row by row. */
export interface TapTable {
  readonly count: number;
  /** Position in the input, −1 where there is none. */
  readonly positions: readonly number[];
  /** float32 numbers; null: all are 1. */
  readonly weights: readonly number[] | null;
}

const startOf = ({ input, output }: TapAxis, o: number): number => Math.floor((o * input) / output);
const endOf = ({ input, output }: TapAxis, o: number): number => Math.ceil(((o + 1) * input) / output);
const outputsOf = ({ output }: TapAxis): readonly number[] => Array.from({ length: output }, (_, o) => o);

/** Most taps that one output position has. */
export function tapCount(axis: TapAxis): number {
  if (axis.kind === "window") return axis.size;
  if (axis.kind === "adaptive") return Math.max(1, ...outputsOf(axis).map((o) => endOf(axis, o) - startOf(axis, o)));
  return axis.kind === "linear" ? 2 : 1;
}

/** Where a linear tap starts, in float32: each operation is rounded, as `linearNodes` rounds it. */
function sourceOf({ scale, aligned }: TapAxis, o: number): number {
  if (aligned === 1) return Math.fround(o * Math.fround(scale));
  return Math.max(0, Math.fround(Math.fround(Math.fround(o + 0.5) * Math.fround(scale)) - 0.5));
}

/** The positions and weights as numbers: what kernels read. */
export function tapTable(axis: TapAxis): TapTable {
  const { kind, input, stride, padding, dilation, scale } = axis;
  const count = tapCount(axis);
  const taps = Array.from({ length: count }, (_, j) => j);
  const table = (at: (o: number, j: number) => number): readonly number[] =>
    outputsOf(axis).flatMap((o) => taps.map((j) => at(o, j)));
  const inside = (position: number): number => (position >= 0 && position < input ? position : -1);
  switch (kind) {
    case "window":
      return { count, positions: table((o, j) => inside(o * stride - padding + j * dilation)), weights: null };
    case "adaptive":
      return {
        count,
        positions: table((o, j) => (startOf(axis, o) + j < endOf(axis, o) ? startOf(axis, o) + j : -1)),
        weights: null,
      };
    case "nearest":
      return {
        count,
        positions: table((o) => Math.min(Math.floor(Math.fround(o * Math.fround(scale))), input - 1)),
        weights: null,
      };
    case "linear": {
      const floor = (o: number): number => Math.min(Math.floor(sourceOf(axis, o)), input - 1);
      const share = (o: number): number => Math.fround(sourceOf(axis, o) - floor(o));
      return {
        count,
        positions: table((o, j) => Math.min(floor(o) + j, input - 1)),
        weights: table((o, j) => (j === 0 ? Math.fround(1 - share(o)) : share(o))),
      };
    }
  }
}

/** How many taps of each output position lie inside the input. */
export function tapsInside(axis: TapAxis): readonly number[] {
  const { count, positions } = tapTable(axis);
  return outputsOf(axis).map((o) => positions.slice(o * count, (o + 1) * count).filter((p) => p >= 0).length);
}

/** The same as nodes of shape (output, count): int32 positions, where `valid` fails some position; float weights. */
export interface TapNodes {
  readonly count: number;
  readonly positions: Node;
  readonly valid: Node | null;
  readonly weights: Node | null;
}

export function tapNodes(b: Builder, axis: TapAxis, dtype: Node["dtype"]): TapNodes {
  const { kind, input, output, stride, padding, dilation } = axis;
  const count = tapCount(axis);
  const [o, j] = [b.reshape(b.iota(output), [output, 1]), b.reshape(b.iota(count), [1, count])];
  switch (kind) {
    case "window": {
      const raw = b.add(b.sub(b.mul(o, stride), padding), b.mul(j, dilation));
      const positions = b.minimum(b.maximum(raw, 0), input - 1);
      return { count, positions, valid: padding === 0 ? null : b.equal(raw, positions), weights: null };
    }
    case "adaptive": {
      // ⌊o I / O⌋ is the number of h for which (h + 1) O ≤ o I, and ⌈(o + 1) I / O⌉ that for which h O < (o + 1) I.
      const h = b.reshape(b.iota(input), [1, input]);
      const counted = (test: Node): Node => b.reshape(b.sum(b.cast(test, "int32"), [1]), [output, 1]);
      const start = counted(b.lessEqual(b.mul(b.add(h, 1), output), b.mul(o, input)));
      const end = counted(b.less(b.mul(h, output), b.mul(b.add(o, 1), input)));
      const raw = b.add(start, j);
      const positions = b.minimum(raw, b.sub(end, 1));
      return { count, positions, valid: b.equal(raw, positions), weights: null };
    }
    case "nearest": {
      const source = b.mul(b.cast(o, "float32"), Math.fround(axis.scale));
      return { count, positions: b.minimum(b.cast(source, "int32"), input - 1), valid: null, weights: null };
    }
    case "linear":
      return linearNodes(b, axis, o, j, dtype);
  }
}

function linearNodes(b: Builder, axis: TapAxis, o: Node, j: Node, dtype: Node["dtype"]): TapNodes {
  const wide = b.cast(o, "float32");
  const scale = Math.fround(axis.scale);
  const source = axis.aligned === 1 ? b.mul(wide, scale) : b.maximum(b.sub(b.mul(b.add(wide, 0.5), scale), 0.5), 0);
  const floor = b.minimum(b.cast(source, "int32"), axis.input - 1);
  const share = b.sub(source, b.cast(floor, "float32"));
  const weights = b.where(b.equal(j, 0), b.sub(b.constant(1, share.shape), share), share);
  return {
    count: 2,
    positions: b.minimum(b.add(floor, j), axis.input - 1),
    valid: null,
    weights: b.cast(weights, accumulatorOf(dtype)),
  };
}
