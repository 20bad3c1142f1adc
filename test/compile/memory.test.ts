/** The memory plan: what lives at the same time never overlaps. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NullBackend } from "../../src/backends/null/backend.ts";
import { align, type Lifetime, planOffsets } from "../../src/compile/memory.ts";
import { compileProgram } from "../../src/compile/pipeline.ts";
import type { Kernel, Program } from "../../src/compile/program.ts";
import { byteSize } from "../../src/formats/index.ts";
import { buildRequest, recipes } from "../support/random-graphs.ts";

const lifetimes: fc.Arbitrary<Lifetime[]> = fc.array(
  fc
    .tuple(fc.nat(2000), fc.nat(20), fc.nat(6))
    .map(([byteLength, from, length]) => ({ byteLength, from, to: from + length })),
  { maxLength: 40 },
);

describe("planOffsets", () => {
  it("places live buffers apart, aligned, in no more than their sum", () => {
    fc.assert(
      fc.property(lifetimes, (lives) => {
        const { offsets, byteLength } = planOffsets(lives);
        const boxes = lives.map((life, i) => ({
          ...life,
          start: offsets[i] ?? -1,
          end: (offsets[i] ?? -1) + life.byteLength,
        }));
        for (const [i, p] of boxes.entries()) {
          expect(p.start % 64).toBe(0);
          expect(p.end).toBeLessThanOrEqual(byteLength);
          for (const q of boxes.slice(i + 1)) {
            const together = p.from <= q.to && q.from <= p.to && p.byteLength > 0 && q.byteLength > 0;
            if (together) expect(p.end <= q.start || q.end <= p.start).toBe(true);
          }
        }
        const alive = Array.from({ length: 30 }, (_, at) =>
          lives.filter((l) => l.from <= at && at <= l.to).reduce((s, l) => s + align(l.byteLength), 0),
        );
        expect(byteLength).toBeLessThanOrEqual(lives.reduce((s, l) => s + align(l.byteLength), 0));
        expect(byteLength).toBeGreaterThanOrEqual(Math.max(...alive));
      }),
      { numRuns: 500 },
    );
  });

  it("takes the largest first, each at the lowest place that is free during its life", () => {
    fc.assert(
      fc.property(lifetimes, (lives) => {
        const placed: { start: number; end: number; life: Lifetime }[] = [];
        const expected = lives.map(() => 0);
        const bySize = lives.map((life, i) => ({ life, i })).sort((a, b) => b.life.byteLength - a.life.byteLength);
        for (const { life, i } of bySize) {
          const alive = placed.filter((p) => p.life.from <= life.to && life.from <= p.life.to);
          const isFree = (start: number): boolean =>
            alive.every((p) => p.end <= start || start + align(life.byteLength) <= p.start);
          const start = Math.min(...[0, ...alive.map((p) => p.end)].filter(isFree));
          placed.push({ start, end: start + align(life.byteLength), life });
          expected[i] = life.byteLength === 0 ? 0 : start;
        }
        expect(planOffsets(lives).offsets).toEqual(expected);
      }),
    );
  });

  it("reuses memory after the last reader, not before", () => {
    const chain = [
      { byteLength: 100, from: 0, to: 1 },
      { byteLength: 100, from: 1, to: 2 },
      { byteLength: 100, from: 2, to: 3 },
    ];
    expect(planOffsets(chain)).toEqual({ offsets: [0, 128, 0], byteLength: 256 });
    expect(planOffsets([])).toEqual({ offsets: [], byteLength: 0 });
  });
});

/** Byte ranges of the arena that a kernel touches, one per buffer. */
function touched({ reads, writes }: Kernel): Map<string, readonly [number, number]> {
  const found = new Map<string, readonly [number, number]>();
  for (const { buffer } of [...reads.values(), ...writes.map((w) => w.operand)]) {
    if (buffer.storage.kind !== "arena") continue;
    const start = buffer.storage.byteOffset;
    const end = start + buffer.elements * byteSize(buffer.dtype);
    found.set(`${start}-${end}`, [start, end]);
  }
  return found;
}

describe("arenas of random programs", () => {
  it("hold what every kernel touches, apart and inside", () => {
    fc.assert(
      fc.property(recipes, (recipe) => {
        const program: Program = compileProgram(buildRequest(recipe).request, new NullBackend().capabilities);
        for (const kernel of program.kernels) {
          const ranges = [...touched(kernel).values()];
          for (const [i, [start, end]] of ranges.entries()) {
            expect(end).toBeLessThanOrEqual(program.arenaByteLength);
            for (const [from, to] of ranges.slice(i + 1)) expect(end <= from || to <= start).toBe(true);
          }
        }
      }),
      { numRuns: 200, seed: 9 },
    );
  });
});
