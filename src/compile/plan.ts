/** The memory plan in bytes by category: computed from a program, before anything is allocated. */
import { byteSize, FORMATS } from "../formats/table.ts";
import type { Node } from "../ir/graph.ts";
import { topological } from "../ir/walk.ts";
import { sizeOf } from "../ops/shape.ts";
import { isInput, memoryOf, sourceOf } from "./inline.ts";
import type { Allocation, Kernel, Program } from "./program.ts";
import { COPY } from "./simplify.ts";

/** What lives outside of the arena: from step to step, or as long as a caller holds it. */
// biome-ignore format: a list is read as one
export const RESIDENT_CATEGORIES = ["parameters", "masters", "optimizerState", "gradientSums", "buffers", "inputs", "outputs"] as const;
export type ResidentCategory = (typeof RESIDENT_CATEGORIES)[number];

/** What shares the arena while a step runs. */
export const ARENA_CATEGORIES = ["activations", "gradients", "casts", "workspace"] as const;
export type ArenaCategory = (typeof ARENA_CATEGORIES)[number];

/** Intermediates of one kind that are alive at the arena's peak. */
export interface AliveValues {
  /** Such as `gelu bfloat16 [8, 256, 1536]`. */
  readonly value: string;
  readonly category: ArenaCategory;
  readonly count: number;
  /** Of all of them together. */
  readonly byteLength: number;
}

/**
 * Bytes that a compiled step takes, by category. `activations` are what forward keeps for backward; `casts` are 16-bit copies
 * of weights (most are made while a product packs them, and take none); `workspace` is every other intermediate.
 */
export interface MemoryPlan {
  /** Whole: everything resident, and the arena. */
  readonly byteLength: number;
  readonly resident: Readonly<Record<ResidentCategory, number>>;
  readonly arena: {
    readonly byteLength: number;
    /** The most that is alive of each category at any one time: not at the same time, so their sum exceeds the arena. */
    readonly most: Readonly<Record<ArenaCategory, number>>;
    /** When most is alive in all. */
    readonly peak: {
      /** Position of the kernel that runs then, and what it computes. */
      readonly kernel: number;
      readonly operations: readonly string[];
      readonly alive: Readonly<Record<ArenaCategory, number>>;
      /** Of the arena, what nothing occupies then: gaps between buffers, and what alignment costs. */
      readonly unused: number;
      /** What is alive, largest first. */
      readonly values: readonly AliveValues[];
    };
  };
}

/** @param residentOf the category of an input binding by its leaf, which only the caller knows */
export function memoryPlan(program: Program, residentOf: (leaf: Node) => ResidentCategory): MemoryPlan {
  const resident = zeros(RESIDENT_CATEGORIES);
  for (const { role, node, buffer } of program.bindings) {
    resident[role === "output" ? "outputs" : residentOf(node)] += buffer.elements * byteSize(buffer.dtype);
  }
  const categoryOf = classify(program);
  const aliveAt = (kernel: number): readonly Allocation[] =>
    program.allocations.filter(({ from, to }) => from <= kernel && kernel <= to);
  const byKernel = totalsByKernel(program, categoryOf);
  const kernel = byKernel.reduce((best, t, i) => (sum(t) > sum(byKernel[best] ?? t) ? i : best), 0);
  const alive = byKernel[kernel] ?? zeros(ARENA_CATEGORIES);
  const most = zeros(ARENA_CATEGORIES);
  for (const t of byKernel) for (const c of ARENA_CATEGORIES) most[c] = Math.max(most[c], t[c]);
  return {
    byteLength: program.arenaByteLength + sum(resident),
    resident,
    arena: {
      byteLength: program.arenaByteLength,
      most,
      peak: {
        kernel,
        operations: operationsOf(program.kernels[kernel]),
        alive,
        unused: program.arenaByteLength - sum(alive),
        values: valuesOf(aliveAt(kernel), categoryOf),
      },
    },
  };
}

const zeros = <C extends string>(categories: readonly C[]): Record<C, number> =>
  Object.fromEntries(categories.map((c) => [c, 0])) as Record<C, number>;
