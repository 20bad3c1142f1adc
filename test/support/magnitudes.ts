/** Counts of magnitudes by hand: an oracle that looks at values, not at bits. */

/** The biased float32 exponent, by arithmetic and not by bits. A logarithm near a whole number may be off by one: corrected. */
function exponentOf(x: number): number {
  if (!Number.isFinite(x)) return 255;
  const magnitude = Math.abs(x);
  if (magnitude < 2 ** -126) return 0;
  let e = Math.floor(Math.log2(magnitude));
  if (2 ** e > magnitude) e -= 1;
  if (2 ** (e + 1) <= magnitude) e += 1;
  return e + 127;
}

/** What `magnitudeCounts` is to yield of numbers that float32 holds. */
export function countByHand(values: Iterable<number>): Int32Array {
  const counts = new Int32Array(258);
  const count = (at: number): void => {
    counts[at] = (counts[at] ?? 0) + 1;
  };
  for (const x of values) {
    count(exponentOf(x));
    if (x === 0) count(256);
    if (Number.isFinite(x) && Math.abs(x) > 65504) count(257);
  }
  return counts;
}
