/** The line under a running training: what it shows, and what it leaves out when the terminal is narrow. Pure. */

import type { StepEvent } from "../train/events.ts";
import { formatCount, formatDuration, formatLoss, formatRate, formatScale } from "./format.ts";

/** What the line shows. */
export type Progress = {
  readonly latest: StepEvent;
  /** The attempted step at which the run will be finished. */
  readonly steps: number;
  /** Estimated milliseconds until then; nothing while there is no estimate. */
  readonly remainingMs: number | undefined;
  /** Whether the loss scale is worth a place: only where the run computes in float16. */
  readonly showsScale: boolean;
};

const SMALLEST_BAR = 7;
const LARGEST_BAR = 32;

/** The numbers of the line in the order in which they stand; the first of `kept` is the last to be left out. */
export function progressParts(progress: Progress): { shown: readonly string[]; kept: readonly string[] } {
  const { latest, steps, remainingMs, showsScale } = progress;
  const count = `${latest.step}/${steps}`;
  const loss = `loss ${formatLoss(latest.loss)}`;
  const rate = formatRate(latest);
  const scale = showsScale ? [`scale ${formatScale(latest.lossScale)}`] : [];
  const skipped = latest.skippedSteps > 0 ? [`${formatCount(latest.skippedSteps)} skipped`] : [];
  const left = remainingMs === undefined ? [] : [`${formatDuration(remainingMs)} left`];
  return {
    shown: [count, loss, rate, ...scale, ...skipped, ...left],
    kept: [count, loss, ...left, ...skipped, rate, ...scale],
  };
}

/** The line, at most `width` characters of one column each; without a bar where the numbers leave no room for one. */
export function progressLine(progress: Progress, width: number): { bar: string; text: string } {
  const { shown, kept } = progressParts(progress);
  const fitting = new Set<string>();
  let used = 0;
  for (const part of kept) {
    const length = part.length + (fitting.size > 0 ? 2 : 0);
    if (used + length > width) break;
    fitting.add(part);
    used += length;
  }
  const text = shown.filter((part) => fitting.has(part)).join("  ");
  if (text === "") return { bar: "", text: (kept[0] ?? "").slice(0, Math.max(0, width)) };
  const room = Math.min(LARGEST_BAR, width - text.length - 1);
  if (room < SMALLEST_BAR) return { bar: "", text };
  return { bar: drawBar(progress.latest.step / progress.steps, room), text: ` ${text}` };
}

/** A bar of exactly `width` characters. ASCII: block characters take two columns in East Asian terminals. */
function drawBar(fraction: number, width: number): string {
  const inside = width - 2;
  const filled = Math.round(inside * Math.min(1, Math.max(0, fraction)) || 0);
  const head = filled < inside ? ">" : "";
  return `[${"=".repeat(filled)}${head}${" ".repeat(inside - filled - head.length)}]`;
}
