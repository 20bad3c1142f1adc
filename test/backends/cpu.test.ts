/** The native backend against the reference, for every instruction set of this machine: bit for bit where arithmetic is exact. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CpuBackend } from "../../src/backends/cpu/backend.ts";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import { type DType, FORMATS, isFloat, round, ulp } from "../../src/formats/index.ts";
import { build as b, createInput, createNode, type Node } from "../../src/ir/graph.ts";
import type { Op } from "../../src/ops/define.ts";
import { ELEMENTWISE } from "../../src/ops/elementwise.ts";
import type { Expr, Fn } from "../../src/ops/expr.ts";
import { REDUCE } from "../../src/ops/reduce.ts";
import { type Shape, sizeOf } from "../../src/ops/shape.ts";
import { uniforms } from "../support/random.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";
import { type Outcome, run } from "../support/run.ts";

const loaded = loadAddon();
const ISAS = loaded.addon === null ? [] : loaded.addon.supportedIsas();
const backendOf = (isa: string): CpuBackend => {
  if (loaded.addon === null) throw new Error(loaded.reason);
  loaded.addon.setIsa(isa);
  return new CpuBackend(loaded.addon);
};

it.skipIf(loaded.addon === null)("the native addon is built (npm run build:native)", () =>
  expect(ISAS.length).toBeGreaterThan(0),
);

const { argMax: ARG_MAX, argMin: ARG_MIN } = REDUCE;

type Leaves = Map<Node, Float64Array>;

function leaf(leaves: Leaves, shape: Shape, dtype: DType, values: ArrayLike<number>): Node {
  const node = createInput(shape, dtype);
  leaves.set(
    node,
    Float64Array.from({ length: sizeOf(shape) }, (_, i) => round(Number(values[i % values.length]), dtype)),
  );
  return node;
}

const random = (leaves: Leaves, shape: Shape, dtype: DType, seed: number, low = -2, high = 2): Node =>
  leaf(leaves, shape, dtype, uniforms(seed, sizeOf(shape), low, high));

async function both(
  isa: string,
  outputs: readonly Node[],
  leaves: Leaves,
  assignments = new Map<Node, Node>(),
): Promise<[Outcome, Outcome]> {
  const request = { outputs, assignments };
  return [await run(request, leaves, backendOf(isa)), await run(request, leaves)];
}

/** Elements equal bit for bit, or NaN in both. */
function expectSame(got: ArrayLike<number> | undefined, want: ArrayLike<number> | undefined, what: string): void {
  expect(got?.length).toBe(want?.length);
  for (let i = 0; i < (want?.length ?? 0); i++)
    if (!Object.is(got?.[i], want?.[i])) expect(got?.[i], `${what}[${i}]`).toBe(want?.[i]);
}

/** |got − want| ≤ allowed(i), with equal infinities and NaN. */
function expectNear(
  got: ArrayLike<number> | undefined,
  want: ArrayLike<number> | undefined,
  allowed: (i: number) => number,
  what: string,
): void {
  expect(got?.length).toBe(want?.length);
  for (let i = 0; i < (want?.length ?? 0); i++) {
    const [g, w] = [got?.[i] ?? Number.NaN, want?.[i] ?? Number.NaN];
    if (Object.is(g, w) || g === w) continue;
    expect(Math.abs(g - w), `${what}[${i}]: ${g} instead of ${w}`).toBeLessThanOrEqual(allowed(i));
  }
}

const EXACT: ReadonlySet<Fn> = new Set([
  "neg",
  "abs",
  "sign",
  "floor",
  "ceil",
  "round",
  "sqrt",
  "isFinite",
  "add",
  "sub",
  "mul",
  "div",
  "min",
  "max",
  "eq",
  "ne",
  "lt",
  "le",
  "gt",
  "ge",
  "and",
  "or",
  "select",
]);
const isExact = (e: Expr): boolean => e.k !== "call" || (EXACT.has(e.fn) && e.args.every(isExact));

const SHAPES: readonly Shape[] = [[1], [7], [3, 5], [513], [2, 3, 701]];
const HALF: readonly DType[] = ["float32", "bfloat16", "float16"];
const SPECIAL = [
  0,
  -0,
  1,
  -1,
  0.5,
  2.5,
  -1.5,
  1e-8,
  65504,
  3e38,
  1e-40,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
];

