/** Pointwise rows, generated from OPS: values in four formats, gradients, derivatives of derivatives. */
import { describe, expect, it } from "vitest";
import { gradients } from "../../src/autodiff/backward.ts";
import { evaluate } from "../../src/backends/reference/evaluate.ts";
import { DIALECTS } from "../../src/backends/reference/scalar.ts";
import { type FloatDType, FORMATS, round, ulp } from "../../src/formats/index.ts";
import { build as b, createInput, createNode, type Node } from "../../src/ir/graph.ts";
import type { OpOf, PointwiseRow } from "../../src/ops/define.ts";
import { differentiate } from "../../src/ops/derivative.ts";
import { ELEMENTWISE } from "../../src/ops/elementwise.ts";
import { fold } from "../../src/ops/expr.ts";
import { OPS } from "../../src/ops/index.ts";
import { evaluateGraph, valueOfGraph } from "../support/evaluate.ts";
import { leaf64, weighted } from "../support/gradient-check.ts";
import { uniforms } from "../support/random.ts";
import { TRUTH } from "../support/truth.ts";

type Op = OpOf<PointwiseRow>;
type Name = keyof typeof ELEMENTWISE;

const NAMES = Object.keys(ELEMENTWISE) as Name[];
const BOOLEAN: readonly string[] = ["logicalAnd", "logicalOr", "logicalNot"];
const DTYPES = ["float64", "float32", "float16", "bfloat16"] as const;
const NONFINITE = [Infinity, -Infinity, Number.NaN];
const COUNT = 60;
const opOf = (name: Name): Op => ELEMENTWISE[name];
const isCondition = (name: Name, i: number): boolean => BOOLEAN.includes(name) || (name === "where" && i === 0);

/** One column of values per operand: the domain, then every combination of the points that tests always include. */
function samples(name: Name, special: readonly number[]): Float64Array[] {
  const { slots, domain, copies } = opOf(name);
  const grid = slots.reduce<number[][]>((rows) => rows.flatMap((row) => special.map((v) => [...row, v])), [[]]);
  return slots.map((_, i) => {
    const source = copies?.[i] ?? i;
    const drawn = isCondition(name, i)
      ? uniforms(i + 3, COUNT, 0, 2).map(Math.floor)
      : uniforms(source + 3, COUNT, domain.low, domain.high);
    const points = grid.map((row) => row[source] ?? 0).map((v) => (isCondition(name, i) ? Number(v > 0) : v));
    return Float64Array.from([...drawn, ...points]);
  });
}

function leaves(name: Name, dtype: FloatDType, columns: readonly Float64Array[]): Map<Node, Float64Array> {
  return new Map(
    columns.map((values, i) => {
      const type = isCondition(name, i) ? "bool" : dtype;
      return [createInput([values.length], type), values.map((v) => round(v, type))];
    }),
  );
}

/** Steps of `dtype` that the result may be off: the row's, in float32 arithmetic, and half a step for the rounding to 16 bits. */
function allowed({ ulps }: Op, dtype: FloatDType, scale: number): number {
  if (dtype === "float64") return 1e-13 * scale;
  return ulps * ulp(scale, "float32") + (dtype === "float32" ? 0 : 0.5 * ulp(scale, dtype));
}

function checkValues(name: Name, dtype: FloatDType, special: readonly number[]): void {
  const op = opOf(name);
  const at = leaves(name, dtype, samples(name, special));
  const node = createNode(op, [...at.keys()]);
  const got = valueOfGraph(node, at);
  const columns = [...at.values()];
  got.forEach((value, k) => {
    const [x = 0, y = 0, z = 0] = columns.map((column) => column[k] ?? Number.NaN);
    const truth = TRUTH[name](x, y, z);
    const nearest = round(truth, node.dtype);
    const where = `${name}(${[x, y, z].slice(0, op.slots.length)}) in ${dtype}: ${value}, expected ${nearest}`;
    if (op.ulps === 0 || !Number.isFinite(nearest)) {
      expect(Object.is(value, nearest), where).toBe(true);
      return;
    }
    const operands = op.slots.map((_, i) => Math.abs(columns[i]?.[k] ?? 0)).filter(Number.isFinite);
    const scale = Math.max(Math.abs(truth), ...operands, FORMATS[dtype].minNormal);
    expect(Math.abs(value - truth), where).toBeLessThanOrEqual(allowed(op, dtype, scale));
  });
}

