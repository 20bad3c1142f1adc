/** The taps of an axis as numbers, which kernels read, against the same taps as nodes, which define the rows. */
import { describe, expect, it } from "vitest";
import { build as b } from "../../src/ir/graph.ts";
import { type TapAxis, type TapKind, tapNodes, tapsInside, tapTable } from "../../src/ops/taps.ts";
import { valueOfGraph } from "../support/evaluate.ts";

const axis = (kind: TapKind, input: number, output: number, rest: Partial<TapAxis> = {}): TapAxis => ({
  ...{ kind, input, output, size: 0, stride: 0, padding: 0, dilation: 0, scale: 0, aligned: 0 },
  ...rest,
});
const sizes = [1, 2, 3, 5, 7, 12, 31, 64, 100];
const pairs = sizes.flatMap((input) => sizes.map((output) => [input, output] as const));
const windows = [
  axis("window", 9, 4, { size: 2, stride: 2, dilation: 1 }),
  axis("window", 9, 5, { size: 3, stride: 2, dilation: 1, padding: 1 }),
  axis("window", 11, 4, { size: 3, stride: 3, dilation: 2, padding: 2 }),
];
const factors = [0.3, 0.5, 1, 1.7, 2, 2.5, 3.3];
const resampled = factors.flatMap((factor) =>
  sizes.flatMap((input) => {
    const output = Math.max(1, Math.floor(input * factor));
    const aligned = output > 1 ? (input - 1) / (output - 1) : 0;
    return [
      axis("nearest", input, output, { scale: 1 / factor }),
      axis("linear", input, output, { scale: 1 / factor }),
      axis("linear", input, output, { scale: aligned, aligned: 1 }),
    ];
  }),
);

function expectAlike(given: TapAxis): void {
  const table = tapTable(given);
  const nodes = tapNodes(b, given, "float32");
  const values = (node: Parameters<typeof valueOfGraph>[0]): number[] => [...valueOfGraph(node, new Map())];
  const valid = nodes.valid === null ? null : values(nodes.valid);
  const positions = values(nodes.positions).map((p, i) => (valid?.[i] === 0 ? -1 : p));
  expect(nodes.count).toBe(table.count);
  expect(positions, JSON.stringify(given)).toEqual(table.positions);
  if (nodes.weights === null) expect(table.weights).toBe(null);
  else expect(values(nodes.weights), JSON.stringify(given)).toEqual(table.weights);
}

describe("taps as numbers and as nodes", () => {
  it("of windows", () => windows.forEach(expectAlike));
  it("of windows that divide an axis evenly", () => {
    for (const [input, output] of pairs) {
      const given = axis("adaptive", input, output);
      expectAlike(given);
      expect(Math.min(...tapsInside(given))).toBeGreaterThan(0);
    }
  });
  it("of nearest and linear neighbours", () => resampled.forEach(expectAlike));
});
