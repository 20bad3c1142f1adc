/** What must not compile: scaled gradients clipped, measured or applied. Checked by `npm run types`; nothing here runs. */
import {
  autocast,
  clipByGlobalNorm,
  compile,
  type GradScaler,
  type Grads,
  globalNorm,
  gradients,
  gradientsFrom,
  mapGradients,
  optim,
  type ScaledLoss,
  type Tensor,
  type Variable,
} from "../../src/index.ts";

export function mistakes(
  loss: Tensor,
  parameters: readonly Variable[],
  scaler: GradScaler,
  optimizer: optim.AdamW,
): readonly unknown[] {
  const scaledLoss: ScaledLoss = scaler.scale(loss);
  const scaled: Grads<"scaled"> = gradients(scaledLoss, parameters);
  const plain: Grads<"true"> = gradients(loss, parameters);
  const map: ReadonlyMap<Variable, Tensor> = scaled;
  return [
    // @ts-expect-error: clipping scaled gradients would clip by the scaled norm
    clipByGlobalNorm(scaled, 1),
    // @ts-expect-error: the norm of scaled gradients is not the norm
    globalNorm(scaled),
    // @ts-expect-error: the step would be as many times too large as the scale
    optimizer.apply(scaled),
    // @ts-expect-error: the same, as a list of updates
    optimizer.updates(scaled),
    // @ts-expect-error: a change of the gradients does not unscale them
    globalNorm(mapGradients(scaled, (gradient) => gradient)),
    // @ts-expect-error: gradients of a plain loss were never scaled
    scaler.unscale(plain),
    // @ts-expect-error: unscaling twice
    scaler.unscale(scaler.unscale(scaled)),
    // @ts-expect-error: a plain map says nothing of its scale
    optimizer.apply(map),
    // @ts-expect-error: nor does a new one
    clipByGlobalNorm(new Map<Variable, Tensor>(), 1),
    // @ts-expect-error: another way to make gradients does not unscale them
    gradientsFrom(scaled),
    // @ts-expect-error: arithmetic would lose the mark; add and divide losses before scaling
    scaledLoss.div(2),
    // @ts-expect-error: scaling twice
    scaler.scale(scaledLoss),
    // @ts-expect-error: not a tensor
    scaler.scale(4),
    // @ts-expect-error: a rate is a number or a schedule
    (optimizer.lr = loss),
    // @ts-expect-error: the seed is one for all groups
    new optim.AdamW([{ parameters, seed: 3 }]),
    // @ts-expect-error: a region ends before its promise does
    autocast("float16", async () => loss),
    // @ts-expect-error: a step is recorded synchronously
    compile(async (x: Tensor) => x),
  ];
}

export function correct(
  loss: Tensor,
  parameters: readonly Variable[],
  scaler: GradScaler,
  optimizer: optim.AdamW,
): readonly unknown[] {
  const [first, [second]] = scaler.scale([loss, [loss]]);
  const grads = scaler.unscale(gradients(first, parameters), optimizer);
  return [
    scaler.step(optimizer, clipByGlobalNorm(grads, 1)),
    scaler.step(optimizer, gradients(second, parameters)),
    optimizer.apply(clipByGlobalNorm(gradients(loss, parameters), 1)),
    globalNorm(mapGradients(grads, (gradient) => gradient.mul(2))),
  ];
}
