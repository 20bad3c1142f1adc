/** The native backend against the reference, for every instruction set of this machine: bit for bit where arithmetic is exact. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type DType, ulp } from "../../src/formats/index.ts";
import { build as b, createNode, type Node } from "../../src/ir/graph.ts";
import type { Op } from "../../src/ops/define.ts";
import { ELEMENTWISE } from "../../src/ops/elementwise.ts";
import type { Expr, Fn } from "../../src/ops/expr.ts";
import { type Shape, sizeOf } from "../../src/ops/shape.ts";
import {
  backendOf,
  both,
  expectNear,
  expectSame,
  HALF,
  ISAS,
  type Leaves,
  leaf,
  loaded,
  random,
} from "../support/differential.ts";
import { uniforms } from "../support/random.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";
import { run } from "../support/run.ts";

it("the native addon is built", ({ skip }) => {
  skip(loaded.addon === null, "no native addon; run npm run build:native");
  expect(ISAS.length).toBeGreaterThan(0);
});

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
        // 2 %: a few roundings to bfloat16 (2⁻⁸ each) that fall on the other side of a tie.
        expect(differing.length).toBe(0);
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
