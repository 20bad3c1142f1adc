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
  const placed: Block[] = [];
  const offsets = new Array<number>(lifetimes.length).fill(0);
  let total = 0;
  for (const i of bySize) {
    const life = lifetimes[i];
    const size = align(life?.byteLength ?? 0);
    // What takes nothing is nobody's neighbour.
    if (life === undefined || size === 0) continue;
    const start = lowestGap(placed, life, size);
    placed.splice(placeAfter(placed, start), 0, { start, end: start + size, from: life.from, to: life.to });
    offsets[i] = start;
    total = Math.max(total, start + size);
  }
  return { offsets, byteLength: total };
}

interface Block {
  readonly start: number;
  readonly end: number;
  readonly from: number;
  readonly to: number;
}

const sizeAt = (lifetimes: readonly Lifetime[], i: number): number => lifetimes[i]?.byteLength ?? 0;

/** @param placed ordered by start */
function lowestGap(placed: readonly Block[], { from, to }: Lifetime, size: number): number {
  let start = 0;
  for (const block of placed) {
    if (block.from > to || block.to < from) continue;
    if (block.start - start >= size) break;
    if (block.end > start) start = block.end;
  }
  return start;
}

/** How many of the blocks, which are ordered by start, start at `start` or before. */
function placeAfter(placed: readonly Block[], start: number): number {
  let [low, high] = [0, placed.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((placed[middle]?.start ?? 0) <= start) low = middle + 1;
    else high = middle;
  }
  return low;
}
