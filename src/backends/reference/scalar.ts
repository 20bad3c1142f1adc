/** The scalar primitives over whole arrays: the reference spelling, one rounding per primitive. */
import { type Dialect, FN, type Fn } from "../../ops/expr.ts";

/** Elements as float64 numbers, or one number for all. */
export type Values = Float64Array | number;

type Scalar = (x: number, y: number, z: number) => number;

/** Ties to even. */
function roundEven(x: number): number {
  const r = Math.round(x);
  return Math.abs(x % 1) === 0.5 && r % 2 !== 0 ? r - 1 : Object.is(r, 0) && x < 0 ? -0 : r;
}

/** erf by its Taylor series up to 3, by the continued fraction of erfc above (Abramowitz, Stegun 7.1.5 and 7.1.14). */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (Number.isNaN(x) || x === 0) return x;
  if (a >= 6) return Math.sign(x);
  if (a < 3) {
    let [term, sum] = [x, x];
    for (let n = 1; n < 120; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

/** One meaning per primitive, in float64. */
// biome-ignore format: a table is read by rows
const SCALARS: { readonly [F in Fn]: Scalar } = {
  neg: (x) => -x, abs: Math.abs, sign: Math.sign, floor: Math.floor, ceil: Math.ceil, round: roundEven, sqrt: Math.sqrt,
  exp: Math.exp, expm1: Math.expm1, log: Math.log, log1p: Math.log1p, sin: Math.sin, cos: Math.cos, tanh: Math.tanh, erf,
  isFinite: (x) => Number(Number.isFinite(x)),
  add: (x, y) => x + y, sub: (x, y) => x - y, mul: (x, y) => x * y, div: (x, y) => x / y, pow: (x, y) => x ** y,
  min: (x, y) => Math.min(x, y), max: (x, y) => Math.max(x, y),
  eq: (x, y) => Number(x === y), ne: (x, y) => Number(x !== y), lt: (x, y) => Number(x < y), le: (x, y) => Number(x <= y),
  gt: (x, y) => Number(x > y), ge: (x, y) => Number(x >= y),
  and: (x, y) => Number(x !== 0 && y !== 0), or: (x, y) => Number(x !== 0 || y !== 0),
  select: (c, x, y) => (c !== 0 ? x : y),
};

/** Integer products wrap around; the float64 product of two 32-bit integers may not be exact. */
const INTEGER: Partial<Record<Fn, Scalar>> = { mul: (x, y) => Math.imul(x, y) };

const at = (v: Values | undefined, i: number): number => (typeof v === "number" ? v : (v?.[i] ?? 0));

function lift(f: Scalar, round: (v: number) => number, arity: number) {
  return (...args: Values[]): Values => {
    const length = Math.max(...args.map((a) => (typeof a === "number" ? -1 : a.length)));
    const [a, b, c] = args;
    if (length < 0) return round(f(at(a, 0), at(b, 0), at(c, 0)));
    const out = new Float64Array(length);
    if (arity === 1 && typeof a === "object") for (let i = 0; i < length; i++) out[i] = round(f(a[i] as number, 0, 0));
    else for (let i = 0; i < length; i++) out[i] = round(f(at(a, i), at(b, i), at(c, i)));
    return out;
  };
}

function dialect(round: (v: number) => number, overrides: Partial<Record<Fn, Scalar>> = {}): Dialect<Values> {
  const entries = Object.keys(FN).map((name) => [
    name,
    lift(overrides[name as Fn] ?? SCALARS[name as Fn], round, FN[name as Fn]),
  ]);
  return { lit: round, fn: Object.fromEntries(entries) as Dialect<Values>["fn"] };
}

const identity = (v: number): number => v;

/** Dialects by the format in which an op computes: float32 for every narrower float and for booleans (invariant 5). */
export const DIALECTS: Readonly<Record<"float32" | "float64" | "int32" | "uint32", Dialect<Values>>> = {
  float32: dialect(Math.fround),
  float64: dialect(identity),
  int32: dialect((v) => v | 0, INTEGER),
  uint32: dialect((v) => v >>> 0, INTEGER),
};
