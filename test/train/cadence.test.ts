/** When runs evaluate and save by default: bounds on what it costs. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CheckpointClock, evaluationBatchCount, evaluationInterval } from "../../src/train/cadence.ts";

describe("evaluation", () => {
  it.each([
    [1, 1, 4],
    [6, 1, 4],
    [20, 6, 20],
    [54, 16, 54],
    [540, 16, 54],
    [4000, 16, 400],
    [2_000_000, 16, 200_000],
  ])("of a run of %i steps: %i batches every %i steps", (steps, batches, interval) => {
    expect(evaluationBatchCount(steps)).toBe(batches);
    expect(evaluationInterval(steps, batches)).toBe(interval);
  });

  it("costs at most a tenth of the run, the last one aside", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1e6 }), fc.integer({ min: 0, max: 1000 }), (steps, batches) => {
        const evaluations = Math.floor(steps / evaluationInterval(steps, batches));
        expect(evaluations).toBeLessThanOrEqual(10);
        expect((evaluations * batches) / 3).toBeLessThanOrEqual(steps / 10 + 1e-9);
      }),
    );
  });
});

describe("CheckpointClock", () => {
  /** The steps at which a run of `steps` steps saves, where a step takes `stepMs` and a save `saveMs`. */
  function savesOf(steps: number, stepMs: number, saveMs = 0, every?: number): number[] {
    let timeMs = 0;
    const clock = new CheckpointClock({ steps, every, now: () => timeMs }, 0);
    const saves: number[] = [];
    for (let step = 1; step <= steps; step++) {
      timeMs += stepMs;
      if (!clock.isDue(step)) continue;
      const beganMs = timeMs;
      timeMs += saveMs;
      clock.saved(step, beganMs);
      saves.push(step);
    }
    return saves;
  }

  it("leaves a run of less than 10 seconds alone", () => {
    expect(savesOf(1000, 9.9)).toEqual([]);
  });

  it("keeps 10 seconds between two saves", () => {
    expect(savesOf(35, 1000)).toEqual([10, 20, 30]);
  });

  it("saves every tenth of a run of minutes", () => {
    expect(savesOf(200, 1000)).toEqual([20, 40, 60, 80, 100, 120, 140, 160, 180, 200]);
  });

  it("saves every 5 minutes of a run of days", () => {
    expect(savesOf(200_000, 1000)).toHaveLength(666);
  });

  it("spends at most a thirtieth of the time on slow disks", () => {
    const saves = savesOf(600, 1000, 2000);
    expect(saves[1]).toBe(120);
    expect(savesOf(600, 1000, 4000).slice(0, 3)).toEqual([60, 180, 300]);
  });

  it("counts from the checkpoint that a run resumes", () => {
    let timeMs = 0;
    const clock = new CheckpointClock({ steps: 100, every: undefined, now: () => timeMs }, 95);
    timeMs = 20_000;
    expect(clock.isDue(100)).toBe(false);
  });

  it("saves at the multiples that it is told, whatever the time", () => {
    expect(savesOf(10, 0, 0, 4)).toEqual([4, 8]);
    expect(savesOf(3, 1e9, 0, 4)).toEqual([]);
  });
});
