/** Sides in turns: a burst of steps of one, a pause, a burst of the next. Medians and ratios survive a noisy machine that way. */
import { setTimeout as pause } from "node:timers/promises";

/** Steps that take less than this run several to a turn, so that each side finds its own data in the caches. */
const TURN_MS = 50;
const MOST_STEPS = 200;
/**
 * Threads of OpenMP and OpenBLAS spin after their last loop and would take a core from the next side: OpenBLAS for 2^28 cycles, which
 * is 113 ms of processor time at 2.4 GHz.
 */
const PAUSE_MS = 150;
/** Untimed steps before a burst of several, as a share of it: caches, and a core that has slept, are slow for some milliseconds. */
const LEAD_IN = 0.5;
const LEAST_TURNS = 3;

/**
 * Runs every side (`run(count)` → milliseconds of each step) for `seconds` altogether, at least `LEAST_TURNS` turns each.
 * Yields nothing of the first turn, which finds the length of a burst, nor of the lead-in of a longer one.
 */
export async function takeTurns(sides, { seconds, signal }) {
  const times = sides.map(() => []);
  const bursts = [];
  for (const side of sides) {
    const [stepMs] = await side.run(1);
    bursts.push(Math.min(MOST_STEPS, Math.max(1, Math.ceil(TURN_MS / stepMs))));
  }
  const start = performance.now();
  for (let turn = 0; turn < LEAST_TURNS || performance.now() - start < seconds * 1000; turn++) {
    for (const [i, side] of sides.entries()) {
      if (signal.aborted) return times;
      await pause(PAUSE_MS);
      const leadIn = bursts[i] > 1 ? Math.ceil(LEAD_IN * bursts[i]) : 0;
      times[i].push(...(await side.run(leadIn + bursts[i])).slice(leadIn));
    }
  }
  return times;
}
