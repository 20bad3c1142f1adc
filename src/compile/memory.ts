/** Lifetimes → offsets: every intermediate gets a place in one arena, reused after its last reader. */
export interface Lifetime {
  readonly byteLength: number;
  /** Position of the kernel that writes it, and of the last that touches it. */
  readonly from: number;
  readonly to: number;
}

const ALIGNMENT = 64;
export const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/**
 * Offsets such that buffers alive at the same time never overlap, 64-byte aligned. Greedy by size: the largest buffer
 * first, each at the lowest offset that is free during its lifetime (Pisarchyk, Lee 2020, arXiv:2001.03288, "greedy by size").
 */
export function planOffsets(lifetimes: readonly Lifetime[]): {
  readonly offsets: readonly number[];
  readonly byteLength: number;
} {
  const bySize = lifetimes.map((_, i) => i).sort((a, b) => sizeAt(lifetimes, b) - sizeAt(lifetimes, a) || a - b);
  const placed: { start: number; end: number; life: Lifetime }[] = [];
  const offsets = new Array<number>(lifetimes.length).fill(0);
  let total = 0;
  for (const i of bySize) {
    const life = lifetimes[i];
    if (life === undefined) continue;
    const size = align(life.byteLength);
    const start = lowestGap(
      placed.filter((p) => p.life.from <= life.to && life.from <= p.life.to),
      size,
    );
    placed.push({ start, end: start + size, life });
    offsets[i] = start;
    total = Math.max(total, start + size);
  }
  return { offsets, byteLength: total };
}

const sizeAt = (lifetimes: readonly Lifetime[], i: number): number => lifetimes[i]?.byteLength ?? 0;

function lowestGap(alive: { start: number; end: number }[], size: number): number {
  alive.sort((a, b) => a.start - b.start);
  let start = 0;
  for (const block of alive) {
    if (block.start - start >= size) break;
    start = Math.max(start, block.end);
  }
  return start;
}
