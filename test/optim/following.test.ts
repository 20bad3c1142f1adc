/** Running statistics follow the step: a skipped one leaves them byte for byte, whichever way the step is made. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import {
  compile,
  GradScaler,
  type Grads,
  gradients,
  mapGradients,
  nn,
  optim,
  readOutcome,
  type Tensor,
  tensor,
  useDevice,
  type Variable,
} from "../../src/index.ts";
import { readCheckpoint, restoreCheckpoint, saveCheckpoint } from "../../src/train/checkpoint.ts";
import { DEVICES } from "../support/devices.ts";
import { uniforms } from "../support/random.ts";

const batch = (seed: number): Tensor => tensor(Float32Array.from(uniforms(seed, 24, -1, 3)), { shape: [4, 3, 2] });
const bytesOf = async (layer: nn.BatchNorm1d): Promise<readonly string[]> =>
  Promise.all(layer.buffers().map(async (v) => (await v.bytes()).join()));
const poison = (bad: boolean): Tensor => tensor(bad ? Number.POSITIVE_INFINITY : 0);
const poisoned = <S extends "scaled" | "true">(grads: Grads<S>, by: Tensor, only?: Variable): Grads<S> =>
  mapGradients(grads, (g, p) => (only === undefined || p === only ? g.add(by) : g));

/** The running mean after batches of these seeds, all of them applied. */
async function meanAfter(...seeds: readonly number[]): Promise<readonly number[]> {
  let mean = [0, 0, 0];
  for (const seed of seeds) {
    const values = await batch(seed).data();
    mean = mean.map((old, c) => {
      const own = [...values].filter((_, i) => Math.floor(i / 2) % 3 === c);
      return 0.9 * old + 0.1 * (own.reduce((a, b) => a + Number(b), 0) / own.length);
    });
  }
  return mean;
}
async function expectMean(layer: nn.BatchNorm1d, ...seeds: readonly number[]): Promise<void> {
  const want = await meanAfter(...seeds);
  [...(await layer.runningMean.read().data())].forEach((v, c) => {
    expect(v).toBeCloseTo(want[c] ?? Number.NaN, 5);
  });
}

interface Setup {
  readonly layer: nn.BatchNorm1d;
  readonly scaler: GradScaler;
  readonly optimizers: readonly optim.SGD[];
  /** A step whose gradients of `only`, or of all parameters, become infinite. */
  readonly step: (x: Tensor, poison: Tensor, only?: Variable) => { readonly applied: readonly Tensor[] };
}

function setup(count: 1 | 2, options = {}): Setup {
  const layer = new nn.BatchNorm1d(3);
  const scaler = new GradScaler(options);
  const groups = count === 1 ? [layer.parameters()] : layer.parameters().map((p) => [p]);
  const optimizers = groups.map((group) => new optim.SGD(group, { lr: 0.1 }));
  const step: Setup["step"] = (x, by, only) => {
    const scaled = poisoned(gradients(scaler.scale(layer.forward(x).square().mean()), layer), by, only);
    const outcomes = optimizers.map((optimizer) => scaler.step(optimizer, scaled));
    scaler.update();
    return { applied: outcomes.map(({ applied }) => applied) };
  };
  return { layer, scaler, optimizers, step };
}

