/** Random requests for property tests: graphs of most rows over small shapes, several outputs, variables assigned from each other. */
import fc from "fast-check";
import { gradients } from "../../src/autodiff/backward.ts";
import type { Request } from "../../src/compile/program.ts";
import { type DType, isFloat, round } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { ELEMENTWISE } from "../../src/ops/elementwise.ts";
import { OPS } from "../../src/ops/index.ts";
import { type Shape, sameShape, sizeOf } from "../../src/ops/shape.ts";
import { uniforms } from "./random.ts";

/** Numbers that choose: which rule, on which nodes, with which parameter. */
export interface Instruction {
  readonly rule: number;
  readonly x: number;
  readonly y: number;
  readonly n: number;
}

export interface RandomRequest {
  readonly request: Request;
  readonly leaves: ReadonlyMap<Node, Float64Array>;
}

export const recipes: fc.Arbitrary<{ instructions: Instruction[]; outputs: number[]; assigned: number[] }> = fc.record({
  instructions: fc.array(fc.record({ rule: fc.nat(1000), x: fc.nat(1000), y: fc.nat(1000), n: fc.nat(1000) }), {
    minLength: 1,
    maxLength: 24,
  }),
  outputs: fc.array(fc.nat(1000), { minLength: 1, maxLength: 4 }),
  assigned: fc.array(fc.nat(1000), { maxLength: 4 }),
});

const LEAVES: readonly (readonly [Shape, DType])[] = [
  [[2, 3], "float32"],
  [[3], "float32"],
  [[2, 1], "float32"],
  [[2, 3], "bfloat16"],
  [[3, 2], "float16"],
  [[3, 3], "float32"],
  [[], "float32"],
];
const VARIABLES: readonly (readonly [Shape, DType])[] = [
  [[2, 3], "float32"],
  [[2, 3], "float32"],
  [[3, 3], "float32"],
  [[2, 3], "bfloat16"],
];
const MAX_SIZE = 60;

/** Builds the graph that a recipe describes; rules that do not apply to the chosen nodes add nothing. */
export function buildRequest({
  instructions,
  outputs,
  assigned,
}: {
  instructions: readonly Instruction[];
  outputs: readonly number[];
  assigned: readonly number[];
}): RandomRequest {
  const leaves = new Map<Node, Float64Array>();
  const fresh = ([shape, dtype]: readonly [Shape, DType], i: number): Node => {
    const leaf = createInput(shape, dtype);
    leaves.set(
      leaf,
      uniforms(31 + i, sizeOf(shape), -2, 2).map((v) => round(v, dtype)),
    );
    return leaf;
  };
  const indices = createInput([2], "int32");
  leaves.set(indices, new Float64Array([1, 0]));
  const variables = VARIABLES.map((leaf, i) => fresh(leaf, 50 + i));
  const pool = [...LEAVES.map(fresh), ...variables];
  for (const step of instructions) {
    const made = RULES[step.rule % RULES.length]?.(
      pick(recent(pool, step.x), step.x),
      pick(recent(pool, step.y), step.y),
      step.n,
      indices,
    );
    if (made !== undefined && sizeOf(made.shape) <= MAX_SIZE) pool.push(made);
  }
  const floats = pool.filter((n) => isFloat(n.dtype));
  const assignments = new Map<Node, Node>();
  assigned.forEach((n, i) => {
    const variable = pick(variables, i + n);
    const value = n % 5 === 0 ? pick(variables, i + n + 1) : pick([...floats].reverse(), n % 7);
    const fitted = shapedLike(value, variable);
    if (fitted !== undefined) assignments.set(variable, fitted);
  });
  return { request: { outputs: outputs.map((n) => pick([...pool].reverse(), n % 8)), assignments }, leaves };
}

/** Two times in three one of the last four nodes, so that chains grow deep. */
const recent = (pool: readonly Node[], n: number): readonly Node[] => (n % 3 === 0 ? pool : pool.slice(-4));

function pick(from: readonly Node[], n: number): Node {
  const node = from[n % from.length];
  if (node === undefined) throw new Error("nothing to pick from");
  return node;
}

function shapedLike(value: Node, like: Node): Node | undefined {
  const cast = b.cast(value, like.dtype);
  if (sizeOf(value.shape) === sizeOf(like.shape)) return b.reshape(cast, like.shape);
  return value.shape.length === 0 ? b.broadcastTo(cast, like.shape) : undefined;
}

type Rule = (x: Node, y: Node, n: number, indices: Node) => Node | undefined;

const UNARY = [
  "neg",
  "abs",
  "tanh",
  "relu",
  "sigmoid",
  "square",
  "floor",
  "sign",
  "sin",
  "erf",
  "exp",
  "softplus",
] as const;
const BINARY = ["add", "sub", "mul", "div", "minimum", "maximum"] as const;
const DTYPES = ["float32", "bfloat16", "float16"] as const;

const at = <T>(list: readonly T[], n: number): T => list[n % list.length] as T;
const float = (x: Node): Node => (isFloat(x.dtype) ? x : b.cast(x, "float32"));
const compatible = (x: Shape, y: Shape): boolean =>
  [...x].reverse().every((d, i) => {
    const e = y[y.length - 1 - i];
    return e === undefined || d === 1 || e === 1 || d === e;
  });

