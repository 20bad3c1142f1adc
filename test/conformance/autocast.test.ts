/** Autocast, cases 40 to 45: casts of a weight, gradients through them, recomputation, arguments. (36 to 39: test/precision/autocast.test.ts.) */
import { beforeAll, describe, expect, it } from "vitest";
import {
  autocast,
  checkpoint,
  compile,
  crossEntropy,
  explain,
  gradients,
  linear,
  nn,
  RandomStream,
  type Tensor,
  tensor,
  useDevice,
  Variable,
  zeros,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { expectRefusal } from "../support/refusal.ts";

const HALVES = ["float16", "bfloat16"] as const;
const input = (): Tensor =>
  tensor(
    Float32Array.from({ length: 12 }, (_, i) => Math.sin(3 * i + 1)),
    { shape: [4, 3] },
  );
const weightOf = (): Variable =>
  new Variable(
    "w",
    [3, 3],
    "float32",
    Float32Array.from({ length: 9 }, (_, i) => Math.cos(2 * i)),
  );
const gradientOf = (loss: Tensor, weight: Variable): Tensor => gradients(loss, [weight]).get(weight) as Tensor;

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  describe.each(HALVES)("%s", (half) => {
    it("case 40: a weight that is used three times is cast once, in forward and backward", () => {
      const weight = weightOf();
      const loss = autocast(half, () => {
        const first = linear(input(), weight.read());
        return linear(linear(first, weight.read()), weight.read()).sum();
      });
      const casts = explain(loss, gradientOf(loss, weight)).filter(({ value, to }) => value === "w" && to === half);
      expect(casts).toHaveLength(1);
    });

    it("case 40: a use after the weight was assigned in the region sees the new value", async () => {
      const weight = weightOf();
      const step = compile((x: Tensor) =>
        autocast(half, () => {
          const before = linear(x, weight.read());
          weight.assign(weight.read().mul(2));
          return { before, after: linear(x, weight.read()) };
        }),
      );
      const { before, after } = await step(input());
      // Twice a 16-bit number is one, and so is twice a rounded sum: the results differ by exactly 2.
      expect([...(await after.data())]).toEqual([...(await before.mul(2).data())]);
    });

    it("case 41: a use without a gradient before does not cost a later use its own", async () => {
      const [weight, twin] = [weightOf(), weightOf()];
      const loss = autocast(half, () => {
        const frozen = linear(input(), weight.read()).detach();
        return linear(input(), weight.read()).mul(frozen.mul(0).add(1)).sum();
      });
      const plain = autocast(half, () => linear(input(), twin.read()).sum());
      const got = gradientOf(loss, weight);
      expect([...(await got.data())]).toEqual([...(await gradientOf(plain, twin).data())]);
      expect((await got.data()).some((value) => value !== 0)).toBe(true);
    });

    it("case 42: a float32 parameter has a float32 gradient that no 16-bit rounding touched", async () => {
      const weight = weightOf();
      const gradient = gradientOf(
        autocast(half, () => linear(input(), weight.read()).sum()),
        weight,
      );
      expect(gradient.dtype).toBe("float32");
      const rounded = gradient.cast(half).cast("float32");
      expect([...(await gradient.data())]).not.toEqual([...(await rounded.data())]);
    });

    it("case 44: a recomputed block gives the same gradients bit for bit, also outside of the region", async () => {
      const run = async (recomputed: boolean, inside: boolean): Promise<readonly Uint8Array[]> => {
        const model = new nn.Sequential(
          new nn.Linear(3, 8, { seed: 2 }),
          new nn.GELU(),
          new nn.Dropout(0.5, { random: new RandomStream(3) }),
          new nn.Linear(8, 2, { seed: 4 }),
        );
        const step = compile((x: Tensor, labels: Tensor) => {
          const forward = (): Tensor =>
            crossEntropy(recomputed ? checkpoint(() => model.forward(x)) : model.forward(x), labels);
          const grads = inside
            ? autocast(half, () => gradients(forward(), model))
            : gradients(
                autocast(half, () => forward()),
                model,
              );
          return [...grads.values()];
        });
        const result: Uint8Array[] = [];
        for (let i = 0; i < 3; i++) {
          const grads = await step(input(), tensor(Int32Array.of(0, 1, 1, 0)));
          for (const gradient of grads) result.push(await gradient.bytes());
        }
        return result;
      };
      const kept = await run(false, false);
      expect(await run(true, false)).toEqual(kept);
      expect(await run(true, true)).toEqual(kept);
      expect(new Set(kept.map(String)).size).toBeGreaterThan(kept.length / 2);
    });
  });
});

describe("arguments", () => {
  beforeAll(() => {
    useDevice("null");
  });

  it("case 42: what backward keeps of narrow ops is narrow", () => {
    const model = new nn.Sequential(...[0, 1, 2, 3].flatMap(() => [new nn.Linear(64, 64), new nn.ReLU()]));
    const activations = (half: "bfloat16" | false): number =>
      compile((x: Tensor) => [
        ...gradients(
          autocast(half, () => model.forward(x).sum()),
          model,
        ).values(),
      ]).plan(zeros([32, 64])).arena.most.activations;
    expect(activations("bfloat16")).toBeLessThanOrEqual(0.6 * activations(false));
  });

  it.each([
    "float64",
    "float8_e4m3fn",
    "int32",
    "half",
    "",
    undefined,
    null,
    true,
    16,
  ])("case 45: %j is no compute dtype", (dtype) => {
    expectRefusal(() => autocast(dtype as "float16", () => 0), "option.invalid", ["autocast: dtype", "bfloat16"]);
  });
});