describe("values", () => {
  it("has a truth for every row", () => {
    const rows = Object.values(OPS)
      .filter((op) => op.kind === "pointwise")
      .map((op) => op.name);
    expect([...Object.keys(TRUTH), "cast", "bitcast"].sort()).toEqual(rows.sort());
  });

  for (const dtype of DTYPES) {
    it.each(NAMES)(`%s in ${dtype}`, (name) => {
      checkValues(name, dtype, opOf(name).domain.special ?? [1]);
    });
  }

  /** Beyond the domain: where the formulas have another limit than the function, NaN is what they give. */
  const NAN_AT: Readonly<Record<string, readonly number[]>> = {
    silu: [-Infinity],
    gelu: [-Infinity],
    geluTanh: [-Infinity],
  };
  const UNBOUNDED = NAMES.filter((name) => !BOOLEAN.includes(name) && name !== "pow" && name !== "mulSaved");
  for (const dtype of DTYPES) {
    it.each(UNBOUNDED)(`%s of infinities, NaN and zeros in ${dtype}`, (name) => {
      const without = NAN_AT[name] ?? [];
      checkValues(
        name,
        dtype,
        [...NONFINITE, 0, -0].filter((v) => !without.includes(v)),
      );
      const at = leaves(name, dtype, [Float64Array.from(without)]);
      if (without.length > 0)
        expect([...valueOfGraph(createNode(opOf(name), [...at.keys()]), at)]).toEqual(without.map(() => Number.NaN));
    });
  }

  it("pow at the corners", () => {
    const table = [
      [0, 0, 1],
      [2, 0, 1],
      [-3, 2, 9],
      [-2, 3, -8],
      [-1, 0.5, Number.NaN],
      [0, -1, Infinity],
      [0, 2, 0],
      [Infinity, -1, 0],
      [2, Number.NaN, Number.NaN],
    ];
    const [x, y] = [createInput([table.length], "float32"), createInput([table.length], "float32")];
    const values = (i: number): Float64Array => Float64Array.from(table, (row) => row[i] ?? 0);
    expect([...evaluate(b.pow(x, y), [values(0), values(1)], () => undefined)]).toEqual([...values(2)]);
  });

  it.each([
    ["mul", 2 ** 16 + 1, 2 ** 16 + 1],
    ["add", 2 ** 31 - 1, 1],
    ["sub", -(2 ** 31), 1],
    ["mul", -7, 3],
    ["mul", 2 ** 31 - 1, 2 ** 31 - 3],
  ] as const)("%s wraps around in 32-bit integers", (name, x, y) => {
    const exact = { mul: BigInt(x) * BigInt(y), add: BigInt(x) + BigInt(y), sub: BigInt(x) - BigInt(y) }[name];
    const of = (dtype: "int32" | "uint32", v: number): Float64Array => Float64Array.of(dtype === "int32" ? v : v >>> 0);
    for (const dtype of ["int32", "uint32"] as const) {
      const node = b.pointwise(ELEMENTWISE[name], [createInput([1], dtype), createInput([1], dtype)]);
      const [value] = evaluate(node, [of(dtype, x), of(dtype, y)], () => undefined);
      expect(value).toBe(Number(dtype === "int32" ? BigInt.asIntN(32, exact) : BigInt.asUintN(32, exact)));
    }
  });
});

const DIFFERENTIABLE = NAMES.filter((name) => opOf(name).vjp !== "none");
const STEP = 1e-6;

/** Points away from kinks and from each other. */
function smoothPoints(name: Name): Float64Array[] {
  const columns = samples(name, []);
  const [x, y] = columns;
  return columns.map((column, i) =>
    column.map((v, k) => {
      if (isCondition(name, i) || opOf(name).copies !== undefined) return v;
      const near = Math.abs(v) < 0.01 || (i === 1 && Math.abs(v - (x?.[k] ?? 0)) < 0.01 && y !== undefined);
      return near ? v + 0.05 : v;
    }),
  );
}

interface Setup {
  readonly inputs: readonly Node[];
  readonly data: readonly Node[];
  readonly at: Map<Node, Float64Array>;
  readonly value: Node;
}

function setup(name: Name): Setup {
  const at = leaves(name, "float64", smoothPoints(name));
  const inputs = [...at.keys()];
  return { inputs, data: inputs.filter((n) => n.dtype === "float64"), at, value: createNode(opOf(name), inputs) };
}

/** Element k of the result depends on element k alone: one perturbation of all elements gives all derivatives. */
function numericSlope(value: Node, leaf: Node, at: ReadonlyMap<Node, Float64Array>): Float64Array {
  const x = at.get(leaf) ?? new Float64Array(0);
  const [up, down] = [STEP, -STEP].map((h) =>
    valueOfGraph(
      value,
      new Map(at).set(
        leaf,
        x.map((v) => v + h),
      ),
    ),
  );
  return x.map((_, k) => ((up?.[k] ?? 0) - (down?.[k] ?? 0)) / (2 * STEP));
}

function expectClose(got: Float64Array, expected: Float64Array, label: string, tolerance = 1e-6): void {
  got.forEach((v, k) => {
    const truth = expected[k] ?? Number.NaN;
    expect(Math.abs(v - truth) / Math.max(1, Math.abs(truth)), `${label} [${k}]`).toBeLessThan(tolerance);
  });
}

