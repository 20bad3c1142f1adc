/** The maker of pointwise rows, and the rows derived from their gradients. */

import { BinadeError } from "../errors.ts";
import { type DType, isFloat } from "../formats/table.ts";
import type { Infer, Node, Op, OpOf, PointwiseRow, Vjp } from "./define.ts";
import { differentiate, isZero } from "./derivative.ts";
import { type Arity, E, type Expr, slot, slotsOf, type Tuple } from "./expr.ts";
import { sameShape, showShape } from "./shape.ts";

const NAMES = ["x", "y", "z"] as const;

/** Which dtypes an op computes on: floats; floats and 32-bit integers; everything. */
export type Accepts = "float" | "number" | "any";

type Slots<N extends Arity> = { readonly g: Expr; readonly out: Expr; readonly ins: Tuple<Expr, N> };

type PointwiseSpec<N extends Arity> = Omit<PointwiseRow, "kind" | "slots" | "value" | "infer" | "vjp" | "cheap"> & {
  readonly arity: N;
  readonly accepts: Accepts;
  /** dtype of the result: the operands' (`same`) or `bool`. */
  readonly result: "same" | "bool";
  /** Positions of boolean operands (a condition). */
  readonly conditions?: readonly number[];
  readonly cheap?: boolean;
  readonly value: (...ins: Tuple<Expr, N>) => Expr;
  readonly vjp: ((s: Slots<N>) => readonly Expr[]) | "none";
};

/** A row from scalar expressions: shape rule "all operands alike", dtype rule from `accepts` and `result`. */
export function pointwise<const N extends Arity>(spec: PointwiseSpec<N>): PointwiseRow {
  const { arity, accepts, result, conditions = [], cheap = false, value, vjp, ...rest } = spec;
  const slots = NAMES.slice(0, arity);
  const ins = slots.map(slot) as Tuple<Expr, N>;
  const cotangents = vjp === "none" ? "none" : vjp({ g: slot("g"), out: slot("out"), ins });
  return {
    ...rest,
    kind: "pointwise",
    slots,
    cheap,
    value: value(...ins),
    infer: inferPointwise(accepts, result, conditions),
    vjp: cotangents === "none" ? "none" : derivedVjp(cotangents, slots, spec),
  };
}

function inferPointwise(accepts: Accepts, result: "same" | "bool", conditions: readonly number[]): Infer {
  return (inputs) => {
    const [first] = inputs;
    if (first === undefined) throw new BinadeError("internal", "internal: pointwise op without operands");
    const shape = first.shape;
    for (const input of inputs) {
      if (!sameShape(input.shape, shape)) {
        throw new BinadeError(
          "shape.mismatch",
          `operands have shapes ${inputs.map((n) => showShape(n.shape)).join(" and ")}; make them equal`,
        );
      }
    }
    const data = inputs.filter((_, i) => !conditions.includes(i));
    for (const i of conditions) requireDType(inputs[i], "bool");
    if (data.length === 0) return { shape, dtype: "bool" };
    const dtype = commonDType(data);
    if (accepts === "float" && !isFloat(dtype)) throw unsupported(dtype, "a floating dtype");
    if (accepts === "number" && !isFloat(dtype) && dtype !== "int32" && dtype !== "uint32") {
      throw unsupported(dtype, "a floating dtype, int32 or uint32");
    }
    return { shape, dtype: result === "bool" ? "bool" : dtype };
  };
}

const unsupported = (got: DType, expected: string): BinadeError =>
  new BinadeError(
    "dtype.unsupported",
    `expected ${expected}, got ${got}; cast it first, for instance x.cast("float32")`,
  );

function requireDType(node: Node | undefined, dtype: DType): void {
  if (node?.dtype !== dtype)
    throw new BinadeError(
      "dtype.mismatch",
      `the condition is ${node?.dtype}, expected ${dtype}; compare first, for instance x.greater(0)`,
    );
}

