/** Refusals for want of memory in the words of the command line: which flags make the run smaller. */
import { BinadeError } from "../errors.ts";
import { MemoryError } from "../tensor/memory-error.ts";
import { isMostlyWeights } from "../tensor/plan.ts";
import type { ResolvedRun } from "./run-settings.ts";

/** The error with flags for a remedy, where it is one about memory; otherwise as it is. */
export function withMemoryFlags(error: unknown, { kind, settings }: ResolvedRun, budgetBytes?: number): unknown {
  if (!(error instanceof MemoryError)) return error;
  const { code, facts, plan, availableBytes } = error;
  // Without a plan nothing but the weights is known, and they alone are too much.
  const order =
    plan === null || isMostlyWeights(plan) ? [kind.modelFlags, kind.batchFlags] : [kind.batchFlags, kind.modelFlags];
  const remedies = [`choose a smaller ${or(order.flat())}`];
  if (plan !== null && settings.precision === "fp32") remedies.push("--precision bf16-mixed");
  const megabytes = Math.floor(availableBytes / 1e6);
  if (code === "memory.budget") remedies.unshift("raise --memory-budget");
  else if (plan !== null && budgetBytes === undefined && megabytes > 0)
    remedies.push(`--memory-budget ${megabytes}MB to recompute blocks`);
  return new BinadeError(code, `${facts}; ${remedies.join(", or ")}`, { cause: error });
}

/** "a, b or c" */
const or = (names: readonly string[]): string =>
  names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
