/** Memory plans: categories that add up to what is allocated, the goals of the GPT, and nothing kept twice. */

import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import { ARENA_CATEGORIES, type MemoryPlan, memoryPlan, RESIDENT_CATEGORIES } from "../../src/compile/plan.ts";
import type { Program } from "../../src/compile/program.ts";
import { byteSize } from "../../src/formats/index.ts";
import {
  autocast,
  clipByGlobalNorm,
  compile,
  crossEntropy,
  formatMemoryPlan,
  GradScaler,
  gradients,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
  zeros,
} from "../../src/index.ts";
import { build as b, createInput, type Node } from "../../src/ir/graph.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";

type Compute = "bfloat16" | "float16" | false;

function makeStep(size: nn.GPTOptions, dtype: Compute, memoryBudget?: number) {
  const model = new nn.GPT(size);
  const optimizer = new optim.AdamW(model, { lr: optim.constant(1e-3) });
  const scaler = new GradScaler({ enabled: dtype === "float16" });
  const step = compile(
    (tokens: Tensor, targets: Tensor) => {
      const loss = autocast(dtype, () => crossEntropy(model.forward(tokens), targets));
      const grads = scaler.unscale(gradients(scaler.scale(loss), model), optimizer);
      scaler.step(optimizer, clipByGlobalNorm(grads, 1), { checkGradients: false });
      scaler.update();
      return loss;
    },
    memoryBudget === undefined ? {} : { memoryBudget },
  );
  return { model, step };
}

const SMALL = { vocabulary: 32, context: 32, layers: 4, heads: 2, width: 32 };
const tokens = (batch: number, { context }: nn.GPTOptions): Tensor => zeros([batch, context], "int32");
const planOf = (size: nn.GPTOptions, batch: number, dtype: Compute, budget?: number): MemoryPlan => {
  const { step } = makeStep(size, dtype, budget);
  return step.plan(tokens(batch, size), tokens(batch, size));
};
const sum = (bytes: Readonly<Record<string, number>>): number => Object.values(bytes).reduce((a, b) => a + b, 0);

beforeAll(() => {
  useDevice("null");
});

