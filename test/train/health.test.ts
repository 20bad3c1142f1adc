/** Skipped steps in every mixture: which warnings, and when it is over. */
import { describe, expect, it } from "vitest";
import type { ReadOutcome } from "../../src/optim/outcome.ts";
import { Health } from "../../src/train/health.ts";
import { PRECISIONS, type Precision } from "../../src/train/presets.ts";

const scales = { lossScaleBefore: 2, lossScaleAfter: 1 };
const applied: ReadOutcome = { applied: true, ...scales };
const gradient: ReadOutcome = {
  applied: false,
  reason: "gradientOverflow",
  parameters: ["a", "b"],
  ...scales,
  atFloor: false,
  exhausted: false,
};
const atFloor: ReadOutcome = { ...gradient, atFloor: true };
const forward: ReadOutcome = { ...gradient, reason: "forwardOverflow", parameters: [] };

/** `code step` of every warning, and the code of the error in the end, if any. */
function watch(precision: Precision, outcomes: readonly ReadOutcome[]): string[] {
  const health = new Health(precision);
  const seen: string[] = [];
  for (const [i, outcome] of outcomes.entries()) {
    try {
      for (const { code, step } of health.observe(i + 1, outcome)) seen.push(`${code} ${step}`);
    } catch (error) {
      return [...seen, `${(error as { code?: string }).code} at ${i + 1}`];
    }
  }
  return seen;
}

const times = (count: number, ...outcomes: readonly ReadOutcome[]): ReadOutcome[] =>
  Array.from({ length: count }, () => outcomes).flat();

describe("Health", () => {
  it.each([
    ["applied steps", "fp16-mixed", times(50, applied), []],
    ["a scale that adapts", "fp16-mixed", [...times(19, gradient), applied], []],
    ["a long fall of the scale", "fp16-mixed", times(60, gradient), ["run.stalled 20"]],
    [
      "the floor",
      "fp16-mixed",
      [...times(3, gradient), ...times(20, atFloor)],
      ["scale.floor 4", "run.stalled 20", "run.stalled at 23"],
    ],
    ["the floor now and then", "fp16-mixed", times(60, atFloor, applied), ["scale.floor 1", "scale.floor 101"]],
    ["a loss that is not finite", "fp16-mixed", times(20, forward), ["loss.notFinite 1", "run.stalled at 20"]],
    [
      "a loss that recovers",
      "fp16-mixed",
      [...times(19, forward), applied, ...times(19, forward)],
      ["loss.notFinite 1"],
    ],
    [
      "a loss that overflows between gradients",
      "fp16-mixed",
      times(10, forward, gradient),
      ["loss.notFinite 1", "run.stalled 20"],
    ],
    ["no scaling", "fp32", times(20, gradient), ["gradient.notFinite 1", "run.stalled at 20"]],
    [
      "no scaling, both causes",
      "bf16-mixed",
      times(10, gradient, forward),
      ["gradient.notFinite 1", "loss.notFinite 2", "run.stalled at 20"],
    ],
  ] as const)("%s", (_, precision, outcomes, expected) => {
    expect(watch(precision, outcomes)).toEqual(expected);
  });

  it.each(PRECISIONS)("says what happened and what to do in one sentence (%s)", (precision) => {
    const health = new Health(precision);
    const [warning] = health.observe(7, forward);
    expect(warning).toMatchObject({ type: "warning", step: 7, code: "loss.notFinite" });
    expect(warning?.message).toMatch(
      /^step 7 was skipped: the loss is not finite, .*; if it goes on, use .*lower learning rate/,
    );
    expect(warning?.message).not.toContain("\n");
  });
});

describe("weights that 16 bits do not hold", () => {
  const lost = [
    { name: "head.weight", count: 3 },
    { name: "head.bias", count: 1 },
  ];
  const sentence = "4 weights of head.weight and 1 more are infinite or NaN in 16 bits";

  it("are a warning with names and count, which is not repeated for a while", () => {
    const health = new Health("fp16-mixed");
    const [warning, ...others] = health.weights(7, lost);
    expect(others).toEqual([]);
    expect(warning).toMatchObject({ type: "warning", step: 7, code: "weight.overflow" });
    expect(warning?.message).toBe(
      `step 7: ${sentence}, which no loss scale cures; start another run: use bf16-mixed, whose range is that of float32, or float32 parameters, or a lower learning rate`,
    );
    expect([health.weights(8, lost), health.weights(9, []), health.weights(106, lost)]).toEqual([[], [], []]);
    expect(health.weights(107, lost)).toHaveLength(1);
  });

  it("come before what else is to be said of the skipped step, and are named where the run ends", () => {
    const health = new Health("fp16-mixed");
    const codes = health.observe(1, forward, lost).map(({ code }) => code);
    expect(codes).toEqual(["weight.overflow", "loss.notFinite"]);
    for (let step = 2; step < 20; step++) health.observe(step, forward, lost);
    expect(() => health.observe(20, forward, lost)).toThrow(
      expect.objectContaining({
        code: "run.stalled",
        message: expect.stringMatching(
          new RegExp(`the loss is not finite, as ${sentence}, expected .* use bf16-mixed`),
        ),
      }),
    );
  });
});