describe("gradients", () => {
  it.each(DIFFERENTIABLE)("%s against central differences and the symbolic derivative", (name) => {
    const { inputs, data, at, value } = setup(name);
    const { loss, weights } = weighted(value, 5);
    at.set(...weights);
    const found = gradients(loss, data);
    for (const leaf of data) {
      const slot = opOf(name).slots[inputs.indexOf(leaf)] ?? "";
      const slope = numericSlope(value, leaf, at);
      const scaled = slope.map((v, k) => v * (weights[1][k] ?? 0));
      const node = found.get(leaf);
      expectClose(node === undefined ? scaled.map(() => 0) : valueOfGraph(node, at), scaled, `∂${name}/∂${slot}`);
      const bound = Object.fromEntries(opOf(name).slots.map((s, i) => [s, at.get(inputs[i] as Node) ?? 0]));
      const symbolic = fold(differentiate(opOf(name).value, slot), DIALECTS.float64, bound);
      expectClose(
        typeof symbolic === "number" ? slope.map(() => symbolic) : symbolic,
        slope,
        `symbolic ∂${name}/∂${slot}`,
      );
    }
  });

  it.each(DIFFERENTIABLE)("%s twice", (name) => {
    const { data, at, value } = setup(name);
    const { loss, weights } = weighted(value, 5);
    at.set(...weights);
    const parts = [...gradients(loss, data).values()].map((g, i) => {
      const weight = leaf64(g.shape);
      at.set(weight, uniforms(17 + i, COUNT, 0.5, 1.5));
      return b.mul(g, weight);
    });
    const [head = value, ...rest] = parts;
    const total = rest.reduce((p, q) => b.add(p, q), head);
    const second = gradients(b.sum(total, [0]), data);
    for (const leaf of data) {
      const node = second.get(leaf);
      const expected = numericSlope(total, leaf, at);
      expectClose(
        node === undefined ? expected.map(() => 0) : valueOfGraph(node, at),
        expected,
        `second derivative of ${name}`,
      );
    }
  });

  it.each(NAMES.filter((name) => opOf(name).vjp === "none"))("%s lets no gradient through", (name) => {
    const x = createInput([3], BOOLEAN.includes(name) ? "bool" : "float64");
    const node = createNode(
      opOf(name),
      opOf(name).slots.map(() => x),
    );
    const y = leaf64([3]);
    const loss = b.sum(b.mul(y, b.cast(node, "float64")), [0]);
    expect([...gradients(loss, x.dtype === "bool" ? [y] : [x, y]).keys()]).toEqual([y]);
  });

  const KINKS: readonly (readonly [Name, readonly number[], readonly number[]])[] = [
    ["relu", [0], [0]],
    ["relu", [-0], [0]],
    ["abs", [0], [0]],
    ["minimum", [2, 2], [0.5, 0.5]],
    ["maximum", [-1, -1], [0.5, 0.5]],
    ["sqrt", [0], [Infinity]],
    ["pow", [0, 0], [0, 0]],
    ["pow", [0, 1], [1, 0]],
    ["pow", [0, 2], [0, 0]],
    ["pow", [-2, 3], [12, Number.NaN]],
    ["softplus", [0], [0.5]],
    ["softplus", [1000], [1]],
    ["softplus", [-1000], [0]],
    ["sigmoid", [-1000], [0]],
    ["silu", [-1000], [-0]],
    ["silu", [1000], [1]],
  ];
  it.each(KINKS)("%s at %j has gradient %j", (name, point, expected) => {
    const at = leaves(
      name,
      "float32",
      point.map((v) => Float64Array.of(v)),
    );
    const inputs = [...at.keys()];
    const found = gradients(b.sum(createNode(opOf(name), inputs), [0]), inputs);
    expect(inOrder(inputs, found, at).map((v) => v[0])).toEqual(expected);
  });

  for (const dtype of ["float16", "bfloat16"] as const) {
    it.each(DIFFERENTIABLE)(`%s in ${dtype} stays near the float64 gradient`, (name) => {
      const columns = samples(
        name,
        (opOf(name).domain.special ?? [1]).filter((v) => v !== 0 && (name !== "exp" || v < 11)),
      );
      const narrow = gradientColumns(name, dtype, columns);
      const exact = gradientColumns(
        name,
        "float64",
        columns.map((c) => c.map((v) => round(v, dtype))),
      );
      narrow.forEach((column, i) => {
        column.forEach((v, k) => {
          const truth = exact[i]?.[k] ?? Number.NaN;
          const limit = 8 * ulp(Math.max(1, Math.abs(truth)), dtype);
          expect(Math.abs(v - truth), `∂${name} at ${columns.map((c) => c[k])}`).toBeLessThanOrEqual(limit);
        });
      });
    });
  }
});

/** Gradients of the sum of a row's results, one column per operand. */
function gradientColumns(name: Name, dtype: FloatDType, columns: readonly Float64Array[]): readonly Float64Array[] {
  const at = leaves(name, dtype, columns);
  const data = [...at.keys()].filter((n) => n.dtype === dtype);
  const found = gradients(b.sum(createNode(opOf(name), [...at.keys()]), [0], dtype), data);
  return inOrder(data, found, at);
}

const inOrder = (
  inputs: readonly Node[],
  found: ReadonlyMap<Node, Node>,
  at: ReadonlyMap<Node, Float64Array>,
): readonly Float64Array[] =>
  evaluateGraph(
    inputs.map((n) => found.get(n) ?? b.constant(0, n.shape, n.dtype)),
    at,
  );
