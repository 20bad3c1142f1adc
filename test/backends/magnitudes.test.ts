/** Counts of magnitudes as part of graphs: the reference against counting by hand, the native kernel against the reference. */
import { describe, expect, it } from "vitest";
import { decode } from "../../src/formats/index.ts";
import { build as b, type Node } from "../../src/ir/graph.ts";
import { sizeOf } from "../../src/ops/shape.ts";
import {
  backendOf,
  both,
  expectSame,
  expectSameForThreads,
  HALF,
  ISAS,
  type Leaves,
  leaf,
  random,
} from "../support/differential.ts";
import { countByHand } from "../support/magnitudes.ts";
import { run } from "../support/run.ts";

const counts = (x: Node): Node => b.magnitudeCounts(b.cast(x, "float32"));

describe("counts of magnitudes on the reference", () => {
  it.each(["float16", "bfloat16"] as const)("are those of every %s", async (dtype) => {
    const values = Array.from({ length: 2 ** 16 }, (_, bits) => decode(bits, dtype));
    const leaves: Leaves = new Map();
    const node = counts(leaf(leaves, [values.length], dtype, values));
    expectSame((await run({ outputs: [node], assignments: new Map() }, leaves)).outputs[0], countByHand(values), dtype);
  });

  it("are those of float32 of every exponent, and at the borders of float16", async () => {
    const powers = Array.from({ length: 277 }, (_, i) => 2 ** (i - 149)).filter((x) => Number.isFinite(Math.fround(x)));
    const values = [0, -0, Infinity, -Infinity, NaN, 65504, 65504.004, -65504.004, 65535.996].concat(
      powers.flatMap((x) => [x, -x, 1.5 * x, (2 - 2 ** -23) * x]).map(Math.fround),
    );
    const leaves: Leaves = new Map();
    const node = counts(leaf(leaves, [values.length], "float32", values));
    const { outputs } = await run({ outputs: [node], assignments: new Map() }, leaves);
    expectSame(outputs[0], countByHand(values.map(Math.fround)), "float32");
  });
});

/** From a node of shape [6, 7, 30]: what is counted. */
const OPERANDS: Readonly<Record<string, (x: Node) => Node>> = {
  "as it is": (x) => x,
  transposed: (x) => b.transpose(x),
  "a slice": (x) => b.slice(x, [1, 2, 3], [4, 3, 9]),
  "a slice reshaped": (x) => b.reshape(b.slice(x, [1, 0, 0], [4, 7, 30]), [28, 30]),
  repeated: (x) => b.broadcastTo(b.reshape(x, [6, 7, 1, 30]), [6, 7, 5, 30]),
  "an expression": (x) => b.mul(b.exp(x), 3000),
  "what another reader stores": (x) => b.mul(b.sum(x, [1]), 2 ** -16),
  "random numbers": (x) => b.where(b.greater(b.random(b.cast(b.iota(4), "uint32"), x.shape, 3), 0.5), x, 0),
  "one number": (x) => b.constant(-0.75, x.shape),
  "a scalar": (x) => b.reshape(b.slice(x, [2, 3, 4], [1, 1, 1]), []),
  nothing: (x) => b.slice(x, [0, 0, 0], [6, 0, 30]),
};

describe.each(ISAS)("counts of magnitudes on %s", (isa) => {
  for (const [name, operand] of Object.entries(OPERANDS)) {
    it(`of ${name} are those of the reference, in every dtype`, async () => {
      for (const dtype of HALF) {
        const leaves: Leaves = new Map();
        const x = operand(random(leaves, [6, 7, 30], dtype, 3));
        const [cpu, reference] = await both(isa, [counts(x), b.neg(x)], leaves);
        expectSame(cpu.outputs[0], reference.outputs[0], dtype);
        expect(cpu.outputs[0]?.slice(0, 256).reduce((sum, n) => sum + n, 0)).toBe(sizeOf(x.shape));
      }
    });
  }

  it("take casts and expressions upon themselves: one kernel, no memory", async () => {
    const leaves: Leaves = new Map();
    const x = random(leaves, [40, 50], "bfloat16", 4);
    const node = counts(b.mul(b.cast(b.exp(x), "float32"), 0.1));
    const { program } = await run({ outputs: [node], assignments: new Map() }, leaves, backendOf(isa));
    expect(program.kernels.map(({ kind }) => kind)).toEqual(["magnitudes"]);
    expect(program.arenaByteLength).toBe(0);
  });

  it("of a new value overwrite the variable that it is made of", async () => {
    const leaves: Leaves = new Map();
    const [w, g] = [random(leaves, [123, 457], "float32", 5), random(leaves, [123, 457], "float32", 6)];
    const value = b.sub(w, b.mul(g, 0.1));
    const [cpu, reference] = await both(isa, [counts(value)], leaves, new Map([[w, value]]));
    expect(cpu.program.kernels.flatMap(({ nodes }) => nodes).filter(({ op }) => op.name === "copy")).toEqual([]);
    expectSame(cpu.outputs[0], reference.outputs[0], "counts");
    expectSame(cpu.variables.get(w), reference.variables.get(w), "variable");
  });
});

describe.skipIf(ISAS.length === 0)("counts of magnitudes", () => {
  it("are the same for any number of threads", async () => {
    const leaves: Leaves = new Map();
    const x = random(leaves, [300, 301], "float32", 7);
    await expectSameForThreads([counts(x), counts(b.exp(b.mul(x, 40)))], leaves);
  });
});
