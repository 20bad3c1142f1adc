/** Structural keys: equal for isomorphic requests, different for all others. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { structureOf } from "../../src/compile/cache.ts";
import type { Request } from "../../src/compile/program.ts";
import type { DType } from "../../src/formats/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";

const leaf = (shape: readonly number[] = [2], dtype: DType = "float32"): Node => createInput(shape, dtype);
const keyOf = (outputs: readonly Node[], assignments: Request["assignments"] = new Map()): string =>
  structureOf({ outputs, assignments }).key;

describe("structureOf", () => {
  it("gives isomorphic requests one key and leaves in matching positions", () => {
    fc.assert(
      fc.property(recipes, (recipe) => {
        const [p, q] = [buildRequest(recipe), buildRequest(recipe)];
        const [s, t] = [structureOf(p.request), structureOf(q.request)];
        expect(s.key).toBe(t.key);
        const position = ({ leaves }: typeof p, node: Node): number => [...leaves.keys()].indexOf(node);
        expect(s.leaves.map((n) => position(p, n))).toEqual(t.leaves.map((n) => position(q, n)));
      }),
      { numRuns: 200, seed: 3 },
    );
  });

  it("does not depend on the order in which nodes were made", () => {
    const make = (flip: boolean): string => {
      const [first, second] = [leaf(), leaf()];
      const [x, y] = flip ? [second, first] : [first, second];
      const parts = flip ? [b.exp(y), b.neg(x)].reverse() : [b.neg(x), b.exp(y)];
      return keyOf([b.add(parts[0] ?? x, parts[1] ?? y)]);
    };
    expect(make(true)).toBe(make(false));
  });

  it("tells different requests apart", () => {
    const [x, y, half, wide] = [leaf(), leaf(), leaf([2], "float16"), leaf([3])];
    const matrix = leaf([2, 2]);
    const keys = [
      keyOf([x]),
      keyOf([x, y], new Map([[x, b.exp(x)]])),
      keyOf([x, y], new Map([[y, b.exp(x)]])),
      keyOf([half]),
      keyOf([wide]),
      keyOf([x, x]),
      keyOf([x, y]),
      keyOf([b.exp(x)]),
      keyOf([b.neg(x)]),
      keyOf([b.exp(x), x]),
      keyOf([x, b.exp(x)]),
      keyOf([b.add(x, y)]),
      keyOf([b.add(x, x)]),
      keyOf([b.sub(x, y)]),
      keyOf([b.add(x, y), y]),
      keyOf([b.add(x, 1)]),
      keyOf([b.add(x, 2)]),
      keyOf([b.add(x, -0)]),
      keyOf([b.add(x, 0)]),
      keyOf([b.sum(matrix, [0])]),
      keyOf([b.sum(matrix, [1])]),
      keyOf([], new Map([[x, b.exp(x)]])),
      keyOf([], new Map([[y, b.exp(x)]])),
      keyOf([b.exp(x)], new Map([[x, b.exp(x)]])),
      keyOf(
        [],
        new Map([
          [x, y],
          [y, x],
        ]),
      ),
      keyOf(
        [],
        new Map([
          [x, x],
          [y, y],
        ]),
      ),
      keyOf([], new Map([[x, y]])),
      keyOf([x], new Map([[x, y]])),
      keyOf([y], new Map([[x, y]])),
    ];
    expect(new Set(keys).size).toBe(keys.length);
  });

  it("lists every leaf once, assigned ones included", () => {
    const [x, y] = [leaf(), leaf()];
    expect(structureOf({ outputs: [b.add(y, y)], assignments: new Map([[x, b.exp(y)]]) }).leaves).toEqual([y, x]);
  });
});
