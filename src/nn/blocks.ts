/** Which blocks of a model backward computes anew instead of keeping what they made. */
import { BinadeError } from "../errors.ts";
import type { CheckpointOptions } from "../tensor/checkpoint.ts";

/** "all", or positions from 0 on. */
export type BlockChoice = "all" | readonly number[];

/**
 * How `checkpoint` takes each of `count` blocks: always recomputed if chosen, else where the budget of a compiled function
 * has it so.
 *
 * @throws BinadeError `option.invalid` for what is no block.
 */
export function recomputedBlocks(
  subject: string,
  chosen: BlockChoice,
  count: number,
): (block: number) => CheckpointOptions {
  const blocks = Array.from({ length: count }, (_, i) => i);
  const wrong = chosen === "all" ? undefined : Array.isArray(chosen) ? chosen.find((i) => !blocks.includes(i)) : chosen;
  if (wrong !== undefined) {
    throw new BinadeError(
      "option.invalid",
      `${subject}: checkpointBlocks: expected "all" or positions from 0 to ${count - 1}, got ${JSON.stringify(wrong)}; leave out what is not a block`,
    );
  }
  const always = new Set(chosen === "all" ? blocks : chosen);
  return (block) => ({ when: always.has(block) ? "always" : "budget" });
}
