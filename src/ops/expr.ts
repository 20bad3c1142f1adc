/** The meaning of an op on one element, as data: no closures, no shader text, no buffers. */

/**
 * Scalar primitives and their arity. A new name is a compile error in every dialect until it is spelled there.
 * Comparisons yield 1 or 0; `select(c, a, b)` is `a` where `c` is not 0. `isFinite` tests exponent bits, never `x - x`.
 * `min` and `max` propagate NaN. `round` rounds ties to even. The order is the native engine's opcode order.
 */
// biome-ignore format: a table is read by rows
export const FN = {
  neg: 1, abs: 1, sign: 1, floor: 1, ceil: 1, round: 1, sqrt: 1,
  exp: 1, expm1: 1, log: 1, log1p: 1, sin: 1, cos: 1, tanh: 1, erf: 1, isFinite: 1,
  add: 2, sub: 2, mul: 2, div: 2, pow: 2, min: 2, max: 2,
  eq: 2, ne: 2, lt: 2, le: 2, gt: 2, ge: 2, and: 2, or: 2,
  select: 3,
} as const;

export type Fn = keyof typeof FN;
export type Arity = 1 | 2 | 3;
export type Tuple<T, N extends Arity> = N extends 1 ? [T] : N extends 2 ? [T, T] : [T, T, T];

export type Expr =
  | { readonly k: "slot"; readonly name: string }
  | { readonly k: "const"; readonly v: number }
  | { readonly k: "call"; readonly fn: Fn; readonly args: readonly Expr[] };

const call =
  <F extends Fn>(fn: F) =>
  (...args: Tuple<Expr, (typeof FN)[F]>): Expr => ({ k: "call", fn, args });

/** Operand `name` of the op: `x`, `y`, `z`, the cotangent `g`, or `out`. */
export const slot = (name: string): Expr => ({ k: "slot", name });
/** A literal; float32 in every dialect. */
export const c = (v: number): Expr => ({ k: "const", v });

/** Spellings of the primitives as expression makers. */
// biome-ignore format: a table is read by rows
export const E = {
  neg: call("neg"), abs: call("abs"), sign: call("sign"), floor: call("floor"), ceil: call("ceil"), round: call("round"),
  sqrt: call("sqrt"), exp: call("exp"), expm1: call("expm1"), log: call("log"), log1p: call("log1p"), sin: call("sin"),
  cos: call("cos"), tanh: call("tanh"), erf: call("erf"), isFinite: call("isFinite"),
  add: call("add"), sub: call("sub"), mul: call("mul"), div: call("div"), pow: call("pow"), min: call("min"), max: call("max"),
  eq: call("eq"), ne: call("ne"), lt: call("lt"), le: call("le"), gt: call("gt"), ge: call("ge"), and: call("and"), or: call("or"),
  select: call("select"),
} as const satisfies { [F in Fn]: (...args: Tuple<Expr, (typeof FN)[F]>) => Expr };

/** One target's spelling of every primitive: the reference, the native engine and WGSL are values of this type. */
export interface Dialect<T> {
  readonly lit: (v: number) => T;
  readonly fn: { readonly [F in Fn]: (...args: Tuple<T, (typeof FN)[F]>) => T };
}

/** Evaluates `e` in a dialect, with `slots` bound to that dialect's values. */
export function fold<T>(e: Expr, dialect: Dialect<T>, slots: Readonly<Record<string, T>>): T {
  switch (e.k) {
    case "const":
      return dialect.lit(e.v);
    case "slot": {
      const value = slots[e.name];
      if (value === undefined) throw new Error(`internal: slot ${e.name} is unbound`);
      return value;
    }
    case "call":
      return (dialect.fn[e.fn] as (...a: T[]) => T)(...e.args.map((a) => fold(a, dialect, slots)));
  }
}

/** Names of the slots that `e` reads, in order of first use. */
export function slotsOf(e: Expr, found: Set<string> = new Set()): ReadonlySet<string> {
  if (e.k === "slot") found.add(e.name);
  if (e.k === "call") for (const arg of e.args) slotsOf(arg, found);
  return found;
}
