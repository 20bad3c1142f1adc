/** Pointwise rows: arithmetic, comparisons, transcendental functions, activations. */
import { nameRows } from "./define.ts";
import { c, E } from "./expr.ts";
import { pointwise } from "./pointwise.ts";

const {
  abs,
  add,
  and,
  cos,
  div,
  eq,
  erf,
  exp,
  expm1,
  floor,
  ge,
  gt,
  isFinite: finite,
  le,
  log,
  log1p,
  lt,
  max,
  min,
  mul,
  ne,
  neg,
  or,
  pow,
  select,
  sign,
  sin,
  sqrt,
  sub,
  tanh,
} = E;

const wideDomain = { low: -4, high: 4, special: [0, -0, 1e-4, -1e-4] };

// biome-ignore format: a table is read by rows
const comparison = (fn: typeof eq) =>
  pointwise({ arity: 2, accepts: "any", result: "bool", autocast: "widest", ulps: 0, domain: { ...wideDomain, special: [0, -0, 1] }, cheap: true, value: (x, y) => fn(x, y), vjp: "none" });

// biome-ignore format: a table is read by rows
const step = (fn: typeof floor) =>
  pointwise({ arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 0, domain: { ...wideDomain, special: [0.5, -0.5, 1.5, 2.5] }, cheap: true, value: (x) => fn(x), vjp: "none" });

const SQRT_HALF = Math.SQRT1_2;
/** Density of the standard normal distribution at 0: 1/√(2π). */
const NORMAL_PEAK = 1 / Math.sqrt(2 * Math.PI);
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const TANH_CUBIC = 0.044715;

