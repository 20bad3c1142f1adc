/** ResNet: parameter counts of the paper, shapes, both shortcuts, and what is refused. */
import { beforeAll, describe, expect, it } from "vitest";
import { compile, crossEntropy, gradients, nn, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

describe("ResNet", () => {
  it.each([
    // Source of the padded counts: He et al. 2015, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million.
    [{ depth: 20 }, 272_474],
    [{ depth: 20, shortcut: "padding" }, 269_722],
    [{ depth: 32, shortcut: "padding" }, 464_154],
    [{ depth: 44, shortcut: "padding" }, 658_586],
    [{ depth: 56, shortcut: "padding" }, 853_018],
    [{ depth: 110, shortcut: "padding" }, 1_727_962],
    [{ classes: 100, channels: 1 }, 272_474 - 2 * 16 * 9 + 90 * 65],
  ] as const)("%j has %i parameters", (options, count) => {
    expect(new nn.ResNet(options).parameterCount).toBe(count);
  });

  it("resnet20 is the one of depth 20", () => {
    expect(nn.resnet20().parameterCount).toBe(272_474);
    // Running mean and variance of 21 norms.
    expect(nn.resnet20().buffers()).toHaveLength(42);
  });

  it.each([
    [{ depth: 21 }, "value.range", /6 n \+ 2 .* got 21; 20 is near/],
    [{ depth: 2 }, "value.range", /8 is near/],
    [{ depth: Number.NaN }, "value.range", /20 is usual/],
    [{ classes: 0 }, "value.range", /classes/],
    [{ channels: 0 }, "value.range", /channels/],
    [{ shortcut: "none" }, "option.invalid", /projection, padding/],
    [{ deep: 20 }, "option.unknown", /deep/],
  ] as const)("%j: refused", (options, code, message) => {
    const make = () => new nn.ResNet(options as nn.ResNetOptions);
    expect(make).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });

  it("ResidualBlock refuses fewer channels without a projection", () => {
    expect(() => new nn.ResidualBlock(8, 4, { shortcut: "padding" })).toThrow(
      expect.objectContaining({ code: "value.range" }),
    );
    expect(new nn.ResidualBlock(8, 4).projection).not.toBeNull();
    expect(new nn.ResidualBlock(8, 8).projection).toBeNull();
  });
});

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("the padded shortcut takes every second pixel and adds zeros", async () => {
    const block = new nn.ResidualBlock(1, 2, { stride: 2, shortcut: "padding", seed: 0 });
    // Norms with weight 0 leave the shortcut alone.
    for (const [name, variable] of block.namedParameters())
      if (name === "second.norm.weight") await variable.load(new Uint8Array(8));
    const x = tensor(
      Float32Array.from({ length: 15 }, (_, i) => i + 1),
      { shape: [1, 1, 3, 5] },
    );
    const y = block.evaluate().forward(x);
    expect(y.shape).toEqual([1, 2, 2, 3]);
    expect([...(await y.data())]).toEqual([1, 3, 5, 11, 13, 15, 0, 0, 0, 0, 0, 0]);
  });

  it.each([
    "projection",
    "padding",
  ] as const)("gives logits and a gradient to every parameter, shortcut %s", async (shortcut) => {
    const model = new nn.ResNet({ depth: 8, width: 2, classes: 3, channels: 1, shortcut, seed: 0 });
    const x = tensor(
      Float32Array.from({ length: 2 * 49 }, (_, i) => Math.sin(i)),
      { shape: [2, 1, 7, 7] },
    );
    const labels = tensor(Int32Array.of(0, 2));
    const step = compile((pictures: Tensor, targets: Tensor) => {
      const logits = model.forward(pictures);
      return { logits, grads: [...gradients(crossEntropy(logits, targets), model).values()] };
    });
    const { logits, grads } = await step(x, labels);
    expect(logits.shape).toEqual([2, 3]);
    const names = [...model.namedParameters().keys()];
    expect(grads).toHaveLength(names.length);
    for (const [i, grad] of grads.entries()) {
      const values = [...(await grad.data())];
      expect(values.every(Number.isFinite), names[i]).toBe(true);
      expect(
        values.some((value) => value !== 0),
        names[i],
      ).toBe(true);
    }
  });
});
