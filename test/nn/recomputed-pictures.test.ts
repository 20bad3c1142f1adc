/** Networks for pictures whose blocks backward recomputes: the same bits, running statistics included, in less memory. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  crossEntropy,
  GradScaler,
  type GradScalerOptions,
  gradients,
  nn,
  optim,
  type Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { bytesOf } from "../support/variables.ts";

type Precision = false | "bfloat16" | "float16";
type Network = nn.ResNet | nn.UNet;

const EXTENT = 8;

interface Course {
  readonly precision: Precision;
  readonly memoryBudget?: number;
  readonly batch: number;
  readonly scaling?: GradScalerOptions;
}

/** Three steps over pictures that differ: losses, the last gradients, and every variable. */
async function train(model: Network, { precision, memoryBudget, batch, scaling }: Course) {
  const optimizer = new optim.SGD(model, { lr: 0.05, momentum: 0.9 });
  const scaler = new GradScaler({ enabled: precision === "float16", initialScale: 64, ...scaling });
  const logitsOf = (x: Tensor): Tensor =>
    model instanceof nn.UNet ? model.forward(x).permute([0, 2, 3, 1]) : model.forward(x);
  const step = compile(
    (x: Tensor, labels: Tensor) => {
      const loss = autocast(precision, () => crossEntropy(logitsOf(x), labels));
      const grads = scaler.unscale(gradients(scaler.scale(loss), model));
      scaler.step(optimizer, grads);
      scaler.update();
      return { loss, grads: [...grads.values()] };
    },
    memoryBudget === undefined ? {} : { memoryBudget },
  );
  const labels = model instanceof nn.UNet ? [batch, EXTENT, EXTENT] : [batch];
  const count = labels.reduce((a, b) => a * b);
  const losses: number[] = [];
  let grads: readonly Tensor[] = [];
  const batchAt = (i: number): [Tensor, Tensor] => [
    tensor(
      Float32Array.from({ length: batch * 3 * EXTENT ** 2 }, (_, k) => Math.sin(k * (i + 1))),
      { shape: [batch, 3, EXTENT, EXTENT] },
    ),
    tensor(
      Int32Array.from({ length: count }, (_, k) => (k + i) % 3),
      { shape: labels },
    ),
  ];
  for (let i = 0; i < 3; i++) {
    const result = await step(...batchAt(i));
    losses.push(await result.loss.item());
    grads = result.grads;
  }
  const seen = await Promise.all(grads.map(async (grad) => [...(await grad.data())]));
  const variables = await bytesOf([...model.parameters(), ...model.buffers()]);
  const { byteLength } = step.plan(...batchAt(0));
  return { bits: { losses, seen, variables }, byteLength };
}

const resnet = (checkpointBlocks: nn.BlockChoice = []): nn.ResNet =>
  new nn.ResNet({ depth: 14, classes: 3, width: 4, seed: 1, checkpointBlocks });
const unet = (): nn.UNet => new nn.UNet({ classes: 3, width: 4, levels: 2, seed: 1 });

describe.each(DEVICES)("recomputed blocks on %s", (device) => {
  // The reference device is slow: small batches, and a network that is no smaller in forward than in its update.
  const batch = device === "reference" ? 2 : 32;
  beforeAll(() => {
    useDevice(device);
  });

  it.each([
    false,
    "bfloat16",
    "float16",
  ] as const)("ResNet by name: no bit changes (autocast %s)", async (precision) => {
    const kept = await train(resnet(), { precision, batch });
    for (const blocks of ["all", [1, 5]] as const) {
      const anew = await train(resnet(blocks), { precision, batch });
      expect(anew.bits).toEqual(kept.bits);
      if (batch > 2) expect(anew.byteLength).toBeLessThan(kept.byteLength);
    }
  });

  it.each([
    ["ResNet", resnet],
    ["UNet", unet],
  ] as const)("%s by a budget: no bit changes", async (_, make) => {
    const course = { precision: "bfloat16", batch: 32 } as const;
    if (device === "reference") return expectRefusal(make());
    const kept = await train(make(), course);
    const anew = await train(make(), { ...course, memoryBudget: Math.floor(0.9 * kept.byteLength) });
    expect(anew.bits).toEqual(kept.bits);
    expect(anew.byteLength).toBeLessThanOrEqual(0.9 * kept.byteLength);
  });

  it("takes a skipped step's statistics back", async () => {
    const course = { precision: "float16", batch, scaling: { initialScale: 2 ** 40, ceiling: 2 ** 40 } } as const;
    const [kept, anew] = [await train(resnet(), course), await train(resnet("all"), course)];
    expect(anew.bits).toEqual(kept.bits);
    const fresh = resnet();
    expect(anew.bits.variables).toEqual(await bytesOf([...fresh.parameters(), ...fresh.buffers()]));
  });
});

/** A budget that nothing meets is refused before anything is computed. */
async function expectRefusal(model: Network): Promise<void> {
  await expect(train(model, { precision: false, batch: 2, memoryBudget: 1000 })).rejects.toThrow(
    expect.objectContaining({ code: "memory.budget" }),
  );
}

it("ResNet refuses blocks that it does not have", () => {
  expect(() => resnet([6])).toThrow(/ResNet: checkpointBlocks: expected "all" or positions from 0 to 5, got 6/);
});