const unary: Rule = (x, _, n) => b.node(ELEMENTWISE[at(UNARY, n)], [float(x)]);
const binary: Rule = (x, y, n) => {
  const [p, q] = [float(x), float(y)];
  return compatible(p.shape, q.shape) ? b.pointwise(ELEMENTWISE[at(BINARY, n)], [p, b.cast(q, p.dtype)]) : undefined;
};
const literal: Rule = (x, _, n) => {
  const number = at([1, 0.5, -0, 3, 0], Math.floor(n / 6));
  return b.pointwise(ELEMENTWISE[at(BINARY, n)], n % 4 === 3 ? [number, float(x)] : [float(x), number]);
};
const select: Rule = (x, y) => {
  const [p, q] = [float(x), float(y)];
  return sameShape(p.shape, q.shape) ? b.where(b.less(p, b.cast(q, p.dtype)), p, 0.25) : undefined;
};
const cast: Rule = (x, _, n) => b.cast(x, at(DTYPES, n));
const reshape: Rule = (x, _, n) => b.reshape(x, at([[sizeOf(x.shape)], [...x.shape, 1], [1, ...x.shape]], n));
const permute: Rule = (x) =>
  b.permute(
    x,
    x.shape.map((_, i) => x.shape.length - 1 - i),
  );
const permutedUnary: Rule = (x, y, n, indices) => unary(permute(x, y, n, indices) ?? x, y, n, indices);
const broadcast: Rule = (x, _, n) => b.broadcastTo(x, [2 + (n % 2), ...x.shape]);
const slice: Rule = (x, _, n) =>
  x.shape.length === 0
    ? undefined
    : b.slice(
        x,
        x.shape.map((d, i) => (i === 0 ? n % d : 0)),
        x.shape.map((d, i) => (i === 0 ? d - (n % d) : d)),
      );
const pad: Rule = (x, _, n) =>
  b.pad(
    x,
    x.shape.map(() => n % 2),
    x.shape.map((d) => d + 1),
  );
const concatenate: Rule = (x, y) =>
  x.shape.length > 0 && x.dtype === y.dtype && sameShape(x.shape, y.shape) ? b.concatenate([x, y], 0) : undefined;
const reduce: Rule = (x, _, n) => {
  const axes = x.shape.map((_d, i) => i).filter((i) => (n >> i) % 2 === 0);
  if (axes.length === 0) return undefined;
  const operand = float(x);
  return at(
    [
      () => b.sum(operand, axes),
      () => b.sum(operand, axes, "float32"),
      () => b.max(operand, axes),
      () => b.min(operand, axes),
      () => b.mean(operand, axes),
    ],
    n,
  )();
};
/** Counts of the binades from 2^-5 on, where most values lie. */
const magnitudes: Rule = (x, _, n) => b.slice(b.magnitudeCounts(b.cast(float(x), "float32")), [122 + (n % 3)], [6]);
const matmul: Rule = (x, y, n) => {
  const [p, q] = [float(x), float(y)];
  if (p.shape.length !== 2 || q.shape.length !== 2) return undefined;
  const right = [q, b.transpose(q), b.transpose(p)].find((m) => m.shape[0] === p.shape[1]);
  return right === undefined ? undefined : b.matmul(p, b.cast(right, p.dtype), n % 2 === 0 ? p.dtype : "float32");
};
const rowOp: Rule = (x, _, n) => {
  const operand = float(x);
  if (operand.shape.length === 0) return undefined;
  const name = at(["softmax", "logSoftmax", "logSumExp", "normalize", "inverseDeviation"] as const, n);
  return b.composite(name, [operand], { eps: 1e-3, center: n % 2 === 0, saved: operand.dtype });
};
const crossEntropy: Rule = (x, _, n, indices) =>
  x.shape.length === 2 && x.shape[0] === 2 && (x.shape[1] ?? 0) > 1
    ? b.composite("crossEntropyRows", [float(x), indices], { ignore: -100 + (n % 2) * 100 })
    : undefined;
const gather: Rule = (x, _, n, indices) => {
  const axis = x.shape.findIndex((d) => d >= 2);
  return axis < 0 || n % 3 === 2 ? undefined : b.gather(x, indices, axis);
};
/** Σ x² pulled back to another node: backward graphs with their shared values. */
const gradient: Rule = (x, y) => {
  const wide = b.cast(float(x), "float32");
  const loss = b.sum(
    b.mul(wide, wide),
    wide.shape.map((_, i) => i),
  );
  return isFloat(y.dtype) ? gradients(loss, [y]).get(y) : undefined;
};
const generated: Rule = (_x, _y, n) =>
  n % 2 === 0 ? b.cast(b.iota(2 + (n % 3)), "float32") : b.constant(n % 7, [2, 3]);
/** Random numbers, as drawn and as a mask: their values depend on where they stand. */
const random: Rule = (x, _, n) => {
  const drawn = b.random(b.cast(b.iota(4), "uint32"), x.shape, n % 5);
  return n % 2 === 0 ? drawn : b.where(b.greaterEqual(drawn, 0.5), float(x), 0);
};
/** One value in every element, in a dtype that may round it. */
const filled: Rule = (x, _, n) => b.node(OPS.full, [], { value: (n % 11) / 7, shape: x.shape, dtype: float(x).dtype });

const barrier: Rule = (x, y) => b.barrier(x, y);

const RULES: readonly Rule[] = [
  unary,
  unary,
  unary,
  binary,
  binary,
  binary,
  literal,
  literal,
  select,
  cast,
  cast,
  reshape,
  permute,
  permutedUnary,
  barrier,
  broadcast,
  slice,
  pad,
  concatenate,
  reduce,
  reduce,
  magnitudes,
  matmul,
  matmul,
  rowOp,
  rowOp,
  crossEntropy,
  gather,
  gradient,
  gradient,
  generated,
  random,
  random,
  filled,
];
