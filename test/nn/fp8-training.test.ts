/** What a run loses by 8 bits: the losses that docs/mixed-precision.md states, computed anew. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  type Fp8RecipeOptions,
  gradients,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { page, section, tableRows } from "../docs/markdown.ts";
import { DEVICES } from "../support/devices.ts";
import { uniforms } from "../support/random.ts";
import { stripes } from "../support/stripes.ts";

const [vocabulary, context, batch] = [32, 16, 8] as const;

/** Sequences that go up by 1 to 5 each time. */
function sequences(step: number): readonly [Tensor, Tensor] {
  const draws = uniforms(step, 2 * batch, 0, 1);
  const value = (i: number): number => {
    const row = Math.floor(i / (context + 1));
    const [first, difference] = [
      Math.floor((draws[row] ?? 0) * vocabulary),
      1 + Math.floor((draws[batch + row] ?? 0) * 5),
    ];
    return (first + difference * (i % (context + 1))) % vocabulary;
  };
  const at = (offset: number): Tensor =>
    tensor(
      Int32Array.from({ length: batch * context }, (_, i) =>
        value(Math.floor(i / context) * (context + 1) + (i % context) + offset),
      ),
      { shape: [batch, context] },
    );
  return [at(0), at(1)];
}

interface Problem {
  readonly model: () => nn.GPT | nn.ResNet;
  /** Layers that stay in the region's dtype. */
  readonly except: readonly string[];
  readonly learningRate: number;
  readonly batch: (step: number) => readonly [Tensor, Tensor];
  /** The heading over the table of losses, and how far a measured one may be from it. */
  readonly heading: string;
  readonly tolerance: number;
}

const PROBLEMS: Readonly<Record<string, Problem>> = {
  "a small GPT": {
    model: () => new nn.GPT({ vocabulary, context, layers: 2, heads: 2, width: 32, seed: 1 }),
    except: ["head"],
    learningRate: 5e-3,
    batch: sequences,
    heading: "What a small GPT loses",
    // Sums in another order, on another instruction set, move it in the third decimal.
    tolerance: 0.02,
  },
  "a small ResNet": {
    model: () => new nn.ResNet({ depth: 8, classes: 4, seed: 1 }),
    except: ["stem", "head"],
    learningRate: 3e-3,
    batch: (step) => stripes(step, 1),
    heading: "What a small ResNet loses",
    tolerance: 0.005,
  },
};

const STEPS = 60;
const RUNS: Readonly<Record<string, readonly [Fp8RecipeOptions | null, "bfloat16" | false]>> = {
  "float32, no autocast": [null, false],
  bf16: [null, "bfloat16"],
  "8 bits, `current`": [{ scaling: "current" }, "bfloat16"],
  "8 bits, `delayed`": [{ scaling: "delayed" }, "bfloat16"],
  "8 bits, `block`": [{ scaling: "block" }, "bfloat16"],
};

/** The mean loss of the last ten steps. */
async function lossAfter(problem: Problem, [recipe, half]: (typeof RUNS)[string]): Promise<number> {
  const model = problem.model();
  if (recipe !== null) nn.fp8(model, recipe, { except: problem.except });
  const optimizer = new optim.AdamW(model, { lr: problem.learningRate });
  const step = compile((x: Tensor, y: Tensor) => {
    const loss = autocast(half, () => crossEntropy(model.forward(x), y));
    optimizer.apply(gradients(loss, model));
    return loss;
  });
  let last = 0;
  for (let i = 1; i <= STEPS; i++) {
    const loss = await (await step(...problem.batch(i))).item();
    if (i > STEPS - 10) last += loss / 10;
  }
  return last;
}

describe.runIf(DEVICES.includes("cpu"))("in 8 bits", () => {
  beforeAll(() => {
    useDevice("cpu");
  });

  it.each(Object.entries(PROBLEMS))(
    "%s trains in every recipe, to the losses that docs/mixed-precision.md states",
    async (_, problem) => {
      const stated = tableRows(section(page("docs/mixed-precision.md"), problem.heading));
      expect(stated.map(([name]) => name)).toEqual(Object.keys(RUNS));
      const losses = new Set<number>();
      for (const [name = "", loss] of stated) {
        const measured = await lossAfter(problem, RUNS[name] as (typeof RUNS)[string]);
        losses.add(measured);
        expect(Math.abs(measured - Number(loss)), `${name}: ${measured}`).toBeLessThan(problem.tolerance);
      }
      expect(losses.size).toBe(stated.length);
    },
    120_000,
  );
});
