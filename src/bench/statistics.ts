/** Summaries of timings that survive a noisy machine: medians and interquartile ranges. */

/** The quantile `q` from 0 to 1, between neighbours linearly; NaN of nothing. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** The interquartile range. */
export const spread = (values: readonly number[]): number => quantile(values, 0.75) - quantile(values, 0.25);
