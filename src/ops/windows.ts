/** Sliding windows over the last axes, and their transpose, the overlap-add. What convolution and pooling are made of. */
import { BinadeError } from "../errors.ts";
import type { DType } from "../formats/table.ts";
import { accumulatorOf, type Builder } from "./builder.ts";
import { type Attributes, type CompositeRow, listOf, type MovementRow, type Node } from "./define.ts";
import { extent, type Shape, showShape } from "./shape.ts";

/** One axis of a window: `size` taps, `dilation` apart; neighbouring windows are `stride` apart. */
export interface WindowAxis {
  readonly size: number;
  readonly stride: number;
  readonly dilation: number;
}

/** Elements from the first tap of a window to its last. */
export const spanOf = ({ size, dilation }: WindowAxis): number => (size - 1) * dilation + 1;

/** Windows that lie inside `length` elements; 0 if none does. */
export const windowCount = (axis: WindowAxis, length: number): number =>
  Math.max(0, Math.floor((length - spanOf(axis)) / axis.stride) + 1);

/** The axes in `attributes.kernel`, `stride` and `dilation`, whole numbers from 1 on. */
export function windowAxes(attributes: Attributes): readonly WindowAxis[] {
  const [kernel, stride, dilation] = (["kernel", "stride", "dilation"] as const).map((key) => listOf(attributes, key));
  const axes = (kernel ?? []).map((size, i) => ({ size, stride: stride?.[i] ?? 0, dilation: dilation?.[i] ?? 0 }));
  const wrong = axes.find((axis) => !Object.values(axis).every((n) => Number.isInteger(n) && n >= 1));
  if (axes.length > 0 && stride?.length === axes.length && dilation?.length === axes.length && wrong === undefined)
    return axes;
  const shown = [kernel, stride, dilation].map((list) => `[${list?.join(", ")}]`);
  throw new BinadeError(
    "shape.invalid",
    `kernel ${shown[0]}, stride ${shown[1]} and dilation ${shown[2]}: expected one whole number from 1 on per axis in each; correct the one that is not`,
  );
}

function countWindows(shape: Shape, axes: readonly WindowAxis[]): Shape {
  const lengths = shape.slice(shape.length - axes.length);
  const counts = axes.map((axis, i) => windowCount(axis, lengths[i] ?? 0));
  if (shape.length >= axes.length && counts.every((n) => n > 0)) return counts;
  throw new BinadeError(
    "shape.invalid",
    `windows of ${showShape(axes.map(spanOf))} do not fit into the last axes of ${showShape(shape)}; pad it, or take a smaller kernel or dilation`,
  );
}

/** out[…, o…, k…] = x[…, o · stride + k · dilation]: the last d axes become d axes of positions and d of taps. No copy. */
export const windows: MovementRow = {
  kind: "movement",
  autocast: "as-is",
  infer: ([x], attributes) => {
    const axes = windowAxes(attributes);
    const shape = x?.shape ?? [];
    const lead = shape.slice(0, Math.max(0, shape.length - axes.length));
    return {
      shape: [...lead, ...countWindows(shape, axes), ...axes.map((axis) => axis.size)],
      dtype: x?.dtype ?? "float32",
    };
  },
  view: (view, out, attributes) => {
    const axes = windowAxes(attributes);
    const lead = view.shape.length - axes.length;
    const inner = view.strides.slice(lead);
    return {
      offset: view.offset,
      shape: out,
      strides: [
        ...view.strides.slice(0, lead),
        ...axes.map((axis, i) => axis.stride * extent(inner, i)),
        ...axes.map((axis, i) => axis.dilation * extent(inner, i)),
      ],
    };
  },
  vjp: ({ b, g, ins: [x], attributes, wanted: [dtype] }) => [
    () => {
      const shape = x?.shape ?? [];
      const extents = shape.slice(shape.length - listOf(attributes, "kernel").length);
      return b.composite("overlapAdd", [g], { ...attributes, extents, dtype: dtype ?? g.dtype });
    },
  ],
};

/** What every window axis of `extents` elements looks like, and where the taps of one window go. */
interface Taps {
  readonly lead: Shape;
  readonly counts: Shape;
  readonly axes: readonly WindowAxis[];
  readonly extents: Shape;
}

/**
 * Windows side by side, which share no element: the taps of an axis fill the start of its stride, one window after
 * another.
 */