/** Operands of a row: values of its domain, then special ones, crossed by different periods. */
function operandsOf(op: Op & { kind: "pointwise" }, shape: Shape, dtype: DType, leaves: Leaves): Node[] {
  const { low, high, special = [] } = op.domain;
  return op.slots.map((_, i) => {
    const conditional = CONDITIONS[op.name]?.includes(i) === true;
    if (conditional)
      return leaf(
        leaves,
        shape,
        "bool",
        Array.from({ length: 11 }, (_, k) => ((k * 7 + i) % 3 === 0 ? 1 : 0)),
      );
    const extra = [...special, ...SPECIAL];
    const length = Math.max(sizeOf(shape), 1);
    const values = Array.from(uniforms(40 + i, length, low, high), (v, k) =>
      k % 5 === 4 ? (extra[Math.floor(k / 5 + i * 3) % extra.length] ?? v) : v,
    );
    return leaf(leaves, shape, dtype, values);
  });
}

const CONDITIONS: Readonly<Record<string, readonly number[]>> = {
  where: [0],
  logicalAnd: [0, 1],
  logicalOr: [0, 1],
  logicalNot: [0],
};

function allowance(
  op: Op & { kind: "pointwise" },
  dtype: DType,
  operands: readonly Float64Array[],
  want: ArrayLike<number>,
): (i: number) => number {
  return (i) => {
    const scale = Math.max(
      Math.abs(Number(want[i])),
      ...operands.map((v) => Math.abs(v[i] ?? 0)).filter(Number.isFinite),
    );
    // The expression errs by its ulps in float32; rounding to 16 bits may fall on the other side of a tie.
    return op.ulps * ulp(scale, "float32") + (dtype === "float32" ? 0 : ulp(Math.abs(Number(want[i])), dtype));
  };
}

describe.each(ISAS)("rows on %s", (isa) => {
  const rows = Object.values(ELEMENTWISE) as readonly (Op & { kind: "pointwise" })[];
  it.each(rows.map((op) => [op.name, op] as const))("%s", async (name, op) => {
    for (const dtype of HALF) {
      for (const shape of SHAPES) {
        const leaves: Leaves = new Map();
        const operands = operandsOf(op, shape, dtype, leaves);
        const [cpu, reference] = await both(isa, [createNode(op, operands)], leaves);
        const [got, want] = [cpu.outputs[0], reference.outputs[0]];
        const what = `${name} ${dtype} [${shape.join()}]`;
        if (isExact(op.value)) expectSame(got, want, what);
        else
          expectNear(
            got,
            want,
            allowance(
              op,
              dtype,
              operands.map((n) => leaves.get(n) ?? new Float64Array()),
              want ?? [],
            ),
            what,
          );
      }
    }
  });
});

const CASTABLE: readonly DType[] = [
  "float32",
  "float16",
  "bfloat16",
  "float8_e4m3fn",
  "float8_e5m2",
  "int32",
  "uint32",
  "uint8",
  "bool",
];
const CAST_VALUES = [
  ...SPECIAL,
  2 ** -24,
  2 ** -25,
  1.5 * 2 ** -25,
  448,
  464,
  465,
  61439,
  61440,
  65519.99,
  65520,
  2147483647,
  4294967295,
  255.9,
  -3.7,
  1 / 3,
  16777217,
  300,
  2 ** -133,
  2 ** -149,
];

