/** UNet: parameter count, shapes at every level, gradients, and what is refused. */
import { beforeAll, describe, expect, it } from "vitest";
import { compile, crossEntropy, gradients, nn, type Tensor, tensor, useDevice, zeros } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

describe("UNet", () => {
  it("has the parameters of its layers", () => {
    const double = (inputs: number, outputs: number): number => 9 * outputs * (inputs + outputs) + 4 * outputs;
    const up = (outputs: number): number => 2 * outputs * outputs * 4 + outputs + double(2 * outputs, outputs);
    const expected = double(3, 4) + double(4, 8) + double(8, 16) + up(8) + up(4) + 5 * 4 + 5;
    expect(new nn.UNet({ classes: 5, width: 4, levels: 2 }).parameterCount).toBe(expected);
  });

  it.each([
    [{ classes: 0 }, "value.range"],
    [{ classes: 2, levels: 0 }, "value.range"],
    [{ classes: 2, width: 1.5 }, "value.range"],
    [{ classes: 2, depth: 3 }, "option.unknown"],
  ])("%j: refused", (options, code) => {
    expect(() => new nn.UNet(options)).toThrow(expect.objectContaining({ code }));
  });

  it.each([[[1, 3, 6, 8]], [[1, 3, 8, 6]], [[1, 1, 8, 8]], [[3, 8, 8]]])("refuses pictures of %j", (shape) => {
    const model = new nn.UNet({ classes: 2, width: 2, levels: 2 });
    expect(() => model.forward(zeros(shape))).toThrow(
      expect.objectContaining({ code: "shape.mismatch", message: expect.stringContaining("divisible by 4") }),
    );
  });
});

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("gives a label's logits to every pixel and a gradient to every parameter", async () => {
    const model = new nn.UNet({ channels: 1, classes: 3, width: 2, levels: 2, seed: 0 });
    const values = Float32Array.from({ length: 2 * 32 }, (_, i) => Math.sin(i));
    const step = compile((x: Tensor, y: Tensor) => {
      const logits = model.forward(x);
      const grads = gradients(crossEntropy(logits.permute([0, 2, 3, 1]), y), model);
      return { logits, grads: [...grads.values()] };
    });
    const labels = tensor(new Int32Array(64).fill(1), { shape: [2, 4, 8] });
    const { logits, grads } = await step(tensor(values, { shape: [2, 1, 4, 8] }), labels);
    expect(logits.shape).toEqual([2, 3, 4, 8]);
    expect(grads).toHaveLength(model.parameters().length);
    for (const grad of grads) {
      const found = [...(await grad.data())];
      expect(found.every(Number.isFinite)).toBe(true);
      expect(found.some((value) => value !== 0)).toBe(true);
    }
  });
});
