/** The loss scale's state machine: PyTorch's own traces, and the options. */
import { describe, expect, it } from "vitest";
import { BinadeError } from "../../src/errors.ts";
import {
  initialLossScale,
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

describe("PyTorch's traces", () => {
  const traces = [...fixture.traces, ...fixture.cases.update];
  it.each(traces.map((trace, i) => [i, trace] as const))("trace %i", (_, { settings, flags, scales, trackers }) => {
    const states = run({ ...settings, preset: "pytorch" }, flags);
    expect(states.map(({ scale }) => scale)).toEqual(scales.map(Number));
    expect(states.map(({ growthTracker }) => growthTracker)).toEqual(trackers);
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