describe.each(ISAS)("chains on %s", (isa) => {
  it.each([
    "bfloat16",
    "float16",
    "float8_e5m2",
  ] as const)("a fused %s chain rounds at every node, as the reference does", async (dtype) => {
    const leaves: Leaves = new Map();
    const [x, y, z] = [1, 2, 3].map((seed) => random(leaves, [9, 67], dtype, seed)) as [Node, Node, Node];
    const product = b.mul(x, y);
    const outputs = [
      b.sub(b.add(product, z), product),
      b.add(b.cast(b.cast(b.cast(x, "float32"), dtype), "float32"), b.mul(b.cast(b.mul(y, z), "float32"), 3)),
      b.mul(b.div(x, b.maximum(b.mul(z, z), 0.25)), y),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    expect(cpu.program.kernels.length).toBeLessThanOrEqual(outputs.length);
    outputs.forEach((_, i) => expectSame(cpu.outputs[i], reference.outputs[i], `${dtype} chain ${i}`));
  });
});

describe.each(ISAS)("casts on %s", (isa) => {
  it.each(CASTABLE)("from %s to everything, bit for bit", async (from) => {
    for (const to of CASTABLE) {
      const leaves: Leaves = new Map();
      const x = leaf(leaves, [CAST_VALUES.length], from, CAST_VALUES);
      const [cpu, reference] = await both(isa, [b.cast(x, to)], leaves);
      expectSame(cpu.outputs[0], reference.outputs[0], `${from} → ${to}`);
    }
  });
});

describe.each(ISAS)("integers on %s", (isa) => {
  const pairs = {
    add: b.add,
    sub: b.sub,
    mul: b.mul,
    minimum: b.minimum,
    maximum: b.maximum,
    equal: b.equal,
    less: b.less,
    lessEqual: b.lessEqual,
    greater: b.greater,
    greaterEqual: b.greaterEqual,
  };
  it.each(["int32", "uint32"] as const)("%s arithmetic and comparisons wrap as in the reference", async (dtype) => {
    const leaves: Leaves = new Map();
    const x = leaf(leaves, [9], dtype, [0, 1, 7, 2 ** 31 - 1, 2 ** 20, 5, 3, 123456789, 2 ** 30]);
    const y = leaf(leaves, [9], dtype, [3, 1, 2, 2 ** 31 - 1, 2 ** 20, 9, 3, 987654321, 2 ** 30]);
    const outputs = [
      ...Object.values(pairs).map((f) => f(x, y)),
      b.sum(x, [0]),
      b.where(b.less(x, y), x, y),
      b.add(x, 5),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((node, i) => expectSame(cpu.outputs[i], reference.outputs[i], node.op.name));
  });
});

describe.each(ISAS)("views, placements and sources on %s", (isa) => {
  it.each(HALF)("%s moves bit for bit", async (dtype) => {
    const leaves: Leaves = new Map();
    const x = random(leaves, [3, 5, 7], dtype, 1);
    const row = random(leaves, [7], dtype, 2);
    const outputs = [
      b.permute(x, [2, 0, 1]),
      b.reshape(b.permute(x, [1, 0, 2]), [15, 7]),
      b.slice(x, [1, 2, 3], [2, 2, 4]),
      b.pad(b.slice(x, [0, 0, 1], [3, 5, 2]), [1, 0, 3], [5, 5, 9]),
      b.concatenate([x, b.permute(b.permute(x, [2, 1, 0]), [2, 1, 0]), b.broadcastTo(row, [3, 5, 7])], 1),
      b.add(b.permute(x, [1, 0, 2]), b.broadcastTo(row, [5, 3, 7])),
      b.mul(b.broadcastTo(b.reshape(b.slice(row, [2], [3]), [3, 1, 1]), [3, 5, 7]), x),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((node, i) => expectSame(cpu.outputs[i], reference.outputs[i], `${i} ${node.op.name}`));
  });

  it("counts, fills and draws as the reference does", async () => {
    const leaves: Leaves = new Map();
    const key = leaf(leaves, [4], "uint32", [123456789, 4294967295, 7, 0]);
    const outputs = [
      b.iota(1000),
      b.add(b.reshape(b.iota(12), [3, 4]), 2),
      b.random(key, [5, 333], 3),
      b.random(key, [2049], 4),
      b.cast(b.greater(b.random(key, [77], 3), 0.25), "float32"),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((node, i) => expectSame(cpu.outputs[i], reference.outputs[i], `${i} ${node.op.name}`));
  });
});

/** Bound on the difference of two float32 summation orders of `count` terms: count · 2⁻²⁴ · Σ|terms|, twice; and one rounding. */
const sumBound = (count: number, magnitude: number, dtype: DType, value: number): number =>
  2 * count * 2 ** -24 * magnitude + (dtype === "float32" ? 0 : ulp(value, dtype));

describe.each(ISAS)("reductions on %s", (isa) => {
  const cases: readonly (readonly [Shape, readonly number[]])[] = [
    [[1], [0]],
    [[1000], [0]],
    [[37, 129], [0]],
    [[37, 129], [1]],
    [[4, 5, 67], [1]],
    [
      [4, 5, 67],
      [0, 2],
    ],
    [[2048, 40], [0]],
    [[3, 4000], [1]],
    [[6, 0], [1]],
  ];
  it.each(cases)("%j over %j", async (shape, axes) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const x = random(leaves, shape, dtype, 5);
      const count = axes.reduce((n, axis) => n * (shape[axis] ?? 1), 1);
      const sums = [b.sum(x, axes, "float32"), b.sum(x, axes, dtype), b.sum(b.mul(x, x), axes, "float32")];
      const exact =
        count === 0
          ? []
          : [b.max(x, axes), b.min(x, axes), b.node(ARG_MAX, [x], { axes }), b.node(ARG_MIN, [x], { axes })];
      const [cpu, reference] = await both(isa, [...sums, ...exact], leaves);
      sums.forEach((node, i) =>
        expectNear(
          cpu.outputs[i],
          reference.outputs[i],
          (e) => sumBound(count, count * 4, node.dtype, reference.outputs[i]?.[e] ?? 0),
          `${dtype} sum ${i}`,
        ),
      );
      exact.forEach((node, i) =>
        expectSame(cpu.outputs[sums.length + i], reference.outputs[sums.length + i], `${dtype} ${node.op.name}`),
      );
    }
  });
});

describe.each(ISAS)("products on %s", (isa) => {
  const sizes: readonly (readonly [number, number, number])[] = [
    [1, 1, 1],
    [1, 130, 5],
    [14, 32, 16],
    [15, 33, 17],
    [63, 65, 64],
    [7, 3, 129],
    [130, 1, 66],
  ];
  it.each(sizes)("%i × %i over %i: all layouts, formats and epilogues", async (m, n, k) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const [a, at] = [random(leaves, [m, k], dtype, 1), random(leaves, [k, m], dtype, 2)];
      const [w, wt] = [random(leaves, [k, n], dtype, 3), random(leaves, [n, k], dtype, 4)];
      const [master, bias] = [random(leaves, [k, n], "float32", 5), random(leaves, [n], "float32", 6)];
      const outputs = [
        b.matmul(a, w, "float32"),
        b.matmul(b.transpose(at), w, "float32"),
        b.matmul(a, b.transpose(wt)),
        b.matmul(b.transpose(at), b.transpose(wt)),
        b.matmul(a, b.cast(master, dtype), "float32"),
        b.cast(b.add(b.matmul(a, w, "float32"), bias), dtype),
      ];
      const [cpu, reference] = await both(isa, outputs, leaves);
      outputs.forEach((node, i) =>
        expectNear(
          cpu.outputs[i],
          reference.outputs[i],
          (e) => sumBound(k, k * 4 + 2, node.dtype, reference.outputs[i]?.[e] ?? 0),
          `${dtype} ${i}`,
        ),
      );
    }
  });

  it("batches, and batches that share an operand", async () => {
    const leaves: Leaves = new Map();
    const a = random(leaves, [2, 3, 17, 9], "bfloat16", 1);
    const w = random(leaves, [3, 9, 21], "bfloat16", 2);
    const outputs = [
      b.matmul(a, b.broadcastTo(w, [2, 3, 9, 21]), "float32"),
      b.matmul(b.permute(b.permute(a, [0, 2, 1, 3]), [0, 2, 1, 3]), b.broadcastTo(w, [2, 3, 9, 21])),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    outputs.forEach((node, i) =>
      expectNear(
        cpu.outputs[i],
        reference.outputs[i],
        (e) => sumBound(9, 36, node.dtype, reference.outputs[i]?.[e] ?? 0),
        `${i}`,
      ),
    );
  });
});

/** Errors at the scale of the largest element of the result, in ulps of float32, plus one rounding of a narrower result. */
function expectWithinRow(cpu: Outcome, reference: Outcome, outputs: readonly Node[]): void {
  outputs.forEach((node, i) => {
    const { op } = node;
    const want = reference.outputs[i] ?? new Float64Array();
    const scale = Math.max(...Array.from(want, Math.abs).filter(Number.isFinite), 2 ** -20);
    const ulps = op.kind === "composite" ? op.ulps : 4;
    const narrow = isFloat(node.dtype) && FORMATS[node.dtype].bits < 32;
    expectNear(
      cpu.outputs[i],
      want,
      (e) =>
        ulps * ulp(scale, "float32") +
        (narrow ? 2 * ulp(Math.abs(want[e] ?? 0), node.dtype) + ulp(scale, node.dtype) : 0),
      `${op.name} ${node.dtype}`,
    );
  });
}

describe.each(ISAS)("row kernels on %s", (isa) => {
  const shapes: readonly Shape[] = [[1, 1], [3, 17], [65, 129], [2, 3, 600], [9]];
  it.each(shapes.map((shape) => [shape] as const))("%j", async (shape) => {
    for (const dtype of ["float32", "bfloat16"] as const) {
      const leaves: Leaves = new Map();
      const [x, g] = [random(leaves, shape, dtype, 1, -6, 6), random(leaves, shape, dtype, 2)];
      const norm = { eps: 1e-5, center: true, saved: dtype };
      const normalized = b.composite("normalize", [x], norm);
      const outputs = [
        b.composite("softmax", [x]),
        b.composite("softmaxBackward", [g, b.composite("softmax", [x])]),
        b.composite("logSoftmax", [x]),
        b.composite("logSoftmaxBackward", [g, b.composite("logSoftmax", [x])]),
        b.composite("logSumExp", [x]),
        normalized,
        b.composite("normalize", [x], { ...norm, center: false }),
      ];
      const [cpu, reference] = await both(isa, outputs, leaves);
      expectWithinRow(cpu, reference, outputs);
    }
  });

  it("cross-entropy with ignored rows, and its gradient", async () => {
    const leaves: Leaves = new Map();
    const logits = random(leaves, [19, 33], "float32", 1, -9, 9);
    const labels = leaf(leaves, [19], "int32", [0, 32, 5, -100, 7]);
    const g = random(leaves, [19], "float32", 2);
    const outputs = [
      b.composite("crossEntropyRows", [logits, labels], { ignore: -100 }),
      b.composite("crossEntropyBackward", [g, logits, labels], { ignore: -100 }),
    ];
    const [cpu, reference] = await both(isa, outputs, leaves);
    expectWithinRow(cpu, reference, outputs);
  });
});

describe.each(ISAS)("attention on %s", (isa) => {
  const sizes: readonly (readonly [number, number, number, number, number, boolean])[] = [
    [1, 1, 1, 1, 1, true],
    [2, 5, 5, 3, 8, true],
    [1, 70, 70, 2, 16, true],
    [2, 9, 14, 1, 80, false],
    [1, 12, 7, 2, 4, true],
    [1, 130, 130, 1, 64, true],
  ];
  it.each(
    sizes,
  )("batch %i, queries %i, keys %i, heads %i, width %i, causal %s", async (batch, queries, keys, heads, width, causal) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const q = random(leaves, [batch, queries, heads, width], dtype, 1);
      const [k, v] = [
        random(leaves, [batch, keys, heads, width], dtype, 2),
        random(leaves, [batch, keys, heads, width], dtype, 3),
      ];
      const g = random(leaves, [batch, queries, heads, width], dtype, 4);
      const attributes = { scale: 1 / Math.sqrt(width), causal };
      const out = b.composite("attention", [q, k, v], attributes);
      const lse = b.composite("attentionLogSumExp", [q, k, v], attributes);
      const saved = [g, q, k, v, out, lse];
      const outputs = [
        out,
        lse,
        b.composite("attentionBackwardQ", saved, attributes),
        b.composite("attentionBackwardK", saved, attributes),
        b.composite("attentionBackwardV", saved, attributes),
      ];
      const [cpu, reference] = await both(isa, outputs, leaves);
      // Probabilities are rounded to 16 bits before or after their normalisation: a few ulps of the format at the scale of the result.
      outputs.forEach((node, i) => {
        const want = reference.outputs[i] ?? new Float64Array();
        const scale = Math.max(...Array.from(want, Math.abs).filter(Number.isFinite), 2 ** -10);
        const unit = dtype === "float32" || i === 1 ? 256 * ulp(scale, "float32") : 4 * ulp(scale, dtype);
        expectNear(cpu.outputs[i], want, () => unit, `${node.op.name} ${dtype}`);
      });
    }
  });
});