function laySideBySide(b: Builder, g: Node, { lead, counts, axes, extents }: Taps): Node {
  const rank = axes.length;
  const pairs = axes.flatMap((_, i) => [lead.length + i, lead.length + rank + i]);
  const interleaved = b.permute(g, [...lead.map((_, i) => i), ...pairs]);
  const gapped = axes.flatMap((axis, i) => [counts[i] ?? 1, axis.stride]);
  const zeros = (shape: Shape): number[] => shape.map(() => 0);
  const spread = b.pad(interleaved, zeros(interleaved.shape), [...lead, ...gapped]);
  const flat = b.reshape(spread, [...lead, ...axes.map((axis, i) => (counts[i] ?? 1) * axis.stride)]);
  const kept = flat.shape.map((n, i) => (i < lead.length ? n : Math.min(n, extents[i - lead.length] ?? n)));
  return padTo(b, b.slice(flat, zeros(kept), kept), zeros(kept), [...lead, ...extents]);
}

const padTo = (b: Builder, x: Node, starts: readonly number[], shape: Shape): Node =>
  x.shape.every((n, i) => n === shape[i]) ? x : b.pad(x, starts, shape);

/** The elements of one tap, put where its windows took them from. */
function placeTap(b: Builder, g: Node, tap: readonly number[], { lead, counts, axes, extents }: Taps): Node {
  const rank = axes.length;
  const none = lead.map(() => 0);
  const picked = b.slice(g, [...none, ...counts.map(() => 0), ...tap], [...lead, ...counts, ...axes.map(() => 1)]);
  const gaps = axes.flatMap((axis, i) => [counts[i] ?? 1, axis.stride]);
  const columns = b.reshape(picked, [...lead, ...counts.flatMap((n) => [n, 1])]);
  const spread = padTo(
    b,
    columns,
    columns.shape.map(() => 0),
    [...lead, ...gaps],
  ); // zeros between the windows
  const flat = b.reshape(spread, [...lead, ...axes.map((axis, i) => (counts[i] ?? 1) * axis.stride)]);
  const kept = axes.map((axis, i) => ((counts[i] ?? 1) - 1) * axis.stride + 1);
  const starts = axes.map((axis, i) => (tap[i] ?? 0) * axis.dilation);
  return padTo(
    b,
    b.slice(flat, Array(lead.length + rank).fill(0), [...lead, ...kept]),
    [...none, ...starts],
    [...lead, ...extents],
  );
}

/** Every tap of a window, row-major. */
export function tapsOf(axes: readonly WindowAxis[]): readonly (readonly number[])[] {
  return axes.reduce<readonly (readonly number[])[]>(
    (taps, { size }) => taps.flatMap((tap) => Array.from({ length: size }, (_, k) => [...tap, k])),
    [[]],
  );
}

/**
 * The transpose of `windows`: each element goes back to where its window took it from, and elements that meet are added in
 * float32, in the order of the taps, and rounded once. (…, o…, k…) → (…, `attributes.extents`) in `attributes.dtype`.
 */
const overlapAdd: CompositeRow = {
  kind: "composite",
  autocast: "as-is",
  ulps: 4,
  infer: ([g], attributes) => {
    const axes = windowAxes(attributes);
    const extents = listOf(attributes, "extents");
    const shape = g?.shape ?? [];
    const lead = shape.slice(0, Math.max(0, shape.length - 2 * axes.length));
    const expected = [...lead, ...countWindows(extents, axes), ...axes.map((axis) => axis.size)];
    if (expected.length !== shape.length || expected.some((n, i) => n !== shape[i])) {
      throw new BinadeError(
        "shape.mismatch",
        `${showShape(shape)} are not the windows of ${showShape([...lead, ...extents])}, which have the shape ${showShape(expected)}; make them equal`,
      );
    }
    return { shape: [...lead, ...extents], dtype: attributes.dtype as DType };
  },
  vjp: ({ b, g, ins: [x], attributes }) => {
    const { kernel, stride, dilation } = attributes;
    return [() => b.cast(b.windows(g, { kernel, stride, dilation } as Attributes), x?.dtype ?? g.dtype)];
  },
  decompose: (b, [g], attributes) => {
    if (g === undefined) throw new BinadeError("internal", "internal: overlapAdd needs an operand");
    const axes = windowAxes(attributes);
    const extents = listOf(attributes, "extents");
    const lead = g.shape.slice(0, g.shape.length - 2 * axes.length);
    const taps = { lead, counts: countWindows(extents, axes), axes, extents };
    const dtype = attributes.dtype as DType;
    if (axes.every((axis) => axis.dilation === 1 && axis.size <= axis.stride))
      return b.cast(laySideBySide(b, g, taps), dtype);
    const wide = b.cast(g, accumulatorOf(g.dtype));
    const placed = tapsOf(axes).map((tap) => placeTap(b, wide, tap, taps));
    return b.cast(
      placed.reduce((sum, part) => b.add(sum, part)),
      dtype,
    );
  },
};

export const WINDOWS = { overlapAdd } as const;
