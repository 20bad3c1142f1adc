/** Rewrites: each fires where it should, changes no bit, and stays away where it would. */
import { describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { decompose, simplify } from "../../src/compile/simplify.ts";
import { type DType, FORMATS, round } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { topological } from "../../src/ir/walk.ts";
import { sizeOf } from "../../src/ops/shape.ts";
import { evaluateGraph } from "../support/evaluate.ts";
import { uniforms } from "../support/random.ts";

const leaf = (shape: readonly number[], dtype: DType = "float32"): Node => createInput(shape, dtype);
const x = leaf([3, 4]);
const h = leaf([3, 4], "bfloat16");
const row = leaf([1, 4]);

const simplified = (node: Node): Node => simplify({ outputs: [node], assignments: new Map() }).outputs[0] ?? node;

const AWKWARD = [0, -0, Number.NaN, Infinity, -Infinity, 1e-40, -3.3e38, 65519, 65520, 1 + 2 ** -9, -1e-8, 0.1];

/** Bits of a graph over awkward and over ordinary values. */
function bits(node: Node): string[] {
  const inputs = topological([node]).filter((n) => n.op.name === "input");
  return [AWKWARD, [...uniforms(5, 12)]].map((numbers) => {
    const at = new Map(
      inputs.map(
        (n) =>
          [n, Float64Array.from({ length: sizeOf(n.shape) }, (_, i) => round(numbers[i % 12] ?? 0, n.dtype))] as const,
      ),
    );
    return [...(evaluateGraph([node], at)[0] ?? [])].map((v) => (Object.is(v, -0) ? "-0" : String(v))).join();
  });
}

const FLOATS = ["float64", "float32", "float16", "bfloat16"] as const;

describe("casts", () => {
  for (const from of FLOATS) {
    for (const via of FLOATS) {
      for (const to of FLOATS) {
        const lossless =
          FORMATS[via].mantissaBits >= FORMATS[from].mantissaBits && FORMATS[via].maxFinite >= FORMATS[from].maxFinite;
        it(`${from} → ${via} → ${to} ${lossless ? "skips" : "keeps"} the middle`, () => {
          const node = b.cast(b.cast(leaf([12], from), via), to);
          const result = simplified(node);
          expect(bits(result)).toEqual(bits(node));
          if (lossless) expect(topological([result]).filter((n) => n.op.name === "cast").length).toBeLessThanOrEqual(1);
        });
      }
    }
  }

  it("to integers and back stay", () => {
    const node = b.cast(b.cast(x, "int32"), "float32");
    expect(simplified(node)).toBe(node);
    const narrow = b.cast(b.cast(leaf([3], "int32"), "bfloat16"), "float32");
    expect(simplified(narrow)).toBe(narrow);
  });
});

const CASES: readonly (readonly [string, Node, Node])[] = [
  ["reshape of reshape", b.reshape(b.reshape(x, [12]), [2, 6]), b.reshape(x, [2, 6])],
  ["reshape back", b.reshape(b.reshape(x, [12]), [3, 4]), x],
  ["broadcast of broadcast", b.broadcastTo(b.broadcastTo(row, [3, 4]), [2, 3, 4]), b.broadcastTo(row, [2, 3, 4])],
  ["movement of a literal", b.transpose(b.constant(2, [3, 4])), b.constant(2, [4, 3])],
  ["a view of a widened leaf", b.transpose(b.cast(h, "float32")), b.cast(b.transpose(h), "float32")],
  ["times one", b.mul(x, 1), x],
  ["one times", b.mul(1, x), x],
  ["over one", b.div(x, 1), x],
  ["16 bits times one", b.mul(h, 1), h],
];
describe("rewrites", () => {
  it.each(CASES)("%s", (_, node, expected) => {
    expect(simplified(node)).toBe(expected);
    expect(bits(expected)).toEqual(bits(node));
  });

  const KEPT: readonly (readonly [string, Node])[] = [
    ["plus zero", b.add(x, 0)],
    ["minus one", b.sub(x, 1)],
    ["to the power one", b.pow(x, 1)],
    ["maximum with one", b.maximum(x, 1)],
    ["one over", b.div(1, x)],
    ["times minus one", b.mul(x, -1)],
    ["a slice of a slice", b.slice(b.slice(x, [1, 0], [2, 4]), [0, 1], [2, 3])],
    [
      "a permutation that is no transpose, of a product",
      b.permute(b.matmul(leaf([2, 3, 3]), leaf([2, 3, 3])), [1, 0, 2]),
    ],
    ["two permutations", b.permute(b.permute(leaf([2, 3, 4]), [1, 2, 0]), [1, 2, 0])],
    ["a widened product times one", b.mul(b.cast(h, "float32"), 1)],
  ];
  it.each(KEPT)("keep the bits of %s", (_, node) => {
    expect(bits(simplified(node))).toEqual(bits(node));
  });

  it("a transposed product as the product of transposes, sums in the same order", () => {
    const node = b.transpose(b.matmul(x, leaf([4, 2])));
    expect(simplified(node).op.kind).toBe("contraction");
    expect(bits(simplified(node))).toEqual(bits(node));
  });

  it("keep variables as they are and rewrite what is assigned to them", () => {
    const request = simplify({
      outputs: [b.mul(x, 1)],
      assignments: new Map([[x, b.reshape(b.reshape(h, [12]), [3, 4])]]),
    });
    expect(request.outputs).toEqual([x]);
    expect([...request.assignments]).toEqual([[x, h]]);
  });
});

describe("decompose", () => {
  const every = new NullBackend().capabilities;
  const loss = b.composite("crossEntropyRows", [leaf([2, 3]), leaf([2], "int32")], { ignore: -100 });
  const count = (capabilities: typeof every, node: Node): number =>
    topological(decompose({ outputs: [node], assignments: new Map() }, capabilities).outputs).filter(
      (n) => n.op.kind === "composite",
    ).length;

  it("keeps what the backend claims and replaces the rest, nested composites included", () => {
    expect(count(every, loss)).toBe(1);
    expect(count({ ...every, cores: new Set() }, loss)).toBe(0);
    expect(count({ ...every, cores: new Set(["row:logSoftmax"]) }, loss)).toBe(1);
  });

  it("replaces every composite in float64: native cores have none", () => {
    expect(count(every, b.composite("softmax", [leaf([2, 3], "float64")]))).toBe(0);
  });
});
