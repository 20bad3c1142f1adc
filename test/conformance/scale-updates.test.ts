/** Conformance e.1, the state machine of the loss scale: cases 1 to 12, as tables of options, flags and scales. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  initialLossScale,
  isAtFloor,
  type LossScaleOptions,
  type LossScaleState,
  lossScaleRule,
  moveLossScale,
  nextLossScale,
  optim,
  SCALE_PRESETS,
  type ScalePreset,
} from "../../src/index.ts";

const PRESETS = Object.keys(SCALE_PRESETS) as ScalePreset[];
const clean = (count: number): string => "0".repeat(count);
const overflow = (count: number): string => "i".repeat(count);

/** The states after each flag, "0" clean and "i" an overflow, until the system ends the run. */
function run(options: LossScaleOptions, flags: string): readonly LossScaleState[] {
  const rule = lossScaleRule(options);
  const states: LossScaleState[] = [];
  let state = initialLossScale(rule);
  for (const flag of flags) {
    const moved = moveLossScale(state, rule, flag === "0");
    if (moved.exhausted) break;
    state = moved.state;
    states.push(state);
  }
  return states;
}
const scalesOf = (options: LossScaleOptions, flags: string): readonly number[] =>
  run(options, flags).map(({ scale }) => scale);
const lastScale = (options: LossScaleOptions, flags: string): number => scalesOf(options, flags).at(-1) ?? Number.NaN;

describe("the scale after each step", () => {
  const four = { initialScale: 4, growthFactor: 2, backoffFactor: 0.25, growthInterval: 2 };
  const small = { preset: "deepspeed", initialScale: 2 ** 8, growthInterval: 2 } as const;
  const megatron = { preset: "megatron", growthInterval: 3 } as const;
  const apex = { preset: "apex-hysteresis", growthInterval: 3, initialScale: 2 ** 32 } as const;
  const fairseq = { preset: "fairseq", initialScale: 8, growthInterval: 100 } as const;
  const rows: readonly (readonly [string, LossScaleOptions, string, readonly number[]])[] = [
    ["1: grows at the interval, backs off at once", four, "00i", [4, 8, 2]],
    ["3: one overflow among four steps", { initialScale: 128, growthInterval: 1 }, "00i0", [256, 512, 256, 512]],
    ["4: four overflows", { preset: "keras", initialScale: 400 }, "iiii", [200, 100, 50, 25]],
    [
      "4: eight clean steps double four times",
      { preset: "keras", initialScale: 2, growthInterval: 2 },
      clean(8),
      [2, 4, 4, 8, 8, 16, 16, 32],
    ],
    [
      "5: the twentieth clean step grows, the next overflow undoes it",
      { preset: "jmp", initialScale: 10, growthInterval: 20 },
      `${clean(20)}i`,
      [...Array(19).fill(10), 20, 10],
    ],
    [
      "6: DeepSpeed, hysteresis 1: every overflow halves, down to the minimum",
      { ...small, hysteresis: 1, initialScale: 8 },
      "iii",
      [4, 2, 1],
    ],
    ["6: DeepSpeed ends the run at the minimum", { ...small, hysteresis: 1, initialScale: 2 }, "iii0", [1]],
    [
      "6: DeepSpeed without ZeRO sticks there",
      { preset: "deepspeed-zero0", initialScale: 4, growthInterval: 2 },
      "iiii",
      [2, 1, 1, 1],
    ],
    [
      "6: DeepSpeed: two overflows, then window + 1 clean steps double once",
      { ...small, hysteresis: 1 },
      "ii000",
      [128, 64, 64, 64, 128],
    ],
    ["6: DeepSpeed, hysteresis 2: the second overflow halves", { ...small, hysteresis: 2 }, "ii", [256, 128]],
    ["7: fairseq ends the run at the minimum, the scale restored", { ...fairseq, floor: 1 }, "iiii", [4, 2]],
    [
      "7: fairseq: a share of overflows below the tolerance moves nothing",
      { ...fairseq, tolerance: 0.5 },
      "00i0i0000ii",
      Array(11).fill(8),
    ],
    ["7: fairseq: the share that is tolerated is reached", { ...fairseq, tolerance: 0.5 }, "0i", [8, 4]],
    ["8: Megatron: the second of two overflows halves", megatron, "ii", [2 ** 32, 2 ** 31]],
    ["8: Megatron: spent, every one halves", megatron, "iiii", [2 ** 32, 2 ** 31, 2 ** 30, 2 ** 29]],
    [
      "8: Megatron: one clean step does not refill the hysteresis",
      megatron,
      "ii0i",
      [2 ** 32, 2 ** 31, 2 ** 31, 2 ** 30],
    ],
    [
      "8: Megatron: the window doubles and refills it",
      megatron,
      "ii000i",
      [2 ** 32, 2 ** 31, 2 ** 31, 2 ** 31, 2 ** 32, 2 ** 32],
    ],
    ["8: Apex: one clean step refills it", apex, "ii0i", [2 ** 32, 2 ** 31, 2 ** 31, 2 ** 31]],
  ];
  it.each(rows)("%s", (_, options, flags, scales) => {
    expect(scalesOf(options, flags)).toEqual(scales);
  });

  it("1: the tracker counts clean steps, and restarts", () => {
    expect(run(four, "00i").map(({ growthTracker }) => growthTracker)).toEqual([1, 0, 0]);
  });
});

