/** Symbolic derivatives of scalar expressions: second derivatives, and the test oracle of hand-written ones. */
import { c, E, type Expr, type Fn } from "./expr.ts";

const isConst = (e: Expr, v: number): boolean => e.k === "const" && e.v === v;

/** a·b with the trivial cases folded; exact for every finite operand of the other side. */
function times(a: Expr, b: Expr): Expr {
  if (isConst(a, 0) || isConst(b, 0)) return c(0);
  if (isConst(a, 1)) return b;
  return isConst(b, 1) ? a : E.mul(a, b);
}

function plus(a: Expr, b: Expr): Expr {
  if (isConst(a, 0)) return b;
  return isConst(b, 0) ? a : E.add(a, b);
}

type Partials = (out: Expr, args: readonly Expr[]) => readonly Expr[];

const one =
  (f: (x: Expr, out: Expr) => Expr): Partials =>
  (out, [x]) => [f(x ?? c(0), out)];
const two =
  (f: (x: Expr, y: Expr, out: Expr) => [Expr, Expr]): Partials =>
  (out, [x, y]) =>
    f(x ?? c(0), y ?? c(0), out);
const flat =
  (n: number): Partials =>
  () =>
    Array.from({ length: n }, () => c(0));

/** Partial derivatives of every primitive; steps and comparisons are flat. */
// biome-ignore format: a table is read by rows
const PARTIALS: { readonly [F in Fn]: Partials } = {
  neg: one(() => c(-1)),
  abs: one((x) => E.sign(x)),
  sign: flat(1), floor: flat(1), ceil: flat(1), round: flat(1), isFinite: flat(1),
  sqrt: one((_, out) => E.div(c(0.5), out)),
  exp: one((_, out) => out),
  expm1: one((_, out) => E.add(out, c(1))),
  log: one((x) => E.div(c(1), x)),
  log1p: one((x) => E.div(c(1), E.add(c(1), x))),
  sin: one((x) => E.cos(x)),
  cos: one((x) => E.neg(E.sin(x))),
  tanh: one((_, out) => E.sub(c(1), E.mul(out, out))),
  erf: one((x) => E.mul(c(2 / Math.sqrt(Math.PI)), E.exp(E.neg(E.mul(x, x))))),
  add: two(() => [c(1), c(1)]),
  sub: two(() => [c(1), c(-1)]),
  mul: two((x, y) => [y, x]),
  div: two((x, y) => [E.div(c(1), y), E.neg(E.div(x, E.mul(y, y)))]),
  pow: two((x, y, out) => [E.mul(y, E.pow(x, E.sub(y, c(1)))), E.mul(out, E.log(x))]),
  min: two((x, y) => [E.le(x, y), E.gt(x, y)]),
  max: two((x, y) => [E.ge(x, y), E.lt(x, y)]),
  eq: flat(2), ne: flat(2), lt: flat(2), le: flat(2), gt: flat(2), ge: flat(2), and: flat(2), or: flat(2),
  select: (_, [cond]) => [c(0), E.ne(cond ?? c(0), c(0)), E.eq(cond ?? c(0), c(0))],
};

/** ∂e/∂name as an expression over the same slots. */
export function differentiate(e: Expr, name: string): Expr {
  if (e.k === "const") return c(0);
  if (e.k === "slot") return c(e.name === name ? 1 : 0);
  const inner = e.args.map((arg) => differentiate(arg, name));
  if (inner.every((d) => isConst(d, 0))) return c(0);
  if (e.fn === "select") return E.select(e.args[0] ?? c(0), inner[1] ?? c(0), inner[2] ?? c(0));
  const partials = PARTIALS[e.fn](e, e.args);
  return inner.reduce<Expr>((sum, d, i) => plus(sum, times(partials[i] ?? c(0), d)), c(0));
}

/** True if the expression is the literal 0: no gradient flows. */
export const isZero = (e: Expr): boolean => isConst(e, 0);
