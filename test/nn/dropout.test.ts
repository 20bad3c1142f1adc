/** Dropout's mask is one: what the forward pass dropped, every gradient drops, sums over rows included. */
import { beforeAll, describe, expect, it } from "vitest";
import { compile, gradients, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { Dropout, Linear } from "../../src/nn/index.ts";
import { DEVICES } from "../support/devices.ts";

const [ROWS, WIDTH, OUT] = [8, 4, 6];

describe.each(DEVICES)("dropout on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("gives bias and weight the gradients of the mask that was drawn", async () => {
    const [layer, drop] = [new Linear(WIDTH, OUT, { seed: 1 }), new Dropout(0.5)];
    const { weight, bias } = layer;
    if (bias === null) throw new Error("the layer has a bias");
    const step = compile((x: Tensor) => {
      const y = drop.forward(layer.forward(x));
      const grads = gradients(y.sum(), [weight, bias]);
      return { y, weight: grads.get(weight) ?? y, bias: grads.get(bias) ?? y };
    });
    const values = Array.from({ length: ROWS * WIDTH }, (_, i) => i + 1);
    const masks = new Set<string>();
    for (let round = 0; round < 3; round++) {
      const result = await step(tensor(values, { shape: [ROWS, WIDTH] }));
      const [y, dWeight, dBias] = [await result.y.data(), await result.weight.data(), await result.bias.data()];
      // A kept element is the layer's, doubled.
      const kept = (row: number, column: number): number => (y[row * OUT + column] === 0 ? 0 : 2);
      masks.add([...y].map((v) => Number(v !== 0)).join(""));
      for (let column = 0; column < OUT; column++) {
        const rows = Array.from({ length: ROWS }, (_, row) => row);
        expect(dBias[column]).toBe(rows.reduce((sum, row) => sum + kept(row, column), 0));
        for (let i = 0; i < WIDTH; i++) {
          const expected = rows.reduce((sum, row) => sum + kept(row, column) * (values[row * WIDTH + i] ?? 0), 0);
          expect(dWeight[column * WIDTH + i]).toBe(expected);
        }
      }
    }
    expect(masks.size).toBe(3);
  });
});
