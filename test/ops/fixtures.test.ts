/** Rows against values and gradients that PyTorch and 50-digit arithmetic computed (test/fixtures/rows.json). */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { gradients } from "../../src/autodiff/backward.ts";
import { erf } from "../../src/backends/reference/scalar.ts";
import { type DType, isFloat, round } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { ELEMENTWISE } from "../../src/ops/elementwise.ts";
import { evaluateGraph } from "../support/evaluate.ts";

interface Recorded {
  readonly shape: readonly number[];
  readonly data: readonly (number | string)[];
  readonly dtype?: DType;
}

interface Case {
  readonly inputs: Readonly<Record<string, Recorded>>;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly output: Recorded;
  readonly cotangent: Recorded;
  readonly gradients: Readonly<Record<string, Recorded>>;
}

const FIXTURES = JSON.parse(readFileSync(new URL("../fixtures/rows.json", import.meta.url), "utf8")) as Record<
  string,
  Case
>;

type Recipe = (inputs: readonly Node[], attributes: Case["attributes"]) => Node;

const need = (node: Node | undefined): Node => {
  if (node === undefined) throw new Error("the fixture lacks an input");
  return node;
};
const first =
  (f: (x: Node, attributes: Case["attributes"]) => Node): Recipe =>
  (inputs, attributes) =>
    f(need(inputs[0]), attributes);
const axisOf = (x: Node, axis: unknown): number => (Number(axis) + x.shape.length) % x.shape.length;
/** Brings the axis to the end, where composites work, and back. */
const along = (f: (x: Node) => Node): Recipe =>
  first((x, { axis }) => {
    const at = axisOf(x, axis);
    const rest = x.shape.map((_, i) => i).filter((i) => i !== at);
    const result = f(b.permute(x, [...rest, at]));
    return result.shape.length < x.shape.length
      ? result
      : b.permute(
          result,
          x.shape.map((_, i) => (i === at ? rest.length : rest.indexOf(i))),
        );
  });
const reduction = (f: (x: Node, axes: readonly number[]) => Node): Recipe =>
  first((x, { axis, keepDims }) => {
    const axes = axis === undefined ? x.shape.map((_, i) => i) : [axisOf(x, axis)];
    const result = f(x, axes);
    return keepDims === true
      ? b.reshape(
          result,
          x.shape.map((n, i) => (axes.includes(i) ? 1 : n)),
        )
      : result;
  });
const heads = (x: Node): Node => b.permute(x, [0, 2, 1, 3]); // (B, H, T, D) of the fixture ↔ (B, T, H, D)
const variance = (x: Node, axes: readonly number[]): Node => {
  const centred = b.sub(x, b.restoreAxes(b.mean(x, axes), x.shape, axes));
  return b.mean(b.mul(centred, centred), axes);
};
const norm =
  (center: boolean): Recipe =>
  (inputs, { epsilon }) => {
    const [x, weight, bias] = inputs;
    const scaled = b.mul(
      b.composite("normalize", [need(x)], { eps: Number(epsilon), center, saved: need(x).dtype }),
      need(weight),
    );
    return bias === undefined ? scaled : b.add(scaled, bias);
  };
const product: Recipe = ([a, w]) => {
  const [x, y] = [need(a), need(w)];
  const batch = x.shape.length > y.shape.length ? x.shape.slice(0, -2) : y.shape.slice(0, -2);
  return b.matmul(
    b.broadcastTo(x, [...batch, ...x.shape.slice(-2)]),
    b.broadcastTo(y, [...batch, ...y.shape.slice(-2)]),
  );
};
/** The broadcast of both: [2, 1, 3, 4] × [3, 4, 2]. */
const broadcastProduct: Recipe = ([a, w]) =>
  b.matmul(b.broadcastTo(need(a), [2, 3, 3, 4]), b.broadcastTo(need(w), [2, 3, 4, 2]));

