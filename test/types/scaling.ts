/** What must not compile: scalers mixed up, outcomes read without a look, presets that do not exist. Nothing here runs. */
import {
  addGradients,
  GradScaler,
  type Grads,
  gradients,
  optim,
  type ReadOutcome,
  type Tensor,
  type Variable,
} from "../../src/index.ts";

export function mistakes(
  loss: Tensor,
  parameters: readonly Variable[],
  scaler: GradScaler,
  optimizer: optim.AdamW,
  read: ReadOutcome,
): readonly unknown[] {
  const scaled: Grads<"scaled"> = gradients(scaler.scale(loss), parameters);
  const plain: Grads<"true"> = gradients(loss, parameters);
  const sums = new optim.GradientAccumulator<"scaled">(parameters, { scaler });
  return [
    // @ts-expect-error: a sum of scaled and true gradients is neither
    addGradients(scaled, plain),
    // @ts-expect-error: gradients of a plain loss are not those of the accumulator's scaler
    sums.add(plain),
    // @ts-expect-error: what an accumulator of scaled gradients gives must be unscaled first
    optimizer.apply(sums.take()),
    // @ts-expect-error: scaled gradients need an accumulator with their scaler
    new optim.GradientAccumulator(parameters).add(scaled),
    // @ts-expect-error: and it is made with that scaler
    new optim.GradientAccumulator<"scaled">(parameters),
    // @ts-expect-error: an applied step has no reason
    read.reason,
    // @ts-expect-error: no such preset
    new GradScaler({ preset: "pytorhc" }),
    // @ts-expect-error: nor such a thing to look at
    new GradScaler({ checks: "half" }),
    // @ts-expect-error: a scale set by hand is a number
    scaler.setScale(loss),
    // @ts-expect-error: a loss is scaled once
    scaler.scale(scaler.scale(loss)),
    // @ts-expect-error: gradients step, losses do not
    scaler.step(optimizer, scaler.scale(loss)),
    // @ts-expect-error: a border lies between two scalers
    scaler.rescale(loss),
    // @ts-expect-error: the scaled loss of a probe is the one that was handed in
    optim.probeLossScale(() => gradients(loss, parameters), [[loss]]),
    // @ts-expect-error: the average asks the outcome, not the gradients
    new optim.WeightAverage(parameters).update(scaled),
  ];
}

export function correct(
  loss: Tensor,
  parameters: readonly Variable[],
  scaler: GradScaler,
  optimizer: optim.AdamW,
  read: ReadOutcome,
): readonly unknown[] {
  const other = new GradScaler({ preset: "megatron", checks: "both" });
  const grads = addGradients(
    scaler.unscale(gradients(scaler.scale(loss), parameters)),
    other.unscale(gradients(other.scale(loss), parameters)),
  );
  const outcome = scaler.step(optimizer, grads, { skipNormAbove: 10 });
  new optim.WeightAverage(parameters).update(outcome);
  return [
    read.applied ? read.lossScaleAfter : read.reason,
    optim.probeLossScale((scale, x: Tensor) => gradients(scale(x), parameters), [[loss]]),
  ];
}
