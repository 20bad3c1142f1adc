/** 8 bits and rounding, cases 60 to 65. (Host rounding of every pattern and of random float64 numbers: test/formats/codec.test.ts.) */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { decode, encodeStochastic, round } from "../../src/formats/index.ts";
import {
  blockScale,
  compile,
  crossEntropy,
  currentScale,
  type DelayedState,
  encodeE8M0,
  fromBytes,
  gradients,
  initialDelayedState,
  nextDelayedState,
  nn,
  optim,
  tensor,
  useDevice,
  type Variable,
} from "../../src/index.ts";
import { quantizeTensor } from "../../src/tensor/fp8.ts";
import { readCheckpoint, restoreCheckpoint, saveCheckpoint } from "../../src/train/checkpoint.ts";
import { DEVICES } from "../support/devices.ts";
import { AWKWARD_AMAXES, bitsOf, FLOAT8, randomFloats } from "../support/fp8.ts";
import { generator, uniforms } from "../support/random.ts";

const LARGEST = { float8_e4m3fn: 448, float8_e5m2: 57344 } as const;
const MODES = ["floor", "ceil", "even", "rceil"] as const;

/** Float32 input, then float16, bfloat16, e4m3 and e5m2, saturating. Computed by an independent routine. */
// biome-ignore format: a table is read by rows
const VECTORS: readonly (readonly [number, number, number, number, number])[] = [
  [0.1, 0.0999755859375, 0.10009765625, 0.1015625, 0.09375],
  [1 / 3, 0.333251953125, 0.333984375, 0.34375, 0.3125],
  [1 + 2 ** -11, 1, 1, 1, 1],
  [1 + 3 * 2 ** -11, 1.001953125, 1, 1, 1],
  [1 + 2 ** -8, 1 + 2 ** -8, 1, 1, 1],
  [1 + 3 * 2 ** -8, 1 + 3 * 2 ** -8, 1.015625, 1, 1],
  [17, 17, 17, 16, 16],
  [18, 18, 18, 18, 16],
  [19, 19, 19, 20, 20],
  [257, 257, 256, 256, 256],
  [2049, 2048, 2048, 448, 2048],
  [2051, 2052, 2048, 448, 2048],
  [65504, 65504, 65536, 448, 57344],
  [65519.99, 65504, 65536, 448, 57344],
  [65520, Infinity, 65536, 448, 57344],
  [464, 464, 464, 448, 448],
  [465, 465, 464, 448, 448],
  [61439, 61440, 61440, 448, 57344],
  [61440, 61440, 61440, 448, 57344],
  [2 ** -25, 0, 2 ** -25, 0, 0],
  [2 ** -25 * (1 + 2 ** -23), 2 ** -24, 2 ** -25, 0, 0],
  [2 ** -10, 2 ** -10, 2 ** -10, 0, 2 ** -10],
  [2 ** -10 * (1 + 2 ** -23), 2 ** -10, 2 ** -10, 2 ** -9, 2 ** -10],
  [2 ** -17, 2 ** -17, 2 ** -17, 0, 0],
  [2 ** -17 * (1 + 2 ** -23), 2 ** -17, 2 ** -17, 0, 2 ** -16],
  [(2 - 2 ** -8) * 2 ** 127, Infinity, Infinity, 448, 57344],
];

