/** The scale that follows the distribution of gradients: its quantile, its reaction to overflows, and its bounds. */
import { beforeAll, describe, expect, it } from "vitest";
import { compile, type LogMaxOptions, logMaxRule, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { ScaleVariables } from "../../src/optim/scaleTransition.ts";
import { logMaxMachine } from "../../src/precision/logMax.ts";
import { initialState, type MachineState, moveNumbers } from "../../src/precision/scaleMachine.ts";
import { DEVICES } from "../support/devices.ts";
import { generator } from "../support/random.ts";

/** Standard normal numbers (Box and Muller). */
function normals(seed: number): () => number {
  const draw = generator(seed);
  return () => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
}

interface Step {
  readonly finite: boolean;
  readonly largest: number;
}
function walk(options: LogMaxOptions, count: number, at: (i: number, scale: number) => Step) {
  const machine = logMaxMachine(logMaxRule(options));
  let state: MachineState<number> = initialState(machine);
  const scales: number[] = [];
  for (let i = 0; i < count; i++) {
    state = moveNumbers(machine, state, at(i, state.scale ?? Number.NaN)).state;
    scales.push(state.scale ?? Number.NaN);
  }
  return { state, scales };
}

describe("logMax", () => {
  it("puts the quantile of the largest gradient below float16's end", () => {
    const normal = normals(1);
    const [mean, deviation] = [-5, 0.7];
    const { state, scales } = walk({}, 5000, () => ({ finite: true, largest: 2 ** (mean + deviation * normal()) }));
    expect(state.mean).toBeCloseTo(mean, 0);
    expect(Math.sqrt(state.variance ?? 0)).toBeGreaterThan(0.55);
    expect(Math.sqrt(state.variance ?? 0)).toBeLessThan(0.85);
    const exponent = 16 - 1 - (mean + 3.09 * deviation);
    expect(Math.abs(Math.log2(scales.at(-1) ?? 0) - exponent)).toBeLessThanOrEqual(1.5);
  });

  it("overflows about as rarely as its quantile promises", () => {
    const normal = normals(2);
    let overflows = 0;
    walk({ headroom: 0 }, 20_000, (i, scale) => {
      const largest = 2 ** (3 + normal());
      const finite = largest * scale < 65520;
      if (i >= 2000 && !finite) overflows++;
      return { finite, largest };
    });
    // 0.1 % of 18 000 by the normal distribution; the floor to a power of two makes it rarer.
    expect(overflows).toBeLessThan(40);
  });

  it("learns from overflows that activations are larger than weights, and tries a binade again", () => {
    // Something that is 2^6 times the largest weight gradient overflows.
    const { state, scales } = walk({ recoveryInterval: 100 }, 1000, (_, scale) => ({
      finite: scale * 2 ** 6 < 65520,
      largest: 1,
    }));
    expect(state.penalty).toBeGreaterThanOrEqual(4);
    expect(Math.max(...scales.slice(100))).toBeLessThanOrEqual(2 ** 10);
    expect(scales.slice(100).filter((scale) => scale === 2 ** 9).length).toBeGreaterThan(800);
  });

  it("halves at an overflow at once, and doubles at most", () => {
    const { scales } = walk({ initialScale: 2 }, 12, (i) => ({ finite: i !== 6, largest: 2 ** -12 }));
    expect(scales.slice(0, 6)).toEqual([4, 8, 16, 32, 64, 128]);
    expect(scales[6]).toBe(64);
    expect(scales.slice(7, 9)).toEqual([128, 256]);
  });

  it.each([
    ["zeros teach nothing", 0, { finite: true, largest: 0 }, 2 ** 16],
    ["the floor", 100, { finite: false, largest: 1 }, 2 ** -14],
    ["the ceiling", 100, { finite: true, largest: 2 ** -60 }, 2 ** 24],
    ["huge gradients", 3, { finite: true, largest: 3e38 }, 2 ** -14],
  ] as const)("%s", (_, count, step, scale) => {
    expect(walk({}, Math.max(count, 1), () => step).scales.at(-1)).toBe(scale);
  });

  it("every scale is a power of two", () => {
    for (let k = -60; k <= 60; k++) {
      const { scales } = walk({ initialScale: 1, floor: 2 ** -100, ceiling: 2 ** 100, headroom: 0 }, 130, () => ({
        finite: true,
        // Not 2^k itself, whose logarithm float32 may put on either side of k.
        largest: 0.9 * 2 ** k,
      }));
      expect(scales.at(-1)).toBe(2 ** (16 - k));
    }
  });

  it.each([
    [{ meanDecay: 1 }, "value.range"],
    [{ deviations: -1 }, "value.range"],
    [{ recoveryInterval: 0 }, "value.range"],
    [{ floor: 3 }, "option.invalid"],
    [{ floor: 2, initialScale: 1 }, "option.invalid"],
    [{ headrom: 1 } as LogMaxOptions, "option.unknown"],
  ])("%j is refused", (options, code) => {
    expect(() => logMaxRule(options)).toThrow(expect.objectContaining({ code }));
  });
});

describe("logMax between its widest bounds", () => {
  it.each([
    [126, 2 ** -126],
    [-112, 2 ** 127],
  ])("comes to 2^%d, and stays a number", (exponent, largest) => {
    const { scales } = walk({ floor: 2 ** -126, ceiling: 2 ** 126 }, 200, () => ({ finite: true, largest }));
    expect(scales.at(-1)).toBe(2 ** exponent);
    for (const scale of scales) expect(Number.isInteger(Math.log2(scale))).toBe(true);
  });
});

describe.each(DEVICES)("logMax on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("moves as the numbers do, but for logarithms next to an integer", async () => {
    const machine = logMaxMachine(logMaxRule({ recoveryInterval: 7 }));
    const variables = new ScaleVariables(machine);
    const step = compile((finite: Tensor, largest: Tensor) => {
      variables.move(machine, { finite: finite.cast("bool"), largest });
    });
    const normal = normals(3);
    let state: MachineState<number> = initialState(machine);
    for (let i = 0; i < 200; i++) {
      const seen = { finite: i % 9 !== 5, largest: Math.fround(2 ** (-6 + normal())) };
      state = moveNumbers(machine, state, seen).state;
      await step(tensor(new Uint8Array([Number(seen.finite)])).reshape([]), tensor(seen.largest));
      const got = await variables.values();
      for (const key of ["growthTracker", "penalty", "meanBias", "varianceBias"]) expect(got[key]).toBe(state[key]);
      for (const key of ["mean", "slowMean", "variance"])
        expect(Math.abs((got[key] ?? 0) - (state[key] ?? 0))).toBeLessThan(1e-4);
      const exponent = Math.log2(got.scale ?? 0);
      expect(Number.isInteger(exponent)).toBe(true);
      expect(Math.abs(exponent - Math.log2(state.scale ?? 0))).toBeLessThanOrEqual(1);
      // The scale itself feeds back: both go on from one.
      await variables.load({ ...got, ...state });
    }
  });

  it("comes to 2^126 where gradients are as small as that", async () => {
    const machine = logMaxMachine(logMaxRule({ initialScale: 2 ** 125, ceiling: 2 ** 126 }));
    const variables = new ScaleVariables(machine);
    variables.move(machine, { finite: tensor([1]).reshape([]).cast("bool"), largest: tensor(2 ** -126) });
    expect((await variables.values()).scale).toBe(2 ** 126);
  });
});