const RECIPES: Readonly<Record<string, Recipe>> = {
  pow: ([x, y], { exponent }) => b.pow(need(x), exponent === undefined ? need(y) : Number(exponent)),
  softmax: along((x) => b.composite("softmax", [x])),
  logSoftmax: along((x) => b.composite("logSoftmax", [x])),
  logSumExp: along((x) => b.composite("logSumExp", [x])),
  layerNorm: norm(true),
  rmsNorm: norm(false),
  variance: reduction(variance),
  sum: reduction((x, axes) => b.sum(x, axes)),
  mean: reduction((x, axes) => b.mean(x, axes)),
  crossEntropy: ([logits, targets], { ignoreIndex }) => {
    const ignore = Number(ignoreIndex);
    const rows = b.composite("crossEntropyRows", [need(logits), need(targets)], { ignore });
    return b.div(b.sum(rows, [0]), b.sum(b.cast(b.notEqual(need(targets), ignore), rows.dtype), [0]));
  },
  attention: (inputs, { scale, causal }) =>
    heads(b.composite("attention", inputs.map(heads), { scale: Number(scale), causal: causal === true })),
  matmul: product,
  "matmul:broadcast": broadcastProduct,
  linear: ([x, weight, bias]) =>
    b.add(b.matmul(need(x), b.broadcastTo(b.transpose(need(weight)), [2, 4, 5])), need(bias)),
  gather: ([table, indices], { axis }) => b.gather(need(table), need(indices), Number(axis)),
};

const isElementwise = (name: string): name is keyof typeof ELEMENTWISE => Object.hasOwn(ELEMENTWISE, name);

function recipeOf(name: string): Recipe {
  const [base = ""] = name.split(":");
  const recipe = RECIPES[name] ?? RECIPES[base];
  if (recipe !== undefined) return recipe;
  if (!isElementwise(base)) throw new Error(`no recipe for fixture ${name}`);
  return first((x) => b.node(ELEMENTWISE[base], [x]));
}

const numbers = ({ data }: Recorded): Float64Array => Float64Array.from(data, Number);

interface Result {
  readonly output: Float64Array;
  readonly gradients: Readonly<Record<string, Float64Array>>;
}

function compute(name: string, { inputs, attributes, cotangent }: Case, dtype: "float64" | "float32"): Result {
  const at = new Map<Node, Float64Array>();
  const leaf = (recorded: Recorded): Node => {
    const node = createInput(recorded.shape, recorded.dtype ?? dtype);
    at.set(node, numbers(recorded));
    return node;
  };
  const leaves = Object.fromEntries(Object.entries(inputs).map(([key, recorded]) => [key, leaf(recorded)]));
  const output = recipeOf(name)(Object.values(leaves), attributes);
  const loss = b.sum(
    b.mul(output, leaf(cotangent)),
    output.shape.map((_, i) => i),
  );
  const targets = Object.entries(leaves).filter(([, node]) => isFloat(node.dtype));
  const found = gradients(
    loss,
    targets.map(([, node]) => node),
  );
  const [value, ...rest] = evaluateGraph([output, ...targets.map(([, node]) => need(found.get(node)))], at);
  return {
    output: value ?? new Float64Array(0),
    gradients: Object.fromEntries(targets.map(([key], i) => [key, rest[i] ?? new Float64Array(0)])),
  };
}

function expectNear(got: Float64Array, expected: Recorded, relative: number, label: string): void {
  const truth = numbers(expected);
  const scale = Math.max(1, ...truth.filter(Number.isFinite).map(Math.abs));
  expect(got.length, label).toBe(truth.length);
  got.forEach((v, i) => {
    const t = truth[i] ?? Number.NaN;
    if (!Number.isFinite(t)) expect(Object.is(v, t), `${label} [${i}]: ${v}, expected ${t}`).toBe(true);
    else expect(Math.abs(v - t), `${label} [${i}]: ${v}, expected ${t}`).toBeLessThanOrEqual(relative * scale);
  });
}

