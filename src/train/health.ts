/** Watches skipped steps: a few are normal while a loss scale adapts, many in a row are a run that makes no progress. */
import { BinadeError } from "../errors.ts";
import type { ReadOutcome } from "../optim/outcome.ts";
import type { WarningEvent } from "./events.ts";
import type { Precision } from "./presets.ts";

type Skipped = Extract<ReadOutcome, { applied: false }>;

/** Skipped steps in a row after which a run counts as stalled; from 65536 the scale is down to 2⁻⁴ by then. */
export const STALL_STEPS = 20;
/** A warning of one code is not repeated within this many steps. */
const QUIET_STEPS = 100;

const REMEDY: Readonly<Record<Precision, string>> = {
  "fp16-mixed": "use bf16-mixed or fp32, whose range is that of float32, or a lower learning rate",
  "bf16-mixed": "use a lower learning rate, or fp32 to see whether the precision matters",
  fp32: "use a lower learning rate",
};

/**
 * Sees the outcome of every step, and says what a person should know.
 *
 * A loss that is not finite, and gradients that overflow with the scale at its floor, are beyond what loss scaling cures:
 * as a skipped step changes no weight, the next steps meet the same weights, and 20 of these in a row end the run.
 */
export class Health {
  readonly #precision: Precision;
  readonly #warnedAt = new Map<string, number>();
  #skippedInRow = 0;
  #incurableInRow = 0;

  constructor(precision: Precision) {
    this.#precision = precision;
  }

  /**
   * @param step attempted steps, this one included.
   * @returns warnings, none for most steps.
   * @throws BinadeError `run.stalled` at the twentieth step in a row that was skipped for what scaling does not cure.
   */
  observe(step: number, outcome: ReadOutcome): readonly WarningEvent[] {
    if (outcome.applied) {
      this.#skippedInRow = 0;
      this.#incurableInRow = 0;
      return [];
    }
    const isScaled = this.#precision === "fp16-mixed";
    const isCurable = isScaled && outcome.reason === "gradientOverflow" && !outcome.atFloor;
    this.#skippedInRow++;
    this.#incurableInRow = isCurable ? 0 : this.#incurableInRow + 1;
    const remedy = REMEDY[this.#precision];
    if (this.#incurableInRow >= STALL_STEPS) {
      const what = describe(outcome);
      throw new BinadeError(
        "run.stalled",
        `step ${step}: ${STALL_STEPS} steps in a row were skipped because ${what}, expected finite numbers; start another run: ${remedy}`,
      );
    }
    return this.#notices(step, outcome, remedy);
  }

  #notices(step: number, outcome: Skipped, remedy: string): readonly WarningEvent[] {
    const found: [code: string, message: string][] = [];
    if (outcome.reason === "forwardOverflow") {
      found.push([
        "loss.notFinite",
        `step ${step} was skipped: the loss is not finite, which no loss scale cures; if it goes on, ${remedy}`,
      ]);
    } else if (this.#precision !== "fp16-mixed") {
      found.push(["gradient.notFinite", `step ${step} was skipped: ${describe(outcome)}; if it goes on, ${remedy}`]);
    } else if (outcome.atFloor) {
      found.push([
        "scale.floor",
        `step ${step} was skipped with the loss scale at its floor, ${outcome.lossScaleBefore}; if it goes on, ${remedy}`,
      ]);
    }
    if (this.#skippedInRow === STALL_STEPS) {
      found.push([
        "run.stalled",
        `the last ${STALL_STEPS} steps were skipped and the weights did not change, the loss scale is ${outcome.lossScaleAfter}; if it goes on, ${remedy}`,
      ]);
    }
    return found
      .filter(([code]) => this.#isNews(code, step))
      .map(([code, message]) => ({ type: "warning", step, code, message }));
  }

  #isNews(code: string, step: number): boolean {
    const before = this.#warnedAt.get(code);
    if (before !== undefined && step - before < QUIET_STEPS) return false;
    this.#warnedAt.set(code, step);
    return true;
  }
}

function describe({ reason, parameters }: Skipped): string {
  if (reason === "forwardOverflow") return "the loss is not finite";
  const [first = "the parameters"] = parameters;
  return `the gradients of ${first}${parameters.length > 1 ? ` and ${parameters.length - 1} more` : ""} are not finite`;
}
