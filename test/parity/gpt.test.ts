/** A small GPT against PyTorch: losses, norms and parameters of 20 AdamW steps, and the gradients of the first. */

import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  clipByGlobalNorm,
  compile,
  crossEntropy,
  fromBytes,
  globalNorm,
  gradients,
  nn,
  optim,
  type Tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { floatsOf, readJson, readTensors } from "../support/fixtures.ts";

interface Run {
  readonly losses: readonly number[];
  readonly gradientNorms: readonly number[];
}
interface Parity {
  readonly settings: {
    readonly model: nn.GPTOptions;
    readonly optimizer: { learningRate: number; betas: [number, number]; epsilon: number; weightDecay: number };
    readonly maxNorm: number;
    readonly steps: number;
    readonly batch: number;
  };
  readonly reference: { readonly float32: Run; readonly bfloat16: Run };
}

const { settings, reference } = readJson<Parity>("gpt-parity.json");
const tensors = readTensors("gpt-parity.safetensors");

function saved(name: string) {
  const found = tensors.get(name);
  if (found === undefined) throw new Error(`${name} is missing in the fixture`);
  return found;
}

/** The reference backend is slow: it goes the whole way only where no other device does. */
const stepsOn = (device: string): number => (device === "reference" && DEVICES.length > 1 ? 4 : settings.steps);

async function loadedModel(): Promise<nn.GPT> {
  const model = new nn.GPT(settings.model);
  for (const [name, variable] of model.namedParameters()) await variable.load(saved(`initial.${name}`).bytes);
  return model;
}

function batch(kind: "tokens" | "targets", step: number): Tensor {
  const shape = [settings.batch, settings.model.context];
  const { bytes } = saved(`batches.${kind}`);
  const byteLength = 4 * settings.batch * settings.model.context;
  return fromBytes(bytes.slice(step * byteLength, (step + 1) * byteLength), { shape, dtype: "int32" });
}

function makeOptimizer(model: nn.GPT): optim.AdamW {
  const { learningRate, betas, epsilon, weightDecay } = settings.optimizer;
  return new optim.AdamW(model, { lr: learningRate, betas, eps: epsilon, weightDecay });
}

async function train(model: nn.GPT, dtype: "bfloat16" | false, steps: number): Promise<Run> {
  const optimizer = makeOptimizer(model);
  const step = compile((tokens: Tensor, targets: Tensor) => {
    const logits = autocast(dtype, () => model.forward(tokens));
    const loss = crossEntropy(logits.cast("float32"), targets);
    const grads = gradients(loss, model);
    optimizer.apply(clipByGlobalNorm(grads, settings.maxNorm));
    return { loss, norm: globalNorm(grads) };
  });
  const losses: number[] = [];
  const gradientNorms: number[] = [];
  for (let i = 0; i < steps; i++) {
    const { loss, norm } = await step(batch("tokens", i), batch("targets", i));
    losses.push(await loss.item());
    gradientNorms.push(await norm.item());
  }
  return { losses, gradientNorms };
}

const relativeError = (got: number, want: number): number => Math.abs(got - want) / Math.abs(want);
const largestError = (got: readonly number[], want: readonly number[]): number =>
  Math.max(...got.map((value, i) => relativeError(value, want[i] ?? Number.NaN)));

/** Largest difference, in units of the largest element. */
function distance(got: ArrayLike<number>, want: Float32Array): number {
  const scale = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return want.reduce((most, value, i) => Math.max(most, Math.abs((got[i] ?? Number.NaN) - value)), 0) / scale;
}

describe.each(DEVICES)("a GPT trains as in PyTorch on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("has PyTorch's parameter names and shapes", () => {
    const names = [...tensors.keys()].filter((name) => name.startsWith("initial.")).map((name) => name.slice(8));
    const parameters = new nn.GPT(settings.model).namedParameters();
    expect([...parameters.keys()].sort()).toEqual(names.sort());
    for (const [name, { shape }] of parameters) expect(shape, name).toEqual(saved(`initial.${name}`).shape);
  });

  it("gives the first step's gradients", async () => {
    const model = await loadedModel();
    const step = compile((tokens: Tensor, targets: Tensor) => [
      ...gradients(crossEntropy(model.forward(tokens), targets), model).values(),
    ]);
    const grads = await step(batch("tokens", 0), batch("targets", 0));
    for (const [i, name] of [...model.namedParameters().keys()].entries()) {
      const got = (await grads[i]?.data()) ?? [];
      expect(distance(got, floatsOf(saved(`gradients.${name}`))), name).toBeLessThan(2e-5);
    }
  });

  it(`follows ${stepsOn(device)} steps in float32`, async () => {
    const model = await loadedModel();
    const run = await train(model, false, stepsOn(device));
    expect(largestError(run.losses, reference.float32.losses)).toBeLessThan(1e-4);
    expect(largestError(run.gradientNorms, reference.float32.gradientNorms)).toBeLessThan(1e-3);
    if (stepsOn(device) < settings.steps) return;
    for (const [name, variable] of model.namedParameters()) {
      expect(distance(await variable.read().data(), floatsOf(saved(`final.${name}`))), name).toBeLessThan(1e-2);
    }
  });

  it(`follows ${stepsOn(device)} steps under bfloat16 autocast`, async () => {
    const run = await train(await loadedModel(), "bfloat16", stepsOn(device));
    expect(largestError(run.losses, reference.bfloat16.losses)).toBeLessThan(2e-2);
  });
});
