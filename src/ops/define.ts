/** The columns of a row: what every operation must say about itself, and the makers that fill them. */
import type { DType } from "../formats/table.ts";
import type { Builder } from "./builder.ts";
import type { Expr } from "./expr.ts";
import type { Shape, View } from "./shape.ts";

/** Parameters of one use of an op; part of a node's identity. */
export type Attributes = Readonly<Record<string, number | string | boolean | readonly number[]>>;

/** One value of a graph: immutable and hash-consed (equal structure is the same object). Built only by `ir/graph.ts`. */
export interface Node {
  /** Creation order: every input's id is smaller. */
  readonly id: number;
  readonly op: Op;
  readonly inputs: readonly Node[];
  readonly attributes: Attributes;
  readonly shape: Shape;
  readonly dtype: DType;
}

/**
 * What autocast does to the floating operands of an op:
 * `narrow` casts to the compute dtype; `wide` to float32; `widest` to the widest among them; `as-is` leaves them;
 * `refuse` throws with the advice.
 */
export type Autocast = "narrow" | "wide" | "widest" | "as-is" | { readonly refuse: string };

/** Where tests sample an op, and the points that they always include. */
export interface Domain {
  readonly low: number;
  readonly high: number;
  readonly special?: readonly number[];
}

export interface VjpArguments {
  readonly b: Builder;
  /** Cotangent of `out`: its shape and dtype. */
  readonly g: Node;
  readonly out: Node;
  readonly ins: readonly Node[];
  readonly attributes: Attributes;
  /** dtype in which operand i's cotangent is wanted: its own, or float32 where it is a cast from float32 (a variable's copy). */
  readonly wanted: readonly DType[];
}

/** Cotangent of each operand, made only if asked for; null: no gradient flows (indices, conditions). */
export type Vjp = (args: VjpArguments) => readonly ((() => Node) | null)[];

/** Shape and dtype of the result. The only place either comes from. */
export type Infer = (
  inputs: readonly Node[],
  attributes: Attributes,
) => { readonly shape: Shape; readonly dtype: DType };

export interface Row {
  readonly autocast: Autocast;
  readonly infer: Infer;
  /** Gradient rule; `none`: no gradient flows; `decompose`: differentiate the decomposition. */
  readonly vjp: Vjp | "none" | "decompose";
  /** Operands that autocast never casts (a bias that is added to float32 sums, labels). */
  readonly uncast?: readonly number[];
  /** Where the formula comes from, when it is not school mathematics. */
  readonly reference?: string;
}

/** A leaf: no operands that are data. `weak` marks literals, which take part in any dtype. */
export interface SourceRow extends Row {
  readonly kind: "source";
  readonly source: "input" | "constant" | "iota" | "random";
  readonly weak?: boolean;
}

/** One scalar expression per element; all operands have the output's shape. */
export interface PointwiseRow extends Row {
  readonly kind: "pointwise";
  /** Name of each operand in `value`. */
  readonly slots: readonly string[];
  readonly value: Expr;
  /** Allowed forward error on every backend, in ulps of the output dtype at the scale of the largest operand or result. */
  readonly ulps: number;
  readonly domain: Domain;
  /** Cheap enough to recompute in every kernel that reads it: at most a few instructions. */
  readonly cheap: boolean;
  /** Operand i is operand `copies[i]` in another form; tests give both one value. */
  readonly copies?: Readonly<Record<number, number>>;
  /** Changes the dtype and nothing else: its gradient is the cotangent in the operand's dtype. */
  readonly converts?: boolean;
  /** The same 32 bits read as another dtype: nothing is computed, nothing rounds. */
  readonly reinterprets?: true;
  /** Backward computes the result anew from the operand, which it reads anyway, instead of keeping both. */
  readonly recompute?: true;
}

