/** Gradient checkpointing: parts of a model whose values backward computes anew instead of keeping them. */
import { recomputing } from "../autodiff/recompute.ts";
import { BinadeError, showValue } from "../errors.ts";
import { requireFunction, requireKnownKeys } from "../precision/options.ts";
import { currentTrace } from "./trace.ts";

export interface CheckpointOptions {
  /**
   * `always` (default), or `budget`: only where `compile(fn, { memoryBudget })` finds that the step does not fit otherwise. Of
   * several such parts the earliest are chosen, as few as will do.
   */
  readonly when?: "always" | "budget";
}

/**
 * Runs `forward`; its gradient computes what it made once more, from what it read, instead of keeping it from forward to
 * backward. The second time is the first one again, dtypes and random numbers included: loss and gradients have the same bits.
 * Costs the time of one more `forward` per step. Inside another checkpoint the outer one decides. Not to be mixed up with the
 * checkpoints that a run writes to files.
 *
 * @param forward synchronous; what it returns, and what it reads, is kept.
 * @throws BinadeError `option.invalid` or `option.unknown` for bad options, or something else than a function.
 * @example
 * const hidden = model.blocks.reduce((x, block) => checkpoint(() => block.forward(x)), embedded);
 */
export function checkpoint<T>(forward: () => T, options: CheckpointOptions = {}): T {
  requireFunction("checkpoint: forward", forward);
  requireKnownKeys("checkpoint", options, ["when"]);
  const { when = "always" } = options;
  if (when !== "always" && when !== "budget") {
    throw new BinadeError(
      "option.invalid",
      `checkpoint: when is ${showValue(when)}, expected "always" or "budget"; leave it out to recompute always`,
    );
  }
  return when === "always" || isChosen() ? recomputing(forward) : forward();
}

/** Whether the budget of the function that is being recorded has this part recomputed. */
function isChosen(): boolean {
  const candidates = currentTrace()?.checkpoints;
  return candidates !== undefined && candidates.seen++ < candidates.chosen;
}
