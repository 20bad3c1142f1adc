/** Scaling into 8 bits: tensors against the exact rules on numbers, bit for bit, over awkward values, on every device. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  amaxOf,
  blockScale,
  currentScale,
  type DelayedState,
  initialDelayedState,
  nextDelayedState,
  quantizeByBlock,
  quantizeByTensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import {
  amax,
  blockScaleOf,
  currentScaleOf,
  floorPowerOfTwo,
  nextDelayedTensors,
  quantizeBlocks,
  quantizeTensor,
} from "../../src/tensor/fp8.ts";
import { DEVICES } from "../support/devices.ts";
import { AWKWARD_AMAXES, bitsOf, FLOAT8, randomFloats } from "../support/fp8.ts";

const AMAXES = Float32Array.from(AWKWARD_AMAXES);

describe.each(DEVICES)("8 bits on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("finds the power of two below any float32", async () => {
    // Over all 2^23 mantissas the formula is exact too; here a sample of one binade, every exponent, and the awkward ones.
    const binade = Float32Array.from({ length: 2 ** 14 }, (_, i) => 1 + (i * 512 + (i % 512)) * 2 ** -23);
    const values = [...binade, ...randomFloats(20_000, 7).map(Math.abs), ...AMAXES].filter(Number.isFinite);
    const all = Float32Array.from(values);
    expect(bitsOf(await floorPowerOfTwo(tensor(all)).data())).toEqual(bitsOf(all.map(powerBelow)));
  });

  it.each([false, true])("scales by the present amax, to powers of two: %j", async (powerOfTwo) => {
    for (const format of FLOAT8) {
      for (const minimumAmax of [0, 1e-12]) {
        const rule = { powerOfTwo, minimumAmax };
        const expected = AMAXES.map((a) => currentScale(a, format, rule));
        expect(bitsOf(await currentScaleOf(tensor(AMAXES), format, rule).data())).toEqual(bitsOf(expected));
      }
    }
  });

  it.each(["max", "mostRecent"] as const)("remembers amaxes by %s", async (algorithm) => {
    for (const historyLength of [1, 2, 3, 5]) {
      const rule = { margin: 1, amax: algorithm };
      let state: DelayedState = initialDelayedState({ historyLength });
      let tensors = {
        scale: tensor(Float32Array.of(1), { shape: [] }),
        history: tensor(new Float32Array(historyLength)),
      };
      for (const seen of [0, 3, 1, 2e-45, 0, 7, 0, 0, 0, 0, Number.NaN, 4, Infinity, 5, 6, 1, 1, 1]) {
        state = nextDelayedState(state, Math.fround(seen), "float8_e4m3fn", rule);
        tensors = nextDelayedTensors(tensors, tensor(Float32Array.of(seen), { shape: [] }), "float8_e4m3fn", rule);
        expect(bitsOf(await tensors.scale.data())).toEqual(bitsOf([state.scale]));
        expect(bitsOf(await tensors.history.data())).toEqual(bitsOf(state.history));
      }
    }
  });

  it.each(["floor", "ceil", "even", "rceil"] as const)("scales blocks by %s", async (exponent) => {
    for (const format of FLOAT8) {
      const amaxes = Float32Array.from([...AMAXES, ...randomFloats(5000, 3).map(Math.abs)]);
      const expected = amaxes.map((a) => blockScale(a, format, exponent));
      expect(bitsOf(await blockScaleOf(tensor(amaxes), format, exponent).data())).toEqual(bitsOf(expected));
    }
  });

  it("quantises under one scale, saturating what is finite and keeping what is not", async () => {
    const values = Float32Array.from([...randomFloats(3000, 11), ...AMAXES, ...AMAXES.map((a) => -a)]);
    for (const format of FLOAT8) {
      for (const scale of [1, 3, 2 ** -20, Math.fround(448 / 3), Math.fround(3.4028234663852886e38)]) {
        const s = tensor(Float32Array.of(scale), { shape: [] });
        const held = quantizeTensor(tensor(values), s, format).mul(s.reciprocal());
        expect(bitsOf(await held.data())).toEqual(bitsOf(quantizeByTensor(values, scale, format)));
      }
    }
    expect(await amax(tensor(values)).item()).toBeNaN();
    expect(await amax(tensor([-3, 2])).item()).toBe(amaxOf([-3, 2]));
    expect(await amax(tensor([])).item()).toBe(amaxOf([]));
  });

  it.each([32, 33, 64, 100, 7])("quantises rows of %d in blocks, along either axis", async (width) => {
    const rows = 6;
    const values = randomFloats(rows * width, width).map((v, i) =>
      i % 3 === 0 ? v : Math.fround(Math.sin(i) * 2 ** ((i % 40) - 20)),
    );
    const expected = new Float32Array(rows * width);
    for (const format of FLOAT8) {
      for (let r = 0; r < rows; r++) {
        expected.set(quantizeByBlock(values.subarray(r * width, (r + 1) * width), format, "rceil").values, r * width);
      }
      const x = tensor(values, { shape: [rows, width] });
      expect(bitsOf(await quantizeBlocks(x, [...x.shape, 1], format, "rceil").data())).toEqual(bitsOf(expected));
      const columns = quantizeBlocks(x.transpose(), [1, ...x.transpose().shape], format, "rceil").transpose();
      expect(bitsOf(await columns.data())).toEqual(bitsOf(expected));
    }
  });
});

/** log2 may round up to the power above. */
function powerBelow(x: number): number {
  const power = 2 ** Math.floor(Math.log2(x));
  return power > x ? power / 2 : power;
}
