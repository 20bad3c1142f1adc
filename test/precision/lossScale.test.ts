/** The loss scale's state machine: known cases, PyTorch's own traces, and its invariants. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BinadeError } from "../../src/errors.ts";
import {
  initialLossScale,
  isAtFloor,
  type LossScaleOptions,
  type LossScaleState,
  lossScaleRule,
  nextLossScale,
} from "../../src/precision/lossScale.ts";
import { readJson } from "../support/fixtures.ts";

interface Trace {
  readonly settings: LossScaleOptions;
  readonly flags: string;
  readonly scales: readonly (number | string)[];
  readonly trackers: readonly number[];
}
const fixture = readJson<{ traces: readonly Trace[]; cases: { update: readonly Trace[] } }>("scaler.json");

/** The states after each flag: "0" clean, anything else an overflow. */
function run(options: LossScaleOptions, flags: string): readonly LossScaleState[] {
  const rule = lossScaleRule(options);
  let state = initialLossScale(rule);
  return [...flags].map((flag) => (state = nextLossScale(state, rule, flag === "0")));
}

const last = (states: readonly LossScaleState[]): LossScaleState => states[states.length - 1] as LossScaleState;
const scalesOf = (options: LossScaleOptions, flags: string): readonly number[] =>
  run(options, flags).map(({ scale }) => scale);

describe("known cases", () => {
  it("case 1: grows at the interval, backs off at once", () => {
    const options = { initialScale: 4, growthFactor: 2, backoffFactor: 0.25, growthInterval: 2 };
    expect(run(options, "00i")).toEqual([
      { scale: 4, growthTracker: 1 },
      { scale: 8, growthTracker: 0 },
      { scale: 2, growthTracker: 0 },
    ]);
  });

  it.each(["pytorch", "binade"] as const)("case 2: growth never leaves float32 (%s)", (profile) => {
    const bounds = profile === "pytorch" ? { initialScale: 1e38 } : { initialScale: 2 ** 125, ceiling: 2 ** 126 };
    for (const { scale, growthTracker } of run(
      { ...bounds, growthFactor: 16, growthInterval: 1, preset: profile },
      "0".repeat(10),
    )) {
      expect(Number.isFinite(scale) && scale > 0 && growthTracker === 0).toBe(true);
    }
  });

  it("case 3: one overflow among four steps", () => {
    expect(last(run({ initialScale: 128, growthInterval: 1 }, "00i0")).scale).toBe(512);
  });

  it("case 4: four overflows quarter twice; eight clean steps double four times", () => {
    expect(last(run({ initialScale: 400 }, "iiii")).scale).toBe(25);
    expect(last(run({ initialScale: 2, growthInterval: 2 }, "0".repeat(8))).scale).toBe(32);
  });

  it("case 5: the twentieth clean step grows, the next overflow undoes it", () => {
    const states = run({ initialScale: 10, growthInterval: 20 }, `${"0".repeat(20)}i`);
    expect(states[18]).toEqual({ scale: 10, growthTracker: 19 });
    expect(states[19]).toEqual({ scale: 20, growthTracker: 0 });
    expect(states[20]).toEqual({ scale: 10, growthTracker: 0 });
  });

  it.each([1, 0.3125, 0.37])("case 5: a hundred overflows end at the floor %d", (floor) => {
    expect(last(run({ initialScale: 10, floor }, "i".repeat(100))).scale).toBe(
      Math.fround(Math.max(floor, 10 * 0.5 ** 100)),
    );
  });

  it("case 5: without a floor the hundredth overflow still halves", () => {
    expect(last(run({ initialScale: 10, preset: "pytorch" }, "i".repeat(100))).scale).toBe(
      Math.fround(10 * 0.5 ** 100),
    );
  });

  it("case 9: an interval lowered below the tracker grows at once, and never in PyTorch's profile", () => {
    const state = { scale: 8, growthTracker: 5 };
    const lowered = { growthInterval: 3 };
    expect(nextLossScale(state, lossScaleRule(lowered), true)).toEqual({ scale: 16, growthTracker: 0 });
    expect(nextLossScale(state, lossScaleRule({ ...lowered, preset: "pytorch" }), true)).toEqual({
      scale: 8,
      growthTracker: 6,
    });
  });

  it("case 10: 200 overflows stop at the floor; in PyTorch's profile the 166th makes the scale 0", () => {
    const rule = lossScaleRule();
    const bounded = run({}, "i".repeat(200));
    expect(last(bounded).scale).toBe(2 ** -14);
    expect(bounded.findIndex((state) => isAtFloor(state, rule))).toBe(29);
    const unbounded = scalesOf({ preset: "pytorch" }, "i".repeat(200));
    expect(unbounded.indexOf(0)).toBe(165);
    expect(unbounded.findIndex((scale) => Math.fround(1 / scale) === Number.POSITIVE_INFINITY)).toBe(143);
  });
});