describe.each(ISAS)("tables on %s", (isa) => {
  it.each(["int32", "uint8"] as const)("gather and scatter-add by %s", async (indexDType) => {
    for (const dtype of HALF) {
      const leaves: Leaves = new Map();
      const table = random(leaves, [11, 37], dtype, 1);
      const indices = leaf(leaves, [4, 9], indexDType, [0, 10, 3, 3, 7]);
      const values = random(leaves, [4, 9, 37], dtype, 2);
      const gathered = b.gather(table, indices);
      const added = b.scatterAdd(values, indices, { axis: 0, rows: 11, dtype: "float32" });
      const columns = b.gather(table, leaf(leaves, [3], indexDType, [2, 9, 2]), 1);
      const [cpu, reference] = await both(isa, [gathered, columns, added], leaves);
      expectSame(cpu.outputs[0], reference.outputs[0], "gather");
      expectSame(cpu.outputs[1], reference.outputs[1], "gather of columns");
      expectNear(cpu.outputs[2], reference.outputs[2], () => sumBound(36, 72, "float32", 0), "scatterAdd");
    }
  });

  it("an index outside its table raises the reference's fault and changes nothing", async () => {
    const leaves: Leaves = new Map();
    const variable = random(leaves, [5], "float32", 1);
    const table = random(leaves, [11, 3], "float32", 2);
    const looked = b.gather(table, leaf(leaves, [6], "int32", [0, 10, 11, -1, 5, 99]));
    const request = new Map([[variable, b.add(variable, b.slice(b.reshape(b.sum(looked, [1]), [6]), [0], [5]))]]);
    const [cpu, reference] = await both(isa, [], leaves, request);
    expect(cpu.fault).toMatchObject({ position: 2, value: 11 });
    expect(reference.fault).toMatchObject({ position: 2, value: 11 });
    expectSame(cpu.variables.get(variable), leaves.get(variable), "the variable");
  });
});