/** The same elements seen through other strides; null when strides cannot express it (a copy is made first). */
export interface MovementRow extends Row {
  readonly kind: "movement";
  /** No rewrite and no fusion looks through it: what is built over it is computed apart from what is built over its operand. */
  readonly opaque?: true;
  readonly view: (view: View, out: Shape, attributes: Attributes) => View | null;
}

/** Operands placed into boxes of the output; the rest is `fill`. */
export interface PlacementRow extends Row {
  readonly kind: "placement";
  /** Start of operand i's box in the output. The boxes of one node never overlap. */
  readonly starts: (inputs: readonly Node[], attributes: Attributes) => readonly (readonly number[])[];
  readonly fill: number;
}

export type Combine = "sum" | "max" | "min" | "argMax" | "argMin";

/** Combines the elements along `attributes.axes`, accumulating in at least float32. */
export interface ReduceRow extends Row {
  readonly kind: "reduce";
  readonly combine: Combine;
}

/** How many elements are of which magnitude, whatever their order. */
export interface MagnitudeRow extends Row {
  readonly kind: "magnitudes";
}

/** (…, m, k) × (…, k, n), accumulated in float32. */
export interface ContractionRow extends Row {
  readonly kind: "contraction";
}

/** Rows of a table chosen by integers, or added into one. A fault is raised for an index out of range. */
export interface IndexRow extends Row {
  readonly kind: "index";
  readonly direction: "gather" | "scatter";
}

/** How a backend may run a composite whole: a core of a family, and which of its results this op is. */
export interface NativeCore {
  readonly family:
    | "row"
    | "plane"
    | "channelStatistic"
    | "channelMap"
    | "attention"
    | "attentionBackward"
    | "convolution";
  readonly core: string;
  readonly result: number;
  /** It reads labels, and raises a fault for one out of range. */
  readonly raisesFaults?: true;
  /** It converts its operands while it reads them: a cast from a stored value costs no pass of its own. */
  readonly convertsOperands?: true;
  /** Parameters of the core, from the attributes. */
  readonly parameters?: (attributes: Attributes) => readonly number[];
}

/** Defined by simpler rows; a backend with a better kernel claims `native`. */
export interface CompositeRow extends Row {
  readonly kind: "composite";
  readonly decompose: (b: Builder, inputs: readonly Node[], attributes: Attributes) => Node;
  readonly native?: NativeCore;
  /** Allowed difference between a native core and the decomposition, in ulps of the output at the scale of the row. */
  readonly ulps: number;
}

export type OpRow =
  | SourceRow
  | PointwiseRow
  | MovementRow
  | PlacementRow
  | ReduceRow
  | MagnitudeRow
  | ContractionRow
  | IndexRow
  | CompositeRow;

/** A row with its name, which is written once: as the key in its table. */
export type Op = OpRow & { readonly name: string };
export type OpOf<R extends OpRow> = R & { readonly name: string };

type Named<T> = { readonly [K in keyof T]: T[K] & { readonly name: string } };

/** Gives every row of a table its key as its name. */
export function nameRows<T extends Readonly<Record<string, OpRow>>>(rows: T): Named<T>;
export function nameRows(rows: Readonly<Record<string, OpRow>>): Readonly<Record<string, Op>> {
  return Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, { ...row, name }]));
}

/** The operand at `i`; rows are only called with the operands that they declare. */
export function operandAt(inputs: readonly Node[], i: number): Node {
  const node = inputs[i];
  if (node === undefined) throw new Error(`internal: operand ${i} is missing`);
  return node;
}

/** A list-valued attribute. */
export function listOf(attributes: Attributes, key: string): readonly number[] {
  const value = attributes[key];
  if (!Array.isArray(value)) throw new Error(`internal: attribute ${key} is not a list`);
  return value as readonly number[];
}

/** A number-valued attribute. */
export function numberOf(attributes: Attributes, key: string): number {
  const value = attributes[key];
  if (typeof value !== "number") throw new Error(`internal: attribute ${key} is not a number`);
  return value;
}