describe("PyTorch's traces", () => {
  const traces = [...fixture.traces, ...fixture.cases.update];
  it.each(traces.map((trace, i) => [i, trace] as const))("trace %i", (_, { settings, flags, scales, trackers }) => {
    const states = run({ ...settings, preset: "pytorch" }, flags);
    expect(states.map(({ scale }) => scale)).toEqual(scales.map(Number));
    expect(states.map(({ growthTracker }) => growthTracker)).toEqual(trackers);
  });
});

describe("case 11: for every sequence of flags", () => {
  const options = fc.record({
    growthFactor: fc.constantFrom(2, 4, 1.5, 1.1),
    backoffFactor: fc.constantFrom(0.5, 0.25, 0.75, 0.9),
    growthInterval: fc.integer({ min: 1, max: 5 }),
  });
  const flags = fc.array(fc.boolean(), { maxLength: 300 });

  it("the scale stays within its bounds and the tracker below the interval", () => {
    fc.assert(
      fc.property(options, flags, (chosen, sequence) => {
        const rule = lossScaleRule({ ...chosen, floor: 0.5, ceiling: 2 ** 20 });
        let state = initialLossScale(rule);
        for (const finite of sequence) {
          state = nextLossScale(state, rule, finite);
          expect(state.scale).toBeGreaterThanOrEqual(rule.floor);
          expect(state.scale).toBeLessThanOrEqual(rule.ceiling);
          expect(state.growthTracker).toBeLessThan(rule.growthInterval);
        }
      }),
    );
  });

  it("the scale is the first one times powers of the factors, as long as no bound is met", () => {
    fc.assert(
      fc.property(flags, (sequence) => {
        const options = {
          initialScale: 1,
          growthFactor: 4,
          backoffFactor: 0.5,
          growthInterval: 2,
          preset: "pytorch",
        } as const;
        const rule = lossScaleRule(options);
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

describe("options", () => {
  const misspelt: object = { growthIntervall: 5 };
  const bad: readonly (readonly [string, LossScaleOptions, string])[] = [
    ["initialScale 0", { initialScale: 0 }, "value.range"],
    ["initialScale NaN", { initialScale: Number.NaN }, "value.range"],
    ["initialScale beyond float32", { initialScale: 1e39 }, "value.range"],
    ["growthFactor 1", { growthFactor: 1 }, "value.range"],
    ["growthFactor infinite", { growthFactor: Number.POSITIVE_INFINITY }, "value.range"],
    ["backoffFactor 1", { backoffFactor: 1 }, "value.range"],
    ["backoffFactor negative", { backoffFactor: -0.5 }, "value.range"],
    ["growthInterval 0", { growthInterval: 0 }, "value.range"],
    ["growthInterval 1.5", { growthInterval: 1.5 }, "value.range"],
    ["floor 0", { floor: 0 }, "value.range"],
    ["ceiling infinite", { ceiling: Number.POSITIVE_INFINITY }, "value.range"],
    ["floor above the first scale", { floor: 4, initialScale: 2 }, "option.invalid"],
    ["ceiling below the first scale", { ceiling: 2 }, "option.invalid"],
    ["a misspelt key", misspelt, "option.unknown"],
  ];
  it.each(bad)("%s is refused", (_, options, code) => {
    expect(() => lossScaleRule(options)).toThrow(expect.objectContaining({ code }));
    expect(() => lossScaleRule(options)).toThrow(BinadeError);
  });

  it("defaults are PyTorch's, with bounds", () => {
    expect(lossScaleRule()).toMatchObject({
      initialScale: 65536,
      growthFactor: 2,
      backoffFactor: 0.5,
      growthInterval: 2000,
      floor: 2 ** -14,
      ceiling: 2 ** 24,
      hysteresis: 1,
      tolerance: 0,
      checks: "both",
    });
  });
});