describe.each(DEVICES)("running statistics on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    ["scaled", {}],
    ["with scale 1", { enabled: false }],
  ])("stay as they were when a compiled step is skipped, %s", async (_, options) => {
    const { layer, step } = setup(1, options);
    const compiled = compile((x: Tensor, by: Tensor) => step(x, by));
    await compiled(batch(1), poison(false));
    const before = await bytesOf(layer);
    const { applied } = await compiled(batch(2), poison(true));
    expect(await applied[0]?.item()).toBe(0);
    expect(await bytesOf(layer)).toEqual(before);
    await compiled(batch(3), poison(false));
    await expectMean(layer, 1, 3);
  });

  it("stay as they were when one of two optimizers skips, and follow when both step", async () => {
    const { layer, step } = setup(2);
    const compiled = compile((x: Tensor, by: Tensor) => step(x, by, layer.bias));
    await compiled(batch(1), poison(false));
    const before = await bytesOf(layer);
    const weight = [...(await layer.weight.bytes())];
    const { applied } = await compiled(batch(2), poison(true));
    expect(await Promise.all(applied.map((flag) => flag.item()))).toEqual([1, 0]);
    expect([...(await layer.weight.bytes())]).not.toEqual(weight);
    expect(await bytesOf(layer)).toEqual(before);
  });

  it.each([1, 2] as const)("follow steps that are not compiled, with %i optimizers", async (count) => {
    const { layer, step } = setup(count);
    step(batch(1), poison(false));
    const before = await bytesOf(layer);
    await expectMean(layer, 1);
    step(batch(2), poison(true), layer.bias);
    expect(await bytesOf(layer)).toEqual(before);
    step(batch(3), poison(false));
    await expectMean(layer, 1, 3);
  });

  it("of an applied step stay, whatever a later step of another model comes to", async () => {
    const { layer, scaler, optimizers, step } = setup(1);
    const { applied } = step(batch(1), poison(false));
    expect(await applied[0]?.item()).toBe(1);
    const before = await bytesOf(layer);
    const other = new nn.Linear(2, 2, { seed: 1 });
    const another = new optim.SGD(other, { lr: 0.1 });
    const loss = other
      .forward(tensor([[1, 2]]))
      .mul(Number.POSITIVE_INFINITY)
      .sum();
    const outcome = scaler.step(another, gradients(scaler.scale(loss), other));
    scaler.update();
    expect((await readOutcome(outcome)).applied).toBe(false);
    expect(await bytesOf(layer)).toEqual(before);
    expect(optimizers).toHaveLength(1);
  });

  it("come back where something was read between the forward pass and the skipped step", async () => {
    const { layer, scaler, optimizers } = setup(1);
    await layer.forward(batch(1)).data();
    optimizers[0]?.apply(gradients(layer.forward(batch(2)).square().mean(), layer));
    const before = await bytesOf(layer);
    const loss = layer.forward(batch(3)).square().mean();
    await loss.item();
    await expectMean(layer, 1, 2, 3);
    const scaled = poisoned(gradients(scaler.scale(loss), layer), poison(true));
    const outcome = scaler.step(optimizers[0] as optim.SGD, scaled);
    scaler.update();
    expect((await readOutcome(outcome)).applied).toBe(false);
    expect(await bytesOf(layer)).toEqual(before);
  });

  it("move with plain steps, and without an optimizer, as PyTorch's", async () => {
    const { layer, optimizers } = setup(1);
    const plain = compile((x: Tensor) => optimizers[0]?.apply(gradients(layer.forward(x).square().mean(), layer)));
    const forward = compile((x: Tensor) => layer.forward(x));
    await plain(batch(1));
    await forward(batch(2));
    await layer.forward(batch(3)).data();
    layer.forward(batch(4));
    await expectMean(layer, 1, 2, 3, 4);
    layer.evaluate();
    await layer.forward(batch(5)).data();
    await expectMean(layer, 1, 2, 3, 4);
  });

  it("of accumulated forward passes come back together", async () => {
    const { layer, scaler, optimizers } = setup(1);
    const accumulated = compile((a: Tensor, b: Tensor, by: Tensor) => {
      const loss = layer.forward(a).square().mean().add(layer.forward(b).square().mean());
      const outcome = scaler.step(optimizers[0] as optim.SGD, poisoned(gradients(scaler.scale(loss), layer), by));
      scaler.update();
      return outcome;
    });
    await accumulated(batch(1), batch(2), poison(false));
    await expectMean(layer, 1, 2);
    const before = await bytesOf(layer);
    await accumulated(batch(3), batch(4), poison(true));
    expect(await bytesOf(layer)).toEqual(before);
  });

  it("are in a checkpoint, from which a run resumes to the same bits", async () => {
    const folder = await mkdtemp(join(tmpdir(), "binade-following-"));
    const path = join(folder, "checkpoint.safetensors");
    const variablesOf = ({ layer, scaler }: Setup): ReadonlyMap<string, Variable> =>
      new Map([...layer.namedParameters(), ...layer.namedBuffers(), ...scaler.namedState()]);
    const [whole, resumed] = [setup(1), setup(1)];
    const [first, second] = [whole, resumed].map(({ step }) => compile((x: Tensor, by: Tensor) => step(x, by)));
    await first?.(batch(1), poison(false));
    await first?.(batch(2), poison(true));
    await saveCheckpoint(path, variablesOf(whole), { step: 2, skippedSteps: 1, settings: {}, notes: {} });
    await restoreCheckpoint(await readCheckpoint(path), variablesOf(resumed));
    await first?.(batch(3), poison(false));
    await second?.(batch(3), poison(false));
    expect(await bytesOf(resumed.layer)).toEqual(await bytesOf(whole.layer));
    await rm(folder, { recursive: true });
  });

  it("that were loaded or moved by a compiled run are not taken back by a later step", async () => {
    const { layer, step } = setup(1);
    layer.forward(batch(1)); // belongs to no step
    await layer.runningMean.load(new Uint8Array(new Float32Array([1, 2, 3]).buffer));
    await compile((x: Tensor) => layer.forward(x))(batch(2));
    const before = await bytesOf(layer);
    step(batch(3), poison(true));
    expect(await bytesOf(layer)).toEqual(before);
  });
});