const isWeak = (node: Node): boolean => node.op.kind === "source" && node.op.weak === true;

/** The one dtype of all operands; literals adapt. float16 and bfloat16 never meet silently (invariant 2). */
export function commonDType(inputs: readonly Node[]): DType {
  const strong = inputs.filter((n) => !isWeak(n));
  const [first] = strong.length > 0 ? strong : inputs;
  if (first === undefined) throw new BinadeError("internal", "internal: no operands");
  const other = strong.find((n) => n.dtype !== first.dtype);
  if (other !== undefined) {
    throw new BinadeError(
      "dtype.mismatch",
      `operands are ${first.dtype} and ${other.dtype}, which never mix implicitly here; cast one, for instance y.cast("${first.dtype}")`,
    );
  }
  return first.dtype;
}

/** Operand i's cotangent is a row of its own, whose operands are exactly the values that its expression reads. */
function derivedVjp(
  cotangents: readonly Expr[],
  slots: readonly string[],
  parent: { ulps: number; domain: PointwiseRow["domain"]; cheap?: boolean },
): Vjp {
  const derived = new Map<string, OpOf<PointwiseRow>>();
  const opOf = (out: Node, i: number, e: Expr): OpOf<PointwiseRow> => {
    const name = `${out.op.name}.d${slots[i]}`;
    const known = derived.get(name);
    if (known !== undefined) return known;
    const row = derivedRow(e, parent);
    const op = { ...row, name };
    derived.set(name, op);
    return op;
  };
  return ({ b, g, out, ins }) =>
    cotangents.map((e, i) => {
      if (isZero(e)) return null;
      if (e.k === "slot" && e.name === "g") return () => g;
      const bound: Record<string, Node | undefined> = { g, out };
      slots.forEach((name, k) => (bound[name] = ins[k]));
      return () => {
        const op = opOf(out, i, e);
        return b.node(
          op,
          op.slots.map((name) => required(bound[name], name)),
        );
      };
    });
}

function required(node: Node | undefined, name: string): Node {
  if (node === undefined) throw new BinadeError("internal", `internal: slot ${name} has no operand`);
  return node;
}

/** A row over the slots that `e` reads; its own gradient is derived symbolically, so gradients have gradients. */
function derivedRow(e: Expr, parent: { ulps: number; domain: PointwiseRow["domain"]; cheap?: boolean }): PointwiseRow {
  const slots = [...slotsOf(e)];
  const cotangent = freshName(slots);
  const partials = slots.map((name) => {
    const d = differentiate(e, name);
    return isZero(d) ? d : E.mul(slot(cotangent), d);
  });
  const derived = new Map<string, Op>();
  return {
    kind: "pointwise",
    autocast: "as-is",
    slots,
    value: e,
    ulps: parent.ulps + 4,
    domain: parent.domain,
    cheap: false,
    infer: (inputs) => {
      const first = inputs.find((n) => n.dtype !== "bool" && !isWeak(n)) ?? inputs[0];
      return { shape: first?.shape ?? [], dtype: commonDType(inputs.filter((n) => n.dtype !== "bool")) };
    },
    vjp: ({ b, g, out, ins }) =>
      partials.map((d, i) => {
        if (isZero(d)) return null;
        const bound: Record<string, Node | undefined> = { [cotangent]: g };
        slots.forEach((name, k) => (bound[name] = ins[k]));
        return () => {
          const name = `${out.op.name}.d${slots[i]}`;
          const op = derived.get(name) ?? { ...derivedRow(d, parent), name };
          derived.set(name, op);
          return b.node(
            op,
            [...slotsOf(d)].map((name) => required(bound[name], name)),
          );
        };
      }),
  };
}

const freshName = (slots: readonly string[]): string => {
  let depth = 1;
  while (slots.includes(`g${depth}`)) depth++;
  return `g${depth}`;
};