const sum = (bytes: Readonly<Record<string, number>>): number => Object.values(bytes).reduce((a, b) => a + b, 0);

/** What is alive while each kernel runs: every allocation is added where its life begins, and taken away behind its end. */
function totalsByKernel(
  { kernels, allocations }: Program,
  categoryOf: (allocation: Allocation) => ArenaCategory,
): readonly Record<ArenaCategory, number>[] {
  const changes = Array.from({ length: kernels.length + 1 }, () => zeros(ARENA_CATEGORIES));
  for (const allocation of allocations) {
    const { from, to, byteLength } = allocation;
    const [begin, end] = [changes[from], changes[to + 1]];
    if (to < from || begin === undefined || end === undefined) continue;
    const category = categoryOf(allocation);
    begin[category] += byteLength;
    end[category] -= byteLength;
  }
  const alive = zeros(ARENA_CATEGORIES);
  return kernels.map((_, i) => {
    for (const category of ARENA_CATEGORIES) alive[category] += changes[i]?.[category] ?? 0;
    return { ...alive };
  });
}

function valuesOf(
  allocations: readonly Allocation[],
  categoryOf: (allocation: Allocation) => ArenaCategory,
): readonly AliveValues[] {
  const found = new Map<string, AliveValues>();
  for (const allocation of allocations) {
    const { op, dtype, shape } = allocation.node;
    const [value, category] = [`${op.name} ${dtype} [${shape.join(", ")}]`, categoryOf(allocation)];
    const known = found.get(`${category} ${value}`) ?? { value, category, count: 0, byteLength: 0 };
    found.set(`${category} ${value}`, {
      ...known,
      count: known.count + 1,
      byteLength: known.byteLength + allocation.byteLength,
    });
  }
  return [...found.values()].sort((a, b) => b.byteLength - a.byteLength);
}

const operationsOf = (kernel: Kernel | undefined): readonly string[] =>
  (kernel?.nodes ?? []).filter((n) => n.op.kind !== "source").map((n) => n.op.name);

/** The category of every allocation. Of gradients: those of variables, also once they are unscaled or clipped. */
function classify({ kernels, bindings, losses, gradients }: Program): (allocation: Allocation) => ArenaCategory {
  const forwardNodes = new Set(topological(losses));
  const isForward = kernels.map(({ nodes }) => nodes.some((node) => forwardNodes.has(node) && !isSource(node)));
  const isUpdate = ({ writes }: Kernel): boolean =>
    writes.some(({ operand: { buffer } }) => {
      const { storage } = buffer;
      return storage.kind === "binding" && bindings[storage.index]?.role === "input";
    });
  const isGradient = gradientsIn(
    kernels.filter((kernel) => !isUpdate(kernel)),
    gradients,
  );
  return ({ node, from, to }) => {
    if (isGradient.has(node)) return "gradients";
    if (isCastOfLeaf(node)) return "casts";
    return isForward[from] === true && isForward[to] === false ? "activations" : "workspace";
  };
}

const isSource = (node: Node): boolean => node.op.kind === "source";

function gradientsIn(kernels: readonly Kernel[], gradients: readonly Node[]): ReadonlySet<Node> {
  const found = new Set(gradients.map((g) => sourceOf(g).base));
  const carries = (node: Node): boolean => {
    const large = node.inputs
      .map((input) => sourceOf(input).base)
      .filter((n) => sizeOf(n.shape) === sizeOf(node.shape));
    return node.op.kind === "pointwise" && large.length > 0 && large.every((n) => found.has(n));
  };
  const nodes = new Set(kernels.flatMap(({ nodes }) => nodes.filter((node) => node.op !== COPY)));
  for (const node of [...nodes].sort((a, b) => a.id - b.id)) if (carries(node)) found.add(node);
  return found;
}

/** A narrower copy of a variable or an argument, through views. */
function isCastOfLeaf(node: Node): boolean {
  const [x] = node.inputs;
  const converts = node.op.kind === "pointwise" && node.op.converts === true;
  if (!converts || x === undefined || !isInput(memoryOf(sourceOf(x).base))) return false;
  return FORMATS[node.dtype].bits < FORMATS[x.dtype].bits;
}
