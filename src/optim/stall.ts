/** Tells a loss scale that adapts from a run that makes no progress, by the outcomes of its steps. */
import { requireBoolean, requireFields, requireInteger, requireKnownKeys } from "../precision/options.ts";
import type { ReadOutcome, SkippedOutcome, SkipReason } from "./outcome.ts";

export interface StallOptions {
  /** Skipped steps in a row that make a stall, ≥ 1. Default 20: from 65536 the scale is down to 2⁻⁴ by then. */
  readonly after?: number;
  /** Whether a loss scale can cure overflows of gradients; false without one. Default true. */
  readonly scaled?: boolean;
}

/** So many steps in a row were skipped. */
export interface Stall {
  /** `adapting`: the scale still falls, and may yet find its place. `stalled`: no loss scale cures this; the weights will not move. */
  readonly kind: "adapting" | "stalled";
  /** Skipped steps in a row, this one included. */
  readonly steps: number;
  /** Why the last of them was skipped. */
  readonly reason: SkipReason;
  /** Names of the parameters whose gradients made it skip. */
  readonly parameters: readonly string[];
  /** What to do, as the end of a sentence. */
  readonly remedy: string;
}

/** Skipped steps in a row that make a stall, unless told otherwise. */
export const STALL_STEPS = 20;

const REMEDIES: Readonly<Record<SkipReason, string>> = {
  forwardOverflow: "compute what overflows in bfloat16 or float32, or lower the learning rate",
  gradientOverflow: "use bfloat16 or float32, whose range is that of float32, or a lower learning rate",
  underflow: "raise the loss scale, or compute in bfloat16 or float32",
  scaleOutOfRange: "give the loss scale a floor and a ceiling between 2^-126 and 2^126",
  normAboveLimit: "lower the learning rate, or raise skipNormAbove",
};

/**
 * Sees the outcome of every step. As a skipped step changes no weight, the next one meets the same weights: overflows that no
 * smaller scale cures (of the loss itself, or with the scale at its floor) repeat themselves.
 *
 * @throws BinadeError `option.unknown` or `value.range` for a bad option.
 * @example
 * const stall = new StallDetector().observe(await readOutcome(outcome));
 * if (stall?.kind === "stalled") throw new Error(`${stall.parameters.join(", ")}: ${stall.remedy}`);
 */
export class StallDetector {
  readonly #after: number;
  readonly #scaled: boolean;
  #skipped = 0;
  #incurable = 0;

  constructor(options: StallOptions = {}) {
    requireKnownKeys("StallDetector", options, ["after", "scaled"]);
    const { after = STALL_STEPS, scaled = true } = options;
    requireInteger("StallDetector: after", after, 1);
    requireBoolean("StallDetector: scaled", scaled);
    this.#after = after;
    this.#scaled = scaled;
  }

  /** Null for most steps; a stall when it begins, and with every further step that no scale cures. */
  observe(outcome: ReadOutcome): Stall | null {
    requireFields("StallDetector: observe", outcome, ["applied"], "readOutcome");
    if (outcome.applied) {
      this.#skipped = 0;
      this.#incurable = 0;
      return null;
    }
    this.#skipped++;
    this.#incurable = this.#isCurable(outcome) ? 0 : this.#incurable + 1;
    const { reason, parameters } = outcome;
    const found = { steps: this.#skipped, reason, parameters, remedy: REMEDIES[reason] };
    if (this.#incurable >= this.#after || outcome.exhausted) return { kind: "stalled", ...found };
    return this.#skipped === this.#after ? { kind: "adapting", ...found } : null;
  }

  #isCurable({ reason, atFloor }: SkippedOutcome): boolean {
    return this.#scaled && reason === "gradientOverflow" && !atFloor;
  }
}
