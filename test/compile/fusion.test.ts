/** What shares a kernel in a training step of a transformer block: a golden list, so that a change of fusion shows. */
import { beforeAll, describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import type { Kernel, Program, Request } from "../../src/compile/program.ts";
import { FORMATS } from "../../src/formats/index.ts";
import { tensor } from "../../src/tensor/create.ts";
import { useDevice } from "../../src/tensor/devices.ts";
import { gradients } from "../../src/tensor/gradients.ts";
import { block, type Model, mlp, residual } from "../support/models.ts";

beforeAll(() => {
  useDevice("reference");
});

/** One step of gradient descent. */
function step({ loss, parameters }: Model): Request {
  const grads = gradients(loss, parameters);
  const updates = [...grads].map(([v, g]) => [v.leaf, v.read().sub(g.mul(0.1)).node] as const);
  return { outputs: [loss.node], assignments: new Map(updates) };
}

const HIDDEN = new Set(["movement", "source"]);

function line({ kind, nodes, cores, writes }: Kernel, { bindings }: Program): string {
  const ops = nodes
    .filter((n) => !HIDDEN.has(n.op.kind) || cores.includes(n))
    .map((n) => (cores.includes(n) ? n.op.name.toUpperCase() : n.op.name));
  const stored = writes.map(({ node, operand: { buffer } }) => {
    const name =
      buffer.storage.kind === "binding"
        ? ` → ${String(bindings[buffer.storage.index]?.node.attributes.name ?? "output")}`
        : "";
    return `${FORMATS[node.dtype].short}[${node.shape.join(", ")}]${name}`;
  });
  return `${kind.padEnd(18)}${ops.join(" ")} : ${stored.join("; ")}`;
}

describe("fusion", () => {
  it.each([
    ["mlp", "bfloat16"],
    ["block", "bfloat16"],
    ["block", "float16"],
    ["block", false],
    ["residual", "bfloat16"],
    ["residual", false],
  ] as const)("of a step of %s in %s", async (name, dtype) => {
    const program = compileProgram(step({ mlp, block, residual }[name](dtype)), new NullBackend().capabilities);
    const lines = program.kernels.map(
      (kernel, i) => `${i === program.commitFrom ? "commit:\n" : ""}${line(kernel, program)}`,
    );
    await expect(`${lines.join("\n")}\n`).toMatchFileSnapshot(
      `../golden/kernels-${name}-${dtype === false ? "float32" : dtype}.txt`,
    );
  });

  it("writes clipped updates in place: nothing is copied into a variable", () => {
    const { loss, parameters } = block("bfloat16");
    const grads = gradients(loss, parameters);
    const norm = [...grads.values()]
      .map((g) => g.square().sum())
      .reduce((p, q) => p.add(q))
      .sqrt();
    const updates = [...grads].map(([v, g]) => [v.leaf, v.read().sub(g.div(norm)).node] as const);
    const program = compileProgram(
      { outputs: [norm.node], assignments: new Map(updates) },
      new NullBackend().capabilities,
    );
    const commits = program.kernels.slice(program.commitFrom);
    expect(commits.map((k) => [k.kind, k.nodes.some((n) => n.op.name === "copy")])).toEqual(
      parameters.map(() => ["pointwise", false]),
    );
    expect(program.arenaByteLength).toBeLessThan(16_384);
  });

  it("makes no circle through a kernel whose sums are older and younger than what it joins", () => {
    const [x, y] = [tensor(new Float32Array(64)), tensor(new Float32Array(4))];
    const older = x.sum().broadcastTo([4]).exp();
    const joined = y.exp();
    // One pass over x yields both sums: `older` waits for it, and it waits for `joined`.
    const younger = x.mul(joined.slice(0, 0, 1)).sum();
    const outputs = [younger, joined.add(older)].map(({ node }) => node);
    const { kernels } = compileProgram({ outputs, assignments: new Map() }, new NullBackend().capabilities);
    expect(kernels.map(({ kind, cores }) => `${kind} ${cores.length}`)).toEqual([
      "pointwise 0",
      "reduce 2",
      "pointwise 0",
    ]);
  });
});