it.each(PRESETS)("2: ten growths by 16 from 1e38 stay positive, and finite where growth is guarded (%s)", (preset) => {
  const { guardsGrowth, ceiling, lag } = SCALE_PRESETS[preset];
  const bounds = preset === "binade" ? { initialScale: 2 ** 125, ceiling: 2 ** 126 } : { initialScale: 1e38 };
  const options = {
    preset,
    growthFactor: 16,
    growthInterval: 1,
    ...bounds,
    ...(preset === "apex" ? { ceiling: 2e38 } : {}),
  };
  for (const scale of scalesOf(options, clean(10 + lag))) {
    expect(scale).toBeGreaterThan(0);
    if (guardsGrowth || Number.isFinite(ceiling)) expect(Number.isFinite(scale)).toBe(true);
  }
});

describe("5: a hundred overflows end at the floor", () => {
  it.each([1, 0.3125, 0.37, 0])("5: floor %d", (floor) => {
    const want = Math.fround(Math.max(Math.fround(floor), 10 * 0.5 ** 100));
    expect(lastScale({ preset: "jmp", initialScale: 10, floor }, overflow(100))).toBe(want);
  });
});

describe("9: an interval lowered below the tracker", () => {
  const state = { scale: 8, growthTracker: 5 };
  it.each([
    ["binade", 16, 0],
    ["tf-keras", 16, 0],
    ["pytorch", 8, 6],
    ["keras", 8, 6],
    ["jmp", 8, 0],
    ["fairseq", 16, 0],
  ] as const)("9: %s", (preset, scale, growthTracker) => {
    expect(nextLossScale(state, lossScaleRule({ preset, growthInterval: 3 }), true)).toEqual({ scale, growthTracker });
  });
});