// biome-ignore format: a table is read by rows
export const ELEMENTWISE = nameRows({
  add: pointwise({
    arity: 2, accepts: "number", result: "same", autocast: "widest", ulps: 0.5, domain: wideDomain, cheap: true,
    value: (x, y) => add(x, y),
    vjp: ({ g }) => [g, g],
  }),
  sub: pointwise({
    arity: 2, accepts: "number", result: "same", autocast: "widest", ulps: 0.5, domain: wideDomain, cheap: true,
    value: (x, y) => sub(x, y),
    vjp: ({ g }) => [g, neg(g)],
  }),
  mul: pointwise({
    arity: 2, accepts: "number", result: "same", autocast: "widest", ulps: 0.5, domain: wideDomain, cheap: true,
    value: (x, y) => mul(x, y),
    vjp: ({ g, ins: [x, y] }) => [mul(g, y), mul(g, x)],
  }),
  /** x · z, whose gradient for z reads y: the copy of x that was saved for backward, in whatever form. */
  mulSaved: pointwise({
    arity: 3, accepts: "float", result: "same", autocast: "widest", ulps: 0.5, domain: wideDomain, cheap: true, copies: { 1: 0 },
    value: (x, _, z) => mul(x, z),
    vjp: ({ g, ins: [, y, z] }) => [mul(g, z), c(0), mul(g, y)],
  }),
  div: pointwise({
    arity: 2, accepts: "float", result: "same", autocast: "widest", ulps: 0.5, domain: { low: 0.5, high: 4 }, cheap: true,
    value: (x, y) => div(x, y),
    // out/y and not x/y²: y² overflows float16 for |y| > 255.9.
    vjp: ({ g, out, ins: [, y] }) => [div(g, y), neg(mul(g, div(out, y)))],
  }),
  /** x, through which no gradient flows. */
  detach: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x) => x, vjp: "none",
  }),
  neg: pointwise({
    arity: 1, accepts: "number", result: "same", autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x) => neg(x),
    vjp: ({ g }) => [neg(g)],
  }),
  abs: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x) => abs(x),
    vjp: ({ g, ins: [x] }) => [mul(g, sign(x))],
  }),
  sign: step(sign),
  floor: step(floor),
  ceil: step(E.ceil),
  round: step(E.round),
  minimum: pointwise({
    arity: 2, accepts: "number", result: "same", autocast: "widest", ulps: 0, domain: wideDomain, cheap: true,
    value: (x, y) => min(x, y),
    // Half to each operand on ties, as PyTorch does.
    vjp: ({ g, ins: [x, y] }) => [mul(g, add(mul(c(0.5), le(x, y)), mul(c(0.5), lt(x, y)))), mul(g, add(mul(c(0.5), le(y, x)), mul(c(0.5), lt(y, x))))],
  }),
  maximum: pointwise({
    arity: 2, accepts: "number", result: "same", autocast: "widest", ulps: 0, domain: wideDomain, cheap: true,
    value: (x, y) => max(x, y),
    vjp: ({ g, ins: [x, y] }) => [mul(g, add(mul(c(0.5), ge(x, y)), mul(c(0.5), gt(x, y)))), mul(g, add(mul(c(0.5), ge(y, x)), mul(c(0.5), gt(y, x))))],
  }),
  equal: comparison(eq),
  notEqual: comparison(ne),
  less: comparison(lt),
  lessEqual: comparison(le),
  greater: comparison(gt),
  greaterEqual: comparison(ge),
  /** True where every operand is; operands are bool. */
  logicalAnd: pointwise({
    arity: 2, accepts: "any", result: "bool", conditions: [0, 1], autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x, y) => and(x, y), vjp: "none",
  }),
  logicalOr: pointwise({
    arity: 2, accepts: "any", result: "bool", conditions: [0, 1], autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x, y) => or(x, y), vjp: "none",
  }),
  logicalNot: pointwise({
    arity: 1, accepts: "any", result: "bool", conditions: [0], autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x) => eq(x, c(0)), vjp: "none",
  }),
  isFinite: pointwise({
    arity: 1, accepts: "float", result: "bool", autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x) => finite(x), vjp: "none",
  }),
  /** y where the condition x is true, else z. */
  where: pointwise({
    arity: 3, accepts: "any", result: "same", conditions: [0], autocast: "widest", ulps: 0, domain: wideDomain, cheap: true,
    value: (x, y, z) => select(x, y, z),
    vjp: ({ g, ins: [x] }) => [c(0), select(x, g, c(0)), select(x, c(0), g)],
  }),
  sqrt: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 0.5, domain: { low: 0.1, high: 9 }, cheap: true,
    value: (x) => sqrt(x),
    vjp: ({ g, out }) => [div(mul(c(0.5), g), out)],
  }),
  rsqrt: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 1.5, domain: { low: 0.1, high: 9 }, cheap: true,
    value: (x) => div(c(1), sqrt(x)),
    vjp: ({ g, out, ins: [x] }) => [mul(mul(c(-0.5), g), div(out, x))],
  }),
  reciprocal: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 0.5, domain: { low: 0.5, high: 4 }, cheap: true,
    value: (x) => div(c(1), x),
    vjp: ({ g, out }) => [neg(mul(g, mul(out, out)))],
  }),
  square: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 0.5, domain: wideDomain, cheap: true,
    value: (x) => mul(x, x),
    vjp: ({ g, ins: [x] }) => [mul(g, mul(c(2), x))],
  }),
  exp: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 2, domain: { low: -8, high: 8, special: [0, -0, 11.1] },
    value: (x) => exp(x),
    vjp: ({ g, out }) => [mul(g, out)], // exp' = exp, so the output is kept and not the input
  }),
  expm1: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 3, domain: { low: -8, high: 8, special: [1e-4, -1e-4, 0] },
    value: (x) => expm1(x),
    vjp: ({ g, out }) => [mul(g, add(out, c(1)))],
  }),
  log: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 2, domain: { low: 0.01, high: 9, special: [1] },
    value: (x) => log(x),
    vjp: ({ g, ins: [x] }) => [div(g, x)],
  }),
  log1p: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 3, domain: { low: -0.9, high: 9, special: [1e-4, -1e-4, 0] },
    value: (x) => log1p(x),
    vjp: ({ g, ins: [x] }) => [div(g, add(c(1), x))],
  }),
  sin: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 2, domain: wideDomain,
    value: (x) => sin(x),
    vjp: ({ g, ins: [x] }) => [mul(g, cos(x))],
  }),
  cos: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 2, domain: wideDomain,
    value: (x) => cos(x),
    vjp: ({ g, ins: [x] }) => [neg(mul(g, sin(x)))],
  }),
  tanh: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 3, domain: wideDomain,
    value: (x) => tanh(x),
    vjp: ({ g, out }) => [mul(g, sub(c(1), mul(out, out)))],
  }),
  erf: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 4, domain: wideDomain,
    value: (x) => erf(x),
    vjp: ({ g, ins: [x] }) => [mul(g, mul(c(2 / Math.sqrt(Math.PI)), exp(neg(mul(x, x)))))],
  }),
  pow: pointwise({
    arity: 2, accepts: "float", result: "same", autocast: "wide", ulps: 3, domain: { low: 0.2, high: 3 },
    value: (x, y) => pow(x, y),
    // y = 0 makes x^(y−1) infinite at x = 0, and x = 0 makes log(x) infinite: the limits from x > 0 on are 0 for y ≥ 0.
    vjp: ({ g, out, ins: [x, y] }) => [
      select(eq(y, c(0)), c(0), mul(g, mul(y, pow(x, sub(y, c(1)))))),
      select(and(eq(x, c(0)), ge(y, c(0))), c(0), mul(g, mul(out, log(x)))),
    ],
  }),
  relu: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 0, domain: wideDomain, cheap: true,
    value: (x) => max(x, c(0)),
    vjp: ({ g, out }) => [select(gt(out, c(0)), g, c(0))],
  }),
  sigmoid: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 4, domain: { low: -10, high: 10, special: [-12, 12, -89] },
    value: (x) => div(c(1), add(c(1), exp(neg(x)))),
    // y(1−y), not e⁻ˣ/(1+e⁻ˣ)²: in float16 the latter is 0 at x = −10 and NaN at x = −12.
    vjp: ({ g, out: y }) => [mul(g, mul(y, sub(c(1), y)))],
  }),
  silu: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", ulps: 5, domain: { low: -10, high: 10, special: [-12, 12] },
    value: (x) => div(x, add(c(1), exp(neg(x)))),
    vjp: ({ g, ins: [x] }) => {
      const s = div(c(1), add(c(1), exp(neg(x))));
      return [mul(g, mul(s, add(c(1), mul(x, sub(c(1), s)))))];
    },
    reference: "Elfwing, Uchibe, Doya 2017, arXiv:1702.03118",
  }),
  softplus: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "wide", ulps: 4, domain: { low: -10, high: 10, special: [-90, 90, 12] },
    // max(x, 0) + log1p(e^−|x|): log(1 + eˣ) is infinite for x > 88.7 in float32 and for x > 11.1 in float16.
    value: (x) => add(max(x, c(0)), log1p(exp(neg(abs(x))))),
    vjp: ({ g, ins: [x] }) => [div(g, add(c(1), exp(neg(x))))],
  }),
  gelu: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", recompute: true, ulps: 6, domain: wideDomain,
    value: (x) => mul(mul(c(0.5), x), add(c(1), erf(mul(x, c(SQRT_HALF))))),
    vjp: ({ g, ins: [x] }) => [
      mul(g, add(mul(c(0.5), add(c(1), erf(mul(x, c(SQRT_HALF))))), mul(x, mul(c(NORMAL_PEAK), exp(mul(c(-0.5), mul(x, x))))))),
    ],
    reference: "Hendrycks, Gimpel 2016, arXiv:1606.08415",
  }),
  geluTanh: pointwise({
    arity: 1, accepts: "float", result: "same", autocast: "as-is", recompute: true, ulps: 6, domain: wideDomain,
    value: (x) => mul(mul(c(0.5), x), add(c(1), tanh(mul(c(SQRT_2_OVER_PI), add(x, mul(c(TANH_CUBIC), mul(x, mul(x, x)))))))),
    vjp: ({ g, ins: [x] }) => {
      const t = tanh(mul(c(SQRT_2_OVER_PI), add(x, mul(c(TANH_CUBIC), mul(x, mul(x, x))))));
      const slope = mul(c(SQRT_2_OVER_PI), add(c(1), mul(c(3 * TANH_CUBIC), mul(x, x))));
      return [mul(g, add(mul(c(0.5), add(c(1), t)), mul(mul(c(0.5), x), mul(sub(c(1), mul(t, t)), slope))))];
    },
    reference: "Hendrycks, Gimpel 2016, arXiv:1606.08415, eq. in section 2",
  }),
});
