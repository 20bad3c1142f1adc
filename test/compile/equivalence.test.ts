/** The compiler changes no bit: fused, unfused and uncompiled evaluation of random graphs agree, and programs keep their order. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import type { ReferenceOptions } from "../../src/backends/reference/backend.ts";
import { sourceOf } from "../../src/compile/inline.ts";
import type { Kernel, Program } from "../../src/compile/program.ts";
import type { Node } from "../../src/ir/graph.ts";
import { isContiguous } from "../../src/ops/shape.ts";
import { evaluateGraph } from "../support/evaluate.ts";
import { buildRequest, type RandomRequest, recipes } from "../support/random-graphs.ts";
import { type Outcome, run } from "../support/run.ts";

const CORES = new NullBackend().capabilities.cores;
const MODES: readonly (readonly [string, ReferenceOptions])[] = [
  ["unfused", { fuse: false }],
  ["fused", { fuse: true }],
  ["fused around whole composites", { fuse: true, cores: CORES }],
];

/** Elements with signs of zero and NaN made visible. */
const bits = (values: Float64Array): string => [...values].map((v) => (Object.is(v, -0) ? "-0" : String(v))).join();

function direct({ request, leaves }: RandomRequest): { outputs: string[]; variables: string[] } {
  const outputs = evaluateGraph(request.outputs, leaves).map(bits);
  return { outputs, variables: evaluateGraph([...request.assignments.values()], leaves).map(bits) };
}

const shown = ({ outputs, variables }: Outcome): { outputs: string[]; variables: string[] } => ({
  outputs: outputs.map(bits),
  variables: [...variables.values()].map(bits),
});

describe("equivalence", () => {
  it.each(MODES)("%s programs give the bits of the graph as written", async (_, options) => {
    await fc.assert(
      fc.asyncProperty(recipes, async (recipe) => {
        const random = buildRequest(recipe);
        expect(shown(await run(random.request, random.leaves, options))).toEqual(direct(random));
      }),
      { numRuns: 500, seed: 20 },
    );
  });
});

const bindingOf = (storage: { kind: string; index?: number }): number =>
  storage.kind === "binding" ? (storage.index ?? -1) : -1;

/** Positions of kernels that overwrite a variable. */
const committing = ({ kernels, bindings }: Program): number[] =>
  kernels.flatMap((k, i) =>
    k.writes.some((w) => bindings[bindingOf(w.operand.buffer.storage)]?.role === "input") ? [i] : [],
  );

const raises = ({ cores }: Kernel): boolean =>
  cores.some((n: Node) => n.op.kind === "index" || n.op.name.startsWith("crossEntropy"));

describe("order of random programs", () => {
  it.each(
    MODES,
  )("%s: variables are written last, after every fault, and in place only element for element", async (_, options) => {
    await fc.assert(
      fc.asyncProperty(recipes, async (recipe) => {
        const { request, leaves } = buildRequest(recipe);
        const { program } = await run(request, leaves, options);
        const commits = committing(program);
        expect(Math.min(program.kernels.length, ...commits)).toBeGreaterThanOrEqual(program.commitFrom);
        expect(commits.length).toBeGreaterThanOrEqual(request.assignments.size === 0 ? 0 : 1);
        expect(program.kernels.findLastIndex(raises)).toBeLessThan(Math.max(program.commitFrom, 1));
        for (const kernel of program.kernels) {
          checkInPlace(kernel);
          checkInside(kernel);
        }
        expect(new Set(program.outputs).size).toBe(program.outputs.length);
      }),
      { numRuns: 300, seed: 21 },
    );
  });
});

/** What a kernel computes and reads again stays element for element: it never leaves the registers. */
function checkInside({ nodes, reads }: Kernel): void {
  for (const node of nodes) {
    for (const input of node.inputs) {
      const { base, linear } = sourceOf(input);
      if (!reads.has(input) && base.op.kind !== "source")
        expect(linear, `${node.op.name} reads ${base.op.name} through a view`).toBe(true);
    }
  }
}

/** A buffer that a kernel both reads and writes is read where it is written. */
function checkInPlace(kernel: Kernel): void {
  const written = new Set(kernel.writes.map((w) => bindingOf(w.operand.buffer.storage)).filter((i) => i >= 0));
  for (const { buffer, view } of kernel.reads.values()) {
    if (!written.has(bindingOf(buffer.storage))) continue;
    expect(["pointwise", "contraction", "reduce", "magnitudes"]).toContain(kernel.kind);
    expect(isContiguous(view) && view.offset === 0, "reads what it overwrites through a view").toBe(true);
  }
}
