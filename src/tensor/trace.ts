/** Whether a compiled function is being recorded, and what it noted while recording. */
import type { Node } from "../ir/graph.ts";

/** Something outside the graph that the recording depended on: another value means another recording. */
export interface Guard {
  readonly read: () => unknown;
  readonly value: unknown;
}

export interface Trace {
  readonly guards: Guard[];
  /** Values to print after each run. */
  readonly probes: { readonly label: string; readonly node: Node }[];
  /** Work at the end of the recording: counters that advance once per step. */
  readonly atEnd: Map<object, () => void>;
  /** What was differentiated, and what came of it: one gradient per parameter, by name. */
  readonly differentiated: {
    readonly loss: Node;
    readonly parameters: readonly string[];
    readonly gradients: readonly Node[];
  }[];
  /** Parts that may be recomputed for the sake of a budget: how many there were so far, and how many of them are chosen. */
  readonly checkpoints: { seen: number; readonly chosen: number };
}

let current: Trace | null = null;

export const isTracing = (): boolean => current !== null;
export const currentTrace = (): Trace | null => current;

/** Runs `body` while recording. */
export function recording<T>(trace: Trace, body: () => T): T {
  const before = current;
  current = trace;
  try {
    return body();
  } finally {
    current = before;
  }
}

/** Reads a value that lives outside the graph; a compiled function is recorded anew when it has changed. */
export function guarded<T>(read: () => T): T {
  const value = read();
  current?.guards.push({ read, value });
  return value;
}