describe.each(DEVICES)("on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("case 60: rounding vectors of every format", async () => {
    const inputs = tensor(VECTORS.flatMap(([x]) => [x, -x]));
    const one = tensor(Float32Array.of(1), { shape: [] });
    const results = {
      float16: inputs.cast("float16").cast("float32"),
      bfloat16: inputs.cast("bfloat16").cast("float32"),
      float8_e4m3fn: quantizeTensor(inputs, one, "float8_e4m3fn"),
      float8_e5m2: quantizeTensor(inputs, one, "float8_e5m2"),
    };
    for (const [i, result] of Object.values(results).entries()) {
      const expected = VECTORS.flatMap((row) => [row[i + 1] as number, -(row[i + 1] as number)]);
      expect(bitsOf(await result.data())).toEqual(bitsOf(expected));
    }
  });

  it.each([
    ["float16", 2],
    ["bfloat16", 2],
    ["float8_e4m3fn", 1],
    ["float8_e5m2", 1],
  ] as const)("case 60: every pattern of %s comes back, and random numbers round as float64 says", async (dtype, bytes) => {
    const count = 256 ** bytes;
    const words = bytes === 1 ? new Uint8Array(count) : new Uint16Array(count);
    for (let i = 0; i < count; i++) words[i] = i;
    const stored = fromBytes(new Uint8Array(words.buffer), { shape: [count], dtype });
    const again = await stored.cast("float32").cast(dtype).bytes();
    const back = bytes === 1 ? again : new Uint16Array(again.buffer, again.byteOffset, count);
    const different = [...words].filter((bits) => back[bits] !== bits && !Number.isNaN(decode(bits, dtype)));
    expect(different).toEqual([]);
    const values = randomFloats(20_000, bytes);
    const rounded = await tensor(values).cast(dtype).cast("float32").data();
    expect(bitsOf(rounded)).toEqual(bitsOf(Array.from(values, (v) => round(v, dtype))));
  });

  it("case 65: a checkpoint of the amax history gives the next step bit for bit", async () => {
    const folder = mkdtempSync(join(tmpdir(), "binade-fp8-"));
    const build = () => {
      const model = new nn.Sequential(
        new nn.Linear(6, 12, { seed: 4 }),
        new nn.GELU(),
        new nn.Linear(12, 3, { seed: 5 }),
      );
      nn.fp8(model, { scaling: { kind: "delayed", historyLength: 4 } });
      const optimizer = new optim.AdamW(model, { lr: 0.05 });
      const step = compile((x, y) => {
        const loss = crossEntropy(model.forward(x), y);
        optimizer.apply(gradients(loss, model));
        return loss;
      });
      const variables = new Map<string, Variable>([
        ...model.namedParameters(),
        ...model.namedBuffers(),
        ...optimizer.namedState(),
      ]);
      return { step, variables };
    };
    /** Ever smaller inputs: a scale that knew the present step alone would be another. */
    const batch = (i: number) =>
      [
        tensor(Float32Array.from(uniforms(i, 24, -(4 ** -i), 4 ** -i)), { shape: [4, 6] }),
        tensor(Int32Array.of(0, 1, 2, i % 3)),
      ] as const;
    const stateOf = async ({ variables }: ReturnType<typeof build>): Promise<readonly string[]> =>
      Promise.all([...variables].map(async ([name, v]) => `${name} ${Buffer.from(await v.bytes()).toString("hex")}`));
    try {
      const first = build();
      for (const i of [0, 1, 2]) await first.step(...batch(i));
      const path = join(folder, "checkpoint.safetensors");
      await saveCheckpoint(path, first.variables, { step: 3, skippedSteps: 0, settings: {}, notes: {} });
      const second = build();
      await restoreCheckpoint(await readCheckpoint(path), second.variables);
      for (const i of [3, 4]) {
        const [a, b] = [await first.step(...batch(i)), await second.step(...batch(i))];
        expect(bitsOf(await b.data())).toEqual(bitsOf(await a.data()));
        expect(await stateOf(second)).toEqual(await stateOf(first));
      }
      // Without the history the same weights step elsewhere.
      const third = build();
      await restoreCheckpoint(await readCheckpoint(path), third.variables);
      for (const [name, v] of third.variables)
        if (name.includes("amaxHistory")) await v.load(new Uint8Array(v.byteLength));
      await third.step(...batch(3));
      await third.step(...batch(4));
      expect(await stateOf(third)).not.toEqual(await stateOf(first));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("delayed scaling", () => {
  const rule = { margin: 0, amax: "max" } as const;
  const largestFloat32 = (2 - 2 ** -23) * 2 ** 127;

  it.each([
    ["0", 0, 8],
    ["tiny", 2 ** -149, largestFloat32],
    ["normal", 2, 224],
    ["infinite", Infinity, 8],
    ["NaN", Number.NaN, 8],
  ])("case 61: an amax that is %s", (_, amax, scale) => {
    expect(nextDelayedState({ scale: 8, history: [0, 0] }, amax, "float8_e4m3fn", rule).scale).toBe(scale);
  });

  it("case 61: a margin keeps binades free, and the format gives the largest number", () => {
    const at = (format: "float8_e4m3fn" | "float8_e5m2", margin: number): number =>
      nextDelayedState({ scale: 1, history: [0] }, 2, format, { ...rule, margin }).scale;
    expect([at("float8_e4m3fn", 3), at("float8_e5m2", 0)]).toEqual([28, 28672]);
  });

  it("case 61: the history rolls and its newest slot is cleared, and the greatest or the last amax counts", () => {
    let greatest: DelayedState = initialDelayedState({ historyLength: 3 });
    let last = greatest;
    const [histories, scales]: [number[][], number[][]] = [[], []];
    for (const amax of [7, 4, 2, 1]) {
      greatest = nextDelayedState(greatest, amax, "float8_e4m3fn", rule);
      last = nextDelayedState(last, amax, "float8_e4m3fn", { ...rule, amax: "mostRecent" });
      histories.push([...greatest.history]);
      scales.push([greatest.scale, last.scale]);
    }
    expect(histories).toEqual([
      [0, 0, 7],
      [0, 7, 4],
      [0, 4, 2],
      [0, 2, 1],
    ]);
    expect(scales).toEqual([
      [64, 64],
      [64, 112],
      [64, 224],
      [112, 448],
    ]);
  });
});

describe("powers of two", () => {
  const amaxes = [...AWKWARD_AMAXES, ...randomFloats(5000, 9).map(Math.abs)].filter((a) => a > 0 && a < Infinity);

  it("case 62: the scale of the power-of-two mode has no mantissa, and scales no amax beyond the format", () => {
    for (const format of FLOAT8) {
      const wrong = amaxes.filter((amax) => {
        const scale = currentScale(amax, format, { powerOfTwo: true, minimumAmax: 0 });
        return 2 ** Math.round(Math.log2(scale)) !== scale || Math.fround(amax * scale) > LARGEST[format];
      });
      expect(wrong).toEqual([]);
    }
  });

  it.each(["ceil", "rceil"] as const)("case 62: blocks by %s scale no amax beyond the format", (mode) => {
    for (const format of FLOAT8) {
      const isBeyond = (amax: number): boolean =>
        amax / blockScale(amax, format, mode) > LARGEST[format] * roundingOf(amax);
      expect(amaxes.filter(isBeyond)).toEqual([]);
    }
  });

  it("case 62: blocks by floor and even do, and saturate", () => {
    const ratio = (amax: number, mode: (typeof MODES)[number]): number =>
      amax / blockScale(amax, "float8_e4m3fn", mode);
    expect(MODES.map((mode) => ratio(449, mode))).toEqual([449, 224.5, 449, 224.5]);
    expect(MODES.map((mode) => ratio(500, mode))).toEqual([500, 250, 250, 250]);
  });

  it.each(MODES)("case 63: codes of block scales by %s: NaN 0xFF, infinity 0xFE, zero 0x00", (mode) => {
    for (const format of FLOAT8) {
      const codeOf = (amax: number): number => encodeE8M0(blockScale(amax, format, mode));
      expect([Number.NaN, Infinity, 0].map(codeOf)).toEqual([0xff, 0xfe, 0x00]);
      expect([2 ** -149, LARGEST[format]].map(codeOf)).toEqual([0x00, mode === "ceil" ? 128 : 127]);
    }
  });
});

/** Where amax / largest is subnormal in float32, and at least 2^−127, it was rounded by up to 2^−23 of itself. */
const roundingOf = (amax: number): number => (amax < 57344 * 2 ** -126 ? 1 + 2 ** -22 : 1);

it("case 64: stochastic rounding to 8 bits gives a neighbour, and errs less in the mean than rounding to nearest", () => {
  const next = generator(5);
  for (const [format, spacing] of [
    ["float8_e4m3fn", 2 ** -5],
    ["float8_e5m2", 2 ** -4],
  ] as const) {
    for (const x of [0.32, 0.33, 0.35, 0.36]) {
      const values = Array.from({ length: 4000 }, () => decode(encodeStochastic(x, format, next() * 2 ** 32), format));
      const below = Math.floor(x / spacing) * spacing;
      expect(new Set(values)).toEqual(new Set([below, below + spacing]));
      const mean = values.reduce((a, b) => a + b) / values.length;
      expect(Math.abs(mean - x)).toBeLessThan(Math.abs(round(x, format) - x) / 2);
    }
  }
});
