/** What else a program returns changes no bit of a result, however values are fused then. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { openCpu } from "../../src/backends/cpu/backend.ts";
import { compile, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";
import { run } from "../support/run.ts";

const SHAPES = [
  [4, 300, 70],
  [64, 33, 17],
  [3, 5000, 3],
  [2000, 3, 5],
  [1, 40000, 2],
  [700, 1, 9],
] as const;
const AXES = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]];
const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const waves = (shape: readonly number[], frequency: number): Tensor =>
  tensor(
    Float32Array.from({ length: sizeOf(shape) }, (_, i) => Math.sin(i * frequency)),
    { shape },
  );

describe.runIf(DEVICES.includes("cpu")).each(SHAPES)("sums of [%d, %d, %d]", (...shape) => {
  beforeAll(() => {
    useDevice("cpu");
  });
  const operands = {
    "along the last axis": [shape[2]],
    "along the middle": [shape[1], 1],
    "along the first": [shape[0], 1, 1],
  };

  it.each(Object.entries(operands))("times an operand %s", async (_, other) => {
    for (const axes of AXES) {
      const product = (x: Tensor, y: Tensor): Tensor => x.mul(y).tanh();
      const alone = compile((x: Tensor, y: Tensor) => product(x, y).sum({ axes }));
      const among = compile((x: Tensor, y: Tensor) => {
        const p = product(x, y);
        return { sums: [0, 1, 2].map((axis) => p.sum({ axes: axis })), rows: p.softmax(), wanted: p.sum({ axes }) };
      });
      const [x, y] = [waves(shape, 12.9898), waves(other, 3.7)];
      const [expected, { wanted }] = [await alone(x, y), await among(x, y)];
      expect(Buffer.compare(await wanted.bytes(), await expected.bytes()), `axes ${axes.join()}`).toBe(0);
    }
  });
});

describe.runIf(DEVICES.includes("cpu"))("random graphs", () => {
  it("yield an output's bits whether it is returned alone or with all others", async () => {
    const cpu = openCpu({});
    if (!("backend" in cpu)) throw new Error(cpu.reason);
    const { backend } = cpu;
    await fc.assert(
      fc.asyncProperty(recipes, async (recipe) => {
        const { request, leaves } = buildRequest(recipe);
        const together = await run(request, leaves, backend);
        for (const [i, output] of request.outputs.entries()) {
          const alone = await run({ outputs: [output], assignments: new Map() }, leaves, backend);
          if (together.fault === null) expect(alone.outputs[0]).toEqual(together.outputs[i]);
        }
      }),
      { numRuns: 250, seed: 11 },
    );
  });
});
