/** Gradient checkpointing: what is computed anew has the same bits, takes less memory, and is not found in forward again. */
import { beforeAll, describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import type { Program } from "../../src/compile/program.ts";
import {
  autocast,
  checkpoint,
  clipByGlobalNorm,
  compile,
  crossEntropy,
  GradScaler,
  gradients,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

const SIZE = { vocabulary: 11, layers: 2, heads: 2, width: 8, dropout: 0.2 };
type Blocks = NonNullable<nn.GPTOptions["checkpointBlocks"]>;

/** Two steps: losses, the first step's gradients, and the parameters at the end. */
async function train(dtype: "bfloat16" | "float16" | false, context: number, checkpointBlocks: Blocks) {
  const model = new nn.GPT({ ...SIZE, context, seed: 3, checkpointBlocks });
  const optimizer = new optim.AdamW(model, { lr: 1e-2 });
  const scaler = new GradScaler({ enabled: dtype === "float16", initialScale: 64 });
  const step = compile((tokens: Tensor, targets: Tensor) => {
    const loss = autocast(dtype, () => crossEntropy(model.forward(tokens), targets));
    const grads = scaler.unscale(gradients(scaler.scale(loss), model));
    scaler.step(optimizer, clipByGlobalNorm(grads, 1));
    scaler.update();
    return { loss, grads: [...grads.values()] };
  });
  const losses: number[] = [];
  const seen: Float32Array[] = [];
  for (let i = 0; i < 2; i++) {
    const tokens = tensor(
      Int32Array.from({ length: 2 * context }, (_, k) => (k * 7 + i) % 11),
      { shape: [2, context] },
    );
    const { loss, grads } = await step(tokens, tokens);
    losses.push(await loss.item());
    if (i === 0) for (const grad of grads) seen.push(Float32Array.from(await grad.data()));
  }
  const parameters = await Promise.all(model.parameters().map((v) => v.bytes()));
  return { losses, seen, parameters, arenaByteLength: step.arenaByteLength };
}

describe.each(DEVICES)("checkpointed blocks on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([false, "bfloat16", "float16"] as const)("change no bit, dropout included (autocast %s)", async (dtype) => {
    // The reference device is slow, and so small a step is no larger in forward than in its update.
    const context = device === "reference" ? 3 : 64;
    const kept = await train(dtype, context, []);
    for (const blocks of device === "reference" ? (["all"] as const) : (["all", [1]] as const)) {
      const { arenaByteLength, ...anew } = await train(dtype, context, blocks);
      expect(anew).toEqual({ losses: kept.losses, seen: kept.seen, parameters: kept.parameters });
      if (blocks === "all" && context > 3) expect(arenaByteLength).toBeLessThan(kept.arenaByteLength);
    }
  });
});

const programs = new NullBackend().capabilities;

/** The program of a chain of wide layers, each checkpointed or not, and of the gradients of its weights. */
function chain(layers: number, recompute: boolean): Program {
  const weights = Array.from({ length: layers }, (_, i) => new Variable(`w${i}`, [64, 64], "float32"));
  const x = new Variable("x", [512, 64], "float32");
  const forward = (h: Tensor, w: Variable): Tensor => h.matmul(w.read()).exp().matmul(w.read()).tanh();
  const loss = weights
    .reduce((h, w) => (recompute ? checkpoint(() => forward(h, w)) : forward(h, w)), x.read().neg())
    .sum();
  const outputs = [...gradients(loss, weights).values()].map(({ node }) => node);
  return compileProgram({ outputs, assignments: new Map() }, programs);
}

const count = ({ kernels }: Program, name: string): number =>
  kernels.reduce((sum, { nodes }) => sum + nodes.filter((node) => node.op.name === name).length, 0);

describe("a checkpoint", () => {
  beforeAll(() => {
    useDevice("null");
  });

  it("keeps what a part reads and returns, not what it makes", () => {
    const bytes = 4 * 512 * 64;
    const [kept, anew] = [chain(8, false), chain(8, true)];
    // Results of 8 parts and of the part at work; what each part makes inside doubles that.
    expect(kept.arenaByteLength).toBeGreaterThan(16 * bytes);
    expect(anew.arenaByteLength).toBeLessThan(13 * bytes);
    // Nobody reads the loss here: the last part is computed once, for backward.
    expect(count(anew, "exp")).toBe(2 * count(kept, "exp") - 1);
  });

  it("computes no more anew than backward reads", () => {
    const [kept, anew] = [chain(2, false), chain(2, true)];
    // Of the four products of forward, the second of each part yields what its result's gradient reads.
    expect(count(anew, "matmul")).toBeLessThanOrEqual(count(kept, "matmul") + 4);
  });

  it("inside another one leaves the choice to it", () => {
    const w = new Variable("w", [8, 8], "float32");
    const part = (x: Tensor): Tensor => x.matmul(w.read()).exp();
    const nested = (x: Tensor): Tensor => checkpoint(() => part(checkpoint(() => part(x))));
    const flat = (x: Tensor): Tensor => checkpoint(() => part(part(x)));
    const programOf = (forward: (x: Tensor) => Tensor): Program => {
      const outputs = [...gradients(forward(w.read().neg()).sum(), [w]).values()].map(({ node }) => node);
      return compileProgram({ outputs, assignments: new Map() }, programs);
    };
    expect(count(programOf(nested), "exp")).toBe(count(programOf(flat), "exp"));
  });

  it("refuses what it does not know", () => {
    expect(() => checkpoint(() => 1, { when: "never" } as never)).toThrow(
      /when is "never", expected "always" or "budget"/,
    );
    expect(() => checkpoint(() => 1, { name: "x" } as never)).toThrow(/name/);
    expect(() => new nn.GPT({ ...SIZE, context: 4, checkpointBlocks: [2] })).toThrow(/positions from 0 to 1, got 2/);
  });
});

describe("an activation that its operand gives back", () => {
  it.each(["gelu", "geluTanh"] as const)("is computed anew beside its gradient (%s)", (name) => {
    useDevice("null");
    const [w, v] = [new Variable("w", [64, 64], "float32"), new Variable("v", [64, 64], "float32")];
    const x = new Variable("x", [512, 64], "float32").read();
    const loss = x.matmul(w.read())[name]().matmul(v.read()).square().sum();
    const outputs = [...gradients(loss, [w, v]).values()].map(({ node }) => node);
    const program = compileProgram({ outputs, assignments: new Map() }, programs);
    const both = program.kernels.filter(({ nodes }) => nodes.some((node) => node.op.name === `${name}.dx`));
    expect(both.map(({ nodes }) => nodes.filter((node) => node.op.name === name).length)).toEqual([1]);
  });
});
