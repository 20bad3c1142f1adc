/** Watches skipped steps: a few are normal while a loss scale adapts, many in a row are a run that makes no progress. */
import { BinadeError } from "../errors.ts";
import type { ReadOutcome, SkippedOutcome } from "../optim/outcome.ts";
import { STALL_STEPS, StallDetector } from "../optim/stall.ts";
import type { WarningEvent } from "./events.ts";
import type { Precision } from "./presets.ts";
import type { OverflowedWeights } from "./session.ts";

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
  readonly #stalls: StallDetector;

  constructor(precision: Precision) {
    this.#precision = precision;
    this.#stalls = new StallDetector({ scaled: precision === "fp16-mixed" });
  }

  /**
   * @param step attempted steps, this one included.
   * @param overflowed weights that 16 bits do not hold, where the step was skipped.
   * @returns warnings, none for most steps.
   * @throws BinadeError `run.stalled` at the twentieth step in a row that was skipped for what scaling does not cure, or where the
   * system whose preset the loss scale follows would end the run.
   */
  observe(step: number, outcome: ReadOutcome, overflowed: readonly OverflowedWeights[] = []): readonly WarningEvent[] {
    const stall = this.#stalls.observe(outcome);
    if (outcome.applied) return [];
    const remedy = overflowed.length > 0 ? WEIGHTS_REMEDY : REMEDY[this.#precision];
    if (stall?.kind === "stalled") {
      const steps = outcome.exhausted ? "the step was" : `${STALL_STEPS} steps in a row were`;
      const cause =
        overflowed.length > 0 ? `${describe(outcome)}, as ${describeWeights(overflowed)}` : describe(outcome);
      const why = outcome.exhausted ? `${cause} and the loss scale cannot fall` : cause;
      throw new BinadeError(
        "run.stalled",
        `step ${step}: ${steps} skipped because ${why}, expected finite numbers; start another run: ${remedy}`,
      );
    }
    return [...this.weights(step, overflowed), ...this.#notices(step, outcome, stall !== null)];
  }

  /**
   * @param step attempted steps so far.
   * @param overflowed weights that 16 bits do not hold.
   * @returns one warning, if there are any and it is news.
   */
  weights(step: number, overflowed: readonly OverflowedWeights[]): readonly WarningEvent[] {
    if (overflowed.length === 0 || !this.#isNews("weight.overflow", step)) return [];
    const message = `step ${step}: ${describeWeights(overflowed)}, which no loss scale cures; start another run: ${WEIGHTS_REMEDY}`;
    return [{ type: "warning", step, code: "weight.overflow", message }];
  }

  #notices(step: number, outcome: SkippedOutcome, isStall: boolean): readonly WarningEvent[] {
    const remedy = REMEDY[this.#precision];
    const found: [code: string, message: string][] = [];
    if (outcome.reason === "forwardOverflow") {
      found.push([
        "loss.notFinite",
        `step ${step} was skipped: the loss is not finite, which no loss scale cures; if it goes on, ${remedy}`,
      ]);
    } else if (outcome.reason === "normAboveLimit") {
      found.push([
        "gradient.norm",
        `step ${step} was skipped: ${describe(outcome)}; if it goes on, use a lower learning rate`,
      ]);
    } else if (this.#precision !== "fp16-mixed") {
      found.push(["gradient.notFinite", `step ${step} was skipped: ${describe(outcome)}; if it goes on, ${remedy}`]);
    } else if (outcome.atFloor) {
      found.push([
        "scale.floor",
        `step ${step} was skipped with the loss scale at its floor, ${outcome.lossScaleBefore}; if it goes on, ${remedy}`,
      ]);
    }
    if (isStall) {
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

const WEIGHTS_REMEDY =
  "use bf16-mixed, whose range is that of float32, or float32 parameters, or a lower learning rate";

function describeWeights(overflowed: readonly OverflowedWeights[]): string {
  const [{ name } = { name: "the parameters" }] = overflowed;
  const count = overflowed.reduce((sum, one) => sum + one.count, 0);
  const others = overflowed.length > 1 ? ` and ${overflowed.length - 1} more` : "";
  return `${count === 1 ? "1 weight" : `${count} weights`} of ${name}${others} ${count === 1 ? "is" : "are"} infinite or NaN in 16 bits`;
}

function describe({ reason, parameters }: SkippedOutcome): string {
  if (reason === "forwardOverflow") return "the loss is not finite";
  if (reason === "scaleOutOfRange") return "the loss scale, or its reciprocal, is zero, subnormal or not finite";
  const [first = "the parameters"] = parameters;
  const gradients = `the gradients of ${first}${parameters.length > 1 ? ` and ${parameters.length - 1} more` : ""}`;
  if (reason === "underflow") return `${gradients} are all 0`;
  return reason === "normAboveLimit"
    ? `the norm is above its limit, most of all by ${gradients}`
    : `${gradients} are not finite`;
}
