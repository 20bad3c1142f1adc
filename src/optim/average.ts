/** Moving averages of weights, which follow applied steps. */
import { BinadeError, showValue } from "../errors.ts";
import { requireBoolean, requireFields, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { where } from "../tensor/functions.ts";
import { type Parameters, parametersOf } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import { requireOneDevice } from "./groups.ts";
import type { StepOutcome } from "./outcome.ts";

export interface WeightAverageOptions {
  /** Share of the old average that stays, from 0 to below 1. Default 0.999. */
  readonly decay?: number;
  /** Lets the first averages move faster: the decay is at most (1 + n) / (10 + n) after n applied steps. Default true. */
  readonly warmup?: boolean;
}

/**
 * An exponential moving average of weights in float32 variables: after each applied step,
 *
 *     average ← average + (1 − decay) · (weight − average)
 *
 * and after a skipped one not a bit of it changes, nor the count of steps that the warm-up reads. It starts as a copy of the
 * weights. Source of the warm-up: TensorFlow, tf.train.ExponentialMovingAverage with num_updates.
 *
 * @throws BinadeError `value.range` for another decay; `option.unknown`; `option.invalid` for no parameters.
 * @example
 * const average = new optim.WeightAverage(model);
 * const outcome = scaler.step(optimizer, grads);
 * average.update(outcome); // inside the compiled step, after it
 */
export class WeightAverage {
  readonly #decay: number;
  readonly #warmup: boolean;
  readonly #averages: ReadonlyMap<Variable, Variable>;
  readonly #steps: Variable;

  constructor(parameters: Parameters, options: WeightAverageOptions = {}) {
    requireKnownKeys("WeightAverage", options, ["decay", "warmup"]);
    const { decay = 0.999, warmup = true } = options;
    requireNumber("WeightAverage: decay", decay, (v) => v >= 0 && v < 1, "a number from 0 to below 1");
    requireBoolean("WeightAverage: warmup", warmup);
    const variables = parametersOf(parameters);
    if (variables.length === 0) {
      const sentence = "WeightAverage: expected at least one parameter, got none";
      throw new BinadeError("option.invalid", `${sentence}; pass a module or a list of variables`);
    }
    requireOneDevice("WeightAverage", variables);
    this.#decay = decay;
    this.#warmup = warmup;
    this.#averages = new Map(variables.map((parameter) => [parameter, startOf(parameter)]));
    this.#steps = new Variable("average.step", [], "int32", undefined, variables[0]?.device);
    this.#steps.role = "optimizerState";
  }

  /**
   * Follows the weights of a step. Call it after the step, with the outcome of every optimizer that moves these weights;
   * without one, the step counts as applied.
   */
  update(...outcomes: readonly Pick<StepOutcome, "applied">[]): void {
    for (const outcome of outcomes) requireFields("WeightAverage: update", outcome, ["applied"], "GradScaler.step");
    const applied = outcomes.map((outcome) => outcome.applied);
    const [first, ...rest] = applied;
    const all = first === undefined ? null : rest.reduce((a, b) => a.and(b), first);
    const assign = (variable: Variable, value: Tensor): void =>
      variable.assign(all === null ? value : where(all, value, variable.read()));
    const share = this.#share();
    for (const [parameter, average] of this.#averages) {
      const old = average.read();
      assign(average, old.add(parameter.read().cast("float32").sub(old).mul(share)));
    }
    assign(this.#steps, this.#steps.read().add(1));
  }

  /** 1 − decay of this step. */
  #share(): Tensor | number {
    if (!this.#warmup) return 1 - this.#decay;
    const steps = this.#steps.read().cast("float32");
    // 1 − (1 + n) / (10 + n), without the cancellation.
    return steps
      .add(10)
      .reciprocal()
      .mul(9)
      .maximum(1 - this.#decay);
  }

  /** The average of a parameter, in float32. */
  of(parameter: Variable): Tensor {
    const average = this.#averages.get(parameter);
    if (average !== undefined) return average.read();
    const sentence = `WeightAverage: ${parameter instanceof Variable ? parameter.name : showValue(parameter)} is not averaged`;
    throw new BinadeError("option.invalid", `${sentence}; construct the average with a module that has it`);
  }

  /**
   * Exchanges weights and averages: once before an evaluation, once after it. Both keep their bits where the weights are
   * float32; 16-bit weights round the averages.
   */
  swap(): void {
    for (const [parameter, average] of this.#averages) {
      const weight = parameter.read().cast("float32");
      parameter.assign(average.read().cast(parameter.dtype));
      average.assign(weight);
    }
  }

  /** Averages by the name "<parameter>.average", and their count of steps, for checkpoints. */
  namedState(): ReadonlyMap<string, Variable> {
    return new Map([this.#steps, ...this.#averages.values()].map((variable) => [variable.name, variable]));
  }
}

function startOf(parameter: Variable): Variable {
  const { name, shape, device } = parameter;
  const average = new Variable(`${name}.average`, shape, "float32", undefined, device);
  average.role = "optimizerState";
  average.assign(parameter.read().cast("float32"));
  return average;
}
