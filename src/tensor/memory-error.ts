/** The refusal of what the machine has no memory for: the sentence, and what it is made of. */
import type { MemoryPlan } from "../compile/plan.ts";
import { BinadeError } from "../errors.ts";

/** What is known of a refusal. */
export interface MemoryFacts {
  /** `memory.insufficient` (default), or `memory.budget` where a budget is what stands in the way. */
  readonly code?: "memory.insufficient" | "memory.budget";
  /** Of what was refused; null (default) where it was refused before there was one, or is a single tensor. */
  readonly plan?: MemoryPlan | null;
  /** Bytes that there would be. */
  readonly availableBytes: number;
}

/**
 * More memory was asked for than the machine has, or than a budget allows, and nothing was allocated. `message` is `facts`, and what
 * to do about it in calls of the library; a program with words of its own for that, as the command line has flags, says those.
 *
 * @example
 * try { await step(x, y) } catch (error) { if (error instanceof MemoryError) console.error(error.facts, error.plan?.resident); }
 */
export class MemoryError extends BinadeError {
  /** What was asked for and what there is, without a remedy. */
  readonly facts: string;
  readonly plan: MemoryPlan | null;
  readonly availableBytes: number;

  constructor(
    facts: string,
    remedy: string,
    { code = "memory.insufficient", plan = null, availableBytes }: MemoryFacts,
  ) {
    super(code, `${facts}; ${remedy}`);
    this.facts = facts;
    this.plan = plan;
    this.availableBytes = availableBytes;
  }
}
