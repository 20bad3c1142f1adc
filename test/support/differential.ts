/** The native backend beside the reference: leaves, runs on both, and comparisons bit for bit or within a bound. */
import { expect } from "vitest";
import { CpuBackend } from "../../src/backends/cpu/backend.ts";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import { type DType, round, ulp } from "../../src/formats/index.ts";
import { createInput, type Node } from "../../src/ir/graph.ts";
import { type Shape, sizeOf } from "../../src/ops/shape.ts";
import { uniforms } from "./random.ts";
import { type Outcome, run } from "./run.ts";

export const loaded = loadAddon();
/** Instruction sets of this machine; none without the addon. */
export const ISAS = loaded.addon === null ? [] : loaded.addon.supportedIsas();
export const backendOf = (isa: string): CpuBackend => {
  if (loaded.addon === null) throw new Error(loaded.reason);
  loaded.addon.setIsa(isa);
  return new CpuBackend(loaded.addon);
};
/** float32 and the 16-bit floats. */
export const HALF: readonly DType[] = ["float32", "bfloat16", "float16"];

export type Leaves = Map<Node, Float64Array>;

export function leaf(leaves: Leaves, shape: Shape, dtype: DType, values: ArrayLike<number>): Node {
  const node = createInput(shape, dtype);
  leaves.set(
    node,
    Float64Array.from({ length: sizeOf(shape) }, (_, i) => round(Number(values[i % values.length]), dtype)),
  );
  return node;
}

export const random = (leaves: Leaves, shape: Shape, dtype: DType, seed: number, low = -2, high = 2): Node =>
  leaf(leaves, shape, dtype, uniforms(seed, sizeOf(shape), low, high));

export async function both(
  isa: string,
  outputs: readonly Node[],
  leaves: Leaves,
  assignments = new Map<Node, Node>(),
): Promise<[Outcome, Outcome]> {
  const request = { outputs, assignments };
  return [await run(request, leaves, backendOf(isa)), await run(request, leaves)];
}

/** Elements equal bit for bit, or NaN in both. */
export function expectSame(
  got: ArrayLike<number> | undefined,
  want: ArrayLike<number> | undefined,
  what: string,
): void {
  expect(got?.length).toBe(want?.length);
  for (let i = 0; i < (want?.length ?? 0); i++)
    if (!Object.is(got?.[i], want?.[i])) expect(got?.[i], `${what}[${i}]`).toBe(want?.[i]);
}

/** The same bits for 1, 2, 3 and 8 threads, on the first instruction set of this machine. */
export async function expectSameForThreads(outputs: readonly Node[], leaves: Leaves): Promise<void> {
  const results: (readonly Float64Array[])[] = [];
  for (const threads of [1, 2, 3, 8]) {
    loaded.addon?.setThreads(threads);
    results.push((await run({ outputs, assignments: new Map() }, leaves, backendOf(ISAS[0] ?? "portable"))).outputs);
  }
  loaded.addon?.setThreads(2);
  const [first = [], ...others] = results;
  expect(first).toHaveLength(outputs.length);
  for (const other of others) for (const [i, values] of first.entries()) expectSame(other[i], values, `output ${i}`);
}

/** |got − want| ≤ allowed(i), with equal infinities and NaN. */
export function expectNear(
  got: ArrayLike<number> | undefined,
  want: ArrayLike<number> | undefined,
  allowed: (i: number) => number,
  what: string,
): void {
  expect(got?.length).toBe(want?.length);
  for (let i = 0; i < (want?.length ?? 0); i++) {
    const [g, w] = [got?.[i] ?? Number.NaN, want?.[i] ?? Number.NaN];
    if (Object.is(g, w) || g === w) continue;
    expect(Math.abs(g - w), `${what}[${i}]: ${g} instead of ${w}`).toBeLessThanOrEqual(allowed(i));
  }
}

/** Bound on the difference of two float32 summation orders of `count` terms: count · 2⁻²⁴ · Σ|terms|, twice; and one rounding. */
export const sumBound = (count: number, magnitude: number, dtype: DType, value: number): number =>
  2 * count * 2 ** -24 * magnitude + (dtype === "float32" ? 0 : ulp(value, dtype));