describe("10: 200 overflows in a row", () => {
  it("10: stop at the floor, which keeps 1/scale normal, and a stall is reported", () => {
    const rule = lossScaleRule();
    const states = run({}, overflow(200));
    expect(states.at(-1)?.scale).toBe(2 ** -14);
    expect(states.findIndex((state) => isAtFloor(state, rule))).toBe(29);
    expect(Math.fround(1 / 2 ** -14)).toBe(2 ** 14);
    const detector = new optim.StallDetector();
    const stalls = states.map((state, i) => {
      const before = states[i - 1]?.scale ?? rule.initialScale;
      const scales = { lossScaleBefore: before, lossScaleAfter: state.scale };
      const skipped = { applied: false, reason: "gradientOverflow", parameters: ["w"], exhausted: false } as const;
      return detector.observe({ ...skipped, ...scales, atFloor: before <= rule.floor });
    });
    expect(stalls.findIndex((stall) => stall?.kind === "adapting")).toBe(19);
    expect(stalls.findIndex((stall) => stall?.kind === "stalled")).toBe(30 + 19);
    expect(stalls[49]).toMatchObject({ steps: 50, parameters: ["w"], remedy: expect.stringContaining("bfloat16") });
  });

  it("10: without a floor 1/scale is infinite after 144 of them, and the scale 0 after 166", () => {
    const scales = scalesOf({ preset: "pytorch" }, overflow(200));
    expect(scales.indexOf(0)).toBe(165);
    expect(scales.findIndex((scale) => Math.fround(1 / scale) === Number.POSITIVE_INFINITY)).toBe(143);
  });
});

describe("11: for every sequence of flags", () => {
  const options = fc.record({
    preset: fc.constantFrom(...PRESETS),
    growthFactor: fc.constantFrom(2, 4, 1.5, 1.1),
    growthInterval: fc.integer({ min: 1, max: 5 }),
  });
  const flags = fc.array(fc.boolean(), { maxLength: 300 });

  it("11: the scale stays within its bounds and the tracker below the interval", () => {
    fc.assert(
      fc.property(options, flags, (chosen, sequence) => {
        const rule = lossScaleRule({ ...chosen, initialScale: 65536, floor: 0.5, ceiling: 2 ** 20 });
        let state = initialLossScale(rule);
        for (const finite of sequence) {
          state = nextLossScale(state, rule, finite);
          expect(state.scale).toBeGreaterThanOrEqual(rule.floor);
          expect(state.scale).toBeLessThanOrEqual(rule.ceiling);
          expect(state.growthTracker).toBeLessThan(rule.growthInterval + rule.lag);
        }
      }),
    );
  });

  it("11: the scale is the first one times powers of the factors, as long as no bound is met", () => {
    fc.assert(
      fc.property(flags, (sequence) => {
        const rule = lossScaleRule({
          initialScale: 1,
          growthFactor: 4,
          backoffFactor: 0.5,
          growthInterval: 2,
          preset: "pytorch",
        });
        let [state, grown, shrunk] = [initialLossScale(rule), 0, 0];
        for (const finite of sequence.slice(0, 60)) {
          const next = nextLossScale(state, rule, finite);
          if (!finite) shrunk++;
          else if (next.scale !== state.scale) grown++;
          state = next;
          expect(state.scale).toBe(4 ** grown * 0.5 ** shrunk);
        }
      }),
    );
  });
});

describe("12: clean steps until the scale grows: at the start, after that, and after an overflow", () => {
  const N = 5;
  const rows: Readonly<Record<ScalePreset, readonly [number, number, number]>> = {
    binade: [N, N, N],
    pytorch: [N, N, N],
    keras: [N, N, N],
    "tf-keras": [N, N, N],
    jmp: [N, N, N],
    flax: [N + 1, N + 1, N + 1],
    apex: [N, N, N],
    "apex-hysteresis": [N, N, N],
    megatron: [N, N, N],
    deepspeed: [N + 1, N, N + 1],
    "deepspeed-zero0": [N + 1, N, N + 1],
    fairseq: [N, N, N],
  };
  it.each(PRESETS)("12: %s", (preset) => {
    const rule = lossScaleRule({ preset, growthInterval: N, initialScale: 1024, hysteresis: 1 });
    let state = initialLossScale(rule);
    const stepsToGrowth = (): number => {
      for (let i = 1; ; i++) {
        const next = nextLossScale(state, rule, true);
        const grew = next.scale > state.scale;
        state = next;
        if (grew) return i;
      }
    };
    const [first, second] = [stepsToGrowth(), stepsToGrowth()];
    state = nextLossScale(state, rule, false);
    expect([first, second, stepsToGrowth()]).toEqual(rows[preset]);
  });
});