/** Elementwise errors count against each value, not against the largest of the table. */
function expectEachNear(got: Float64Array, expected: Recorded, x: Recorded, relative: number, label: string): void {
  const points = numbers(x);
  numbers(expected).forEach((t, i) => {
    const v = got[i] ?? Number.NaN;
    if (!Number.isFinite(round(t, "float32")))
      expect(Object.is(v, t) || v === round(t, "float32"), `${label}: ${v}, expected ${t}`).toBe(true);
    else
      expect(Math.abs(v - t), `${label} at ${points[i]}: ${v}, expected ${t}`).toBeLessThanOrEqual(
        relative * Math.max(1e-30, Math.abs(t), Math.min(1, Math.abs(points[i] ?? 0))),
      );
  });
}

/** Norms in float32: the mean of 1000 + 0.125 k is off by a part of its own ulp, and the spread is only 0.29. */
const FLOAT32: Readonly<Record<string, number>> = { layerNorm: 1e-3, variance: 1e-5 };

describe("recorded truth", () => {
  it("is there for every transcendental row", () => {
    const recorded = new Set(Object.keys(FIXTURES).map((name) => name.split(":")[0]));
    for (const name of [
      "exp",
      "expm1",
      "log",
      "log1p",
      "sin",
      "cos",
      "tanh",
      "erf",
      "pow",
      "sigmoid",
      "silu",
      "softplus",
      "gelu",
      "geluTanh",
    ])
      expect(recorded).toContain(name);
  });

  it.each(Object.keys(FIXTURES).filter((name) => !isElementwise(name)))("%s in float64", (name) => {
    const recorded = FIXTURES[name];
    if (recorded === undefined) throw new Error(name);
    const result = compute(name, recorded, "float64");
    expectNear(result.output, recorded.output, 1e-11, name);
    for (const [key, expected] of Object.entries(recorded.gradients))
      expectNear(result.gradients[key] ?? new Float64Array(0), expected, 1e-9, `∂${key}`);
  });

  it.each(Object.keys(FIXTURES).filter((name) => !isElementwise(name)))("%s in float32", (name) => {
    const recorded = FIXTURES[name];
    if (recorded === undefined) throw new Error(name);
    expectNear(
      compute(name, recorded, "float32").output,
      recorded.output,
      FLOAT32[name.split(":")[0] ?? ""] ?? 2e-6,
      name,
    );
  });

  it.each(Object.keys(FIXTURES).filter(isElementwise))("%s point by point", (name) => {
    const recorded = FIXTURES[name];
    const x = recorded?.inputs.x ?? recorded?.inputs.base;
    if (recorded === undefined || x === undefined) throw new Error(name);
    const exact = compute(name, recorded, "float64");
    expectEachNear(exact.output, recorded.output, x, 1e-12, `${name} in float64`);
    for (const [key, expected] of Object.entries(recorded.gradients)) {
      expectEachNear(exact.gradients[key] ?? new Float64Array(0), expected, x, 1e-12, `∂${name}/∂${key}`);
    }
    expectEachNear(compute(name, recorded, "float32").output, recorded.output, x, 2e-6, `${name} in float32`);
  });

  it("erf of the reference backend, to 14 digits", () => {
    const recorded = FIXTURES.erf;
    if (recorded?.inputs.x === undefined) throw new Error("erf");
    const points = numbers(recorded.inputs.x);
    const truths = numbers(recorded.output);
    expect(points.length).toBeGreaterThan(40);
    for (const [i, x] of points.entries())
      expect(Math.abs(erf(x) - (truths[i] ?? 2))).toBeLessThanOrEqual(1e-14 * Math.max(1, Math.abs(x)));
    expect([erf(Number.NaN), erf(Infinity), erf(-Infinity), Object.is(erf(-0), -0)]).toEqual([Number.NaN, 1, -1, true]);
  });
});