describe("a plan", () => {
  it.each([
    false,
    "bfloat16",
    "float16",
  ] as const)("knows parameters, state, gradients and activations (%s)", (dtype) => {
    const { step, model } = makeStep(SMALL, dtype);
    const { resident, arena } = step.plan(tokens(4, SMALL), tokens(4, SMALL));
    const elements = model.parameterCount;
    expect(resident).toMatchObject({ parameters: 4 * elements, masters: 0, optimizerState: 8 * elements + 4 });
    expect(resident).toMatchObject({ inputs: 2 * 4 * 4 * 32, outputs: 4 });
    // Every gradient waits for the decision on all of them, in float32; once, but for an embedding's while it is unscaled.
    expect(arena.most.gradients).toBeGreaterThanOrEqual(4 * elements);
    expect(arena.most.gradients).toBeLessThan(4 * elements + 8192);
    // Per token and layer: qkv, attention, two norms with and without scale, the operand of GELU; no GELU.
    const [tokensPerStep, width] = [4 * 32, SMALL.width];
    const values = SMALL.layers * (3 + 1 + 4 + 4) * width * tokensPerStep;
    expect(arena.most.activations / ((dtype === false ? 4 : 2) * values)).toBeGreaterThan(1);
    expect(arena.most.activations / ((dtype === false ? 4 : 2) * values)).toBeLessThan(1.3);
  });

  it("knows a gradient that is transformed after a product has updated its own variable", () => {
    const [u, v, x, g] = [0, 1, 2, 3].map(() => createInput([64, 64], "float32")) as [Node, Node, Node, Node];
    const first = b.matmul(b.transpose(x), g);
    const second = b.matmul(b.transpose(x), b.matmul(g, b.transpose(u)));
    const transformed = b.exp(second);
    const norm = b.broadcastTo(b.sum(b.mul(transformed, transformed), [0, 1]), [64, 64]);
    const assignments = new Map([
      [u, b.sub(u, first)],
      [v, b.sub(v, b.mul(transformed, norm))],
    ]);
    const request = { outputs: [], assignments, gradients: [first, second] };
    const program = compileProgram(request, new NullBackend().capabilities);
    const position = program.kernels.findIndex(({ nodes }) => nodes.includes(transformed));
    expect(position).toBeGreaterThanOrEqual(program.commitFrom);
    expect(memoryPlan(program, () => "parameters").arena.most.gradients).toBe(4 * 64 * 64);
  });

  it("counts masters of 16-bit parameters apart", () => {
    const weight = new Variable("w", [64, 64], "bfloat16");
    const optimizer = new optim.AdamW([weight], { lr: optim.constant(1e-3) });
    const step = compile((x: Tensor) => {
      const loss = x.matmul(weight.read()).square().mean();
      optimizer.apply(gradients(loss, [weight]));
      return loss;
    });
    const { resident } = step.plan(zeros([8, 64], "bfloat16"));
    expect(resident).toMatchObject({ parameters: 2 * 4096, masters: 4 * 4096, optimizerState: 8 * 4096 + 4 });
  });

  it("allocates nothing, and a step allocates what it says", async () => {
    const device = useDevice("reference");
    const before = device.live.byteLength;
    const size = { vocabulary: 8, context: 4, layers: 1, heads: 1, width: 8 };
    const { step } = makeStep(size, "bfloat16");
    const { resident } = step.plan(tokens(2, size), tokens(2, size));
    expect(device.live.byteLength - before).toBe(0);
    const [x, y] = [new Int32Array(8), new Int32Array(8)].map((values) => tensor(values, { shape: [2, 4] })) as [
      Tensor,
      Tensor,
    ];
    const loss = await step(x, y);
    expect(device.live.byteLength - before).toBe(sum(resident));
    loss.dispose();
    useDevice("null");
  });

  it("keeps weights and moments once: no copy of them waits to be committed", () => {
    for (const dtype of [false, "bfloat16", "float16"] as const) {
      const device = useDevice("null");
      const recorded = (device.backend as NullBackend).programs;
      planOf(SMALL, 2, dtype);
      const program = recorded.at(-1) as Program;
      const commits = program.kernels.slice(program.commitFrom);
      const copied = commits.filter(({ nodes }) => nodes.some(({ op }) => op.name === "copy"));
      expect(Math.max(0, ...copied.map(({ domain }) => domain.reduce((a, b) => a * b, 1)))).toBeLessThanOrEqual(1);
      const alive = program.allocations.filter(({ to }) => to >= program.commitFrom);
      expect(alive.filter(({ byteLength }) => byteLength > 4).map(({ node }) => node.op.name)).not.toContain("where");
    }
  });

  it("adds up, for every program: parts at the peak to the arena, and all bindings to the whole", () => {
    fc.assert(
      fc.property(recipes, (recipe) => {
        const program = compileProgram(buildRequest(recipe).request, new NullBackend().capabilities);
        const plan = memoryPlan(program, () => "inputs");
        const bindings = program.bindings.reduce((s, { buffer: b }) => s + b.elements * byteSize(b.dtype), 0);
        const { arena } = plan;
        expect(plan.byteLength).toBe(program.arenaByteLength + bindings);
        expect(sum(arena.peak.alive) + arena.peak.unused).toBe(arena.byteLength);
        expect(arena.peak.unused).toBeGreaterThanOrEqual(0);
        expect(sum(arena.peak.alive)).toBe(arena.peak.values.reduce((s, v) => s + v.byteLength, 0));
        for (const c of ARENA_CATEGORIES) expect(arena.most[c]).toBeGreaterThanOrEqual(arena.peak.alive[c]);
        expect(Object.keys(plan.resident)).toEqual([...RESIDENT_CATEGORIES]);
      }),
      { numRuns: 100, seed: 4 },
    );
  });

  it("is printed as a table", () => {
    const text = formatMemoryPlan(planOf(SMALL, 2, "bfloat16"));
    expect(text).toMatch(/^memory plan +most +at peak\nparameters +\d/);
    for (const word of [
      "optimizer state",
      "activations",
      "gradients",
      "16-bit casts",
      "gaps",
      "whole",
      "peak at kernel",
    ])
      expect(text).toContain(word);
  });
});

/** The model of docs/memory.md. */
const M = { vocabulary: 256, context: 256, layers: 6, heads: 6, width: 384 };

describe("the plan of GPT m at batch 8", () => {
  it.each([
    ["bfloat16", 150e6, 360e6],
    ["float16", 150e6, 360e6],
    [false, 290e6, 470e6],
  ] as const)("stays within its goals (%s)", (dtype, activations, whole) => {
    const { byteLength, arena } = planOf(M, 8, dtype);
    expect(arena.most.activations).toBeLessThan(activations);
    expect(byteLength).toBeLessThan(whole);
  });
});

describe("a memory budget", () => {
  const BATCH = 16;

  it("recomputes nothing where the step fits, and no more blocks than it takes where it does not", () => {
    const free = planOf(SMALL, BATCH, "bfloat16");
    expect(planOf(SMALL, BATCH, "bfloat16", free.byteLength)).toEqual(free);
    const one = planOf({ ...SMALL, checkpointBlocks: [0] }, BATCH, "bfloat16");
    const two = planOf({ ...SMALL, checkpointBlocks: [0, 1] }, BATCH, "bfloat16");
    expect(two.byteLength).toBeLessThan(one.byteLength);
    expect(planOf(SMALL, BATCH, "bfloat16", one.byteLength)).toEqual(one);
    expect(planOf(SMALL, BATCH, "bfloat16", one.byteLength - 1).byteLength).toBe(two.byteLength);
  });

  it("that is too small names the least possible", () => {
    const least = planOf({ ...SMALL, checkpointBlocks: "all" }, BATCH, "bfloat16").byteLength;
    const attempt = (): unknown => planOf(SMALL, BATCH, "bfloat16", 1000);
    expect(attempt).toThrow(new RegExp(`memoryBudget is 1000 bytes, and the least possible is ${least}`));
    expect(() => planOf(SMALL, BATCH, "bfloat16", 0.5)).toThrow(/memoryBudget/);
  });
});
