/** Memory plans for people: as a table, and as the refusal of a run that the machine has no memory for. */
import {
  ARENA_CATEGORIES,
  type MemoryPlan,
  memoryPlan,
  RESIDENT_CATEGORIES,
  type ResidentCategory,
} from "../compile/plan.ts";
import type { Program } from "../compile/program.ts";
import type { Node } from "../ir/graph.ts";
import { requireFields } from "../precision/options.ts";
import { MemoryError } from "./memory-error.ts";
import type { LeafValue, VariableRole } from "./runtime.ts";

const CATEGORY_OF_ROLE: Readonly<Record<VariableRole, ResidentCategory>> = {
  parameter: "parameters",
  master: "masters",
  optimizerState: "optimizerState",
  gradientSum: "gradientSums",
  buffer: "buffers",
};

/** The plan of a program over leaves with these values (none: an argument that is still to come). */
export function planOf(program: Program, valueAt: (leaf: Node) => LeafValue | undefined): MemoryPlan {
  return memoryPlan(program, (leaf) => {
    const value = valueAt(leaf);
    const role = value?.kind === "buffer" ? value.variable?.role : undefined;
    return role === undefined ? "inputs" : CATEGORY_OF_ROLE[role];
  });
}

const LABELS = {
  parameters: "parameters",
  masters: "masters",
  optimizerState: "optimizer state",
  gradientSums: "gradient sums",
  buffers: "buffers",
  inputs: "inputs",
  outputs: "outputs",
  activations: "activations",
  gradients: "gradients",
  casts: "16-bit casts",
  workspace: "workspace",
} as const satisfies Readonly<Record<string, string>>;

/** Bytes in kB, MB (10⁶), GB (10⁹) or TB (10¹²). */
export function showBytes(bytes: number): string {
  if (bytes >= 1e12) return `${(bytes / 1e12).toFixed(2)} TB`;
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  return bytes >= 1e5 || bytes === 0 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(1)} kB`;
}

const LARGEST = 5;

/**
 * A plan as a table. `most` is the most of a category that is alive at any one time, `at peak` what is alive when the arena
 * is fullest; the parts at the peak add up to the arena, and the arena with everything above it to the whole.
 *
 * @example
 * console.log(formatMemoryPlan(step.plan(zeros([8, 256], "int32"), zeros([8, 256], "int32"))));
 */
export function formatMemoryPlan(plan: MemoryPlan): string {
  requireFields("formatMemoryPlan", plan, ["byteLength", "resident", "arena"], "plan of a compiled step");
  const { byteLength, resident, arena } = plan;
  const { most, peak } = arena;
  const line = (label: string, bytes: string, atPeak = ""): string =>
    `${label.padEnd(20)}${bytes.padStart(10)}${atPeak === "" ? "" : atPeak.padStart(12)}`;
  const rows = RESIDENT_CATEGORIES.filter((c) => resident[c] > 0).map((c) => line(LABELS[c], showBytes(resident[c])));
  const parts = ARENA_CATEGORIES.map((c) => line(`  ${LABELS[c]}`, showBytes(most[c]), showBytes(peak.alive[c])));
  const values = peak.values
    .slice(0, LARGEST)
    .map(({ count, value, byteLength: bytes }) => `  ${showBytes(bytes).padStart(9)}  ${count} × ${value}`);
  return [
    line("memory plan", "most", "at peak"),
    ...rows,
    line("arena", showBytes(arena.byteLength), showBytes(arena.byteLength)),
    ...parts,
    line("  gaps", "", showBytes(peak.unused)),
    line("whole", showBytes(byteLength)),
    ...(values.length > 0
      ? [`peak at kernel ${peak.kernel} (${peak.operations.join(" ")}), largest there:`, ...values]
      : []),
  ].join("\n");
}

/** The categories that take anything, in words: `parameters 43.8 MB, optimizer state 87.5 MB, …`. */
export function listCategories({ resident, arena }: MemoryPlan): string {
  const parts = [
    ...RESIDENT_CATEGORIES.map((c) => [LABELS[c], resident[c]] as const),
    ...ARENA_CATEGORIES.map((c) => [LABELS[c], arena.peak.alive[c]] as const),
  ];
  return parts
    .filter(([, bytes]) => bytes > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([label, bytes]) => `${label} ${showBytes(bytes)}`)
    .join(", ");
}

/** Whether weights and what stands beside them take more than what depends on the batch. */
export function isMostlyWeights({ resident, arena: { peak } }: MemoryPlan): boolean {
  const { activations, workspace, gradients } = peak.alive;
  const { parameters, masters, optimizerState, gradientSums } = resident;
  return activations + workspace < parameters + masters + optimizerState + gradientSums + gradients;
}

/** What makes a step smaller, the most promising first. */
export function remedyOf(plan: MemoryPlan): string {
  const smaller = [
    "use a smaller batch or context",
    "recompute blocks (checkpoint, or compile's memoryBudget)",
    "compute in 16 bits (autocast)",
  ];
  return (isMostlyWeights(plan) ? ["use a smaller model", ...smaller] : smaller).join(", ");
}

/**
 * @param needed bytes beyond what is allocated
 * @param available what the machine has left for this process
 * @param subject what needs them
 */
export function memoryError(plan: MemoryPlan, needed: number, available: number, subject = "this run"): MemoryError {
  const facts = `memory: ${subject} needs ${showBytes(needed)} more, and the machine has ${showBytes(available)} left for it; the plan is ${showBytes(plan.byteLength)}: ${listCategories(plan)}; nothing was allocated`;
  return new MemoryError(facts, remedyOf(plan), { plan, availableBytes: available });
}