describe.each(ISAS)("whole programs on %s", (isa) => {
  it("random graphs agree with the reference: shapes, faults, finiteness, and values within 16-bit rounding", async () => {
    await fc.assert(
      fc.asyncProperty(recipes, async (recipe) => {
        const { request, leaves } = buildRequest(recipe);
        const cpu = await run(request, leaves, backendOf(isa));
        const reference = await run(request, leaves);
        expect(cpu.fault).toEqual(reference.fault);
        const differing = cpu.outputs.flatMap((got, i) =>
          [...got].filter((v, e) => !closeOrRounded(v, reference.outputs[i]?.[e] ?? Number.NaN)),
        );
        const total = cpu.outputs.reduce((n, o) => n + o.length, 0);
        // Comparisons and steps may fall the other way for a few elements whose operands differ in the last place.
        expect(differing.length).toBeLessThanOrEqual(0.1 * total);
      }),
      { numRuns: 200, seed: 7 },
    );
  });

  it("gives the same bits for 1, 2, 3 and 8 threads", async () => {
    if (loaded.addon === null) return;
    const results: string[] = [];
    for (const threads of [1, 2, 3, 8]) {
      loaded.addon.setThreads(threads);
      const leaves: Leaves = new Map();
      const [x, w] = [random(leaves, [700, 96], "bfloat16", 1), random(leaves, [96, 200], "float32", 2)];
      const h = b.matmul(x, b.cast(w, "bfloat16"));
      const outputs = [
        h,
        b.sum(h, [0], "float32"),
        b.sum(h, [0, 1], "float32"),
        b.composite("softmax", [b.cast(h, "float32")]),
        b.matmul(b.transpose(x), h, "float32"),
      ];
      const { outputs: values } = await run({ outputs, assignments: new Map() }, leaves, backendOf(isa));
      results.push(values.map((v) => [...v].join()).join(";"));
    }
    loaded.addon.setThreads(2);
    expect(new Set(results).size).toBe(1);
  });
});

const closeOrRounded = (got: number, want: number): boolean =>
  Object.is(got, want) ||
  got === want ||
  Math.abs(got - want) <= 0.02 * Math.max(1, Math.abs(want)) ||
  (Number.isNaN(got) && Number.isNaN(want));
