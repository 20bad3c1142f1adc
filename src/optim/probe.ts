/** A first loss scale from a look at some batches, instead of the steps that a scale too high would waste. */
import { BinadeError, showValue } from "../errors.ts";
import { isNonNegative, isPositive, requireFunction, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { compile } from "../tensor/compile.ts";
import { tensor } from "../tensor/create.ts";
import { allFinite } from "../tensor/finite.ts";
import { type Grads, markGrads, originOf, ScaledLoss } from "../tensor/gradients.ts";
import { requireGrads } from "../tensor/require.ts";
import { Tensor } from "../tensor/tensor.ts";

export interface ProbeOptions {
  /** Binades below the largest scale that overflows nowhere, ≥ 0. Default 1. */
  readonly headroom?: number;
  /** Least scale that is tried, a power of two. Default 2⁻¹⁴. */
  readonly floor?: number;
  /** Greatest scale that is tried, a power of two. Default 2²⁴. */
  readonly ceiling?: number;
}

/** The gradients of a batch's loss, which `scale` scaled: what the step makes of them is not asked. */
export type ProbedStep<A extends readonly Tensor[]> = (
  scale: (loss: Tensor) => ScaledLoss,
  ...batch: A
) => Grads<"scaled">;

/**
 * The largest power of two whose scaled gradients were finite in every batch, less the headroom: a first scale for
 * `GradScaler`. The function is run as the step would run it, autocast and all, a few times a batch (the exponent is found by
 * halving), and changes nothing: running statistics, random counters and parameters keep their values.
 *
 * @throws BinadeError `scaler.order` if the gradients are not those of the scaled loss; `option.invalid` for no batches or
 * bounds that are no powers of two; `value.range` if even the floor overflows, which no loss scale cures; `option.unknown`.
 * @example
 * const initialScale = await optim.probeLossScale(
 *   (scale, x, y) => gradients(scale(autocast("float16", () => crossEntropy(model.forward(x), y))), model),
 *   batches,
 * );
 * const scaler = new GradScaler({ initialScale });
 */
export async function probeLossScale<A extends readonly Tensor[]>(
  step: ProbedStep<A>,
  batches: readonly A[],
  options: ProbeOptions = {},
): Promise<number> {
  requireFunction("probeLossScale: step", step);
  requireBatches(batches);
  requireKnownKeys("probeLossScale", options, ["headroom", "floor", "ceiling"]);
  const { headroom = 1, floor = 2 ** -14, ceiling = 2 ** 24 } = options;
  requireNumber("probeLossScale: headroom", headroom, isNonNegative, "a finite number ≥ 0");
  const [least, greatest] = [exponentOf("floor", floor), exponentOf("ceiling", ceiling)];
  if (batches.length === 0 || least > greatest) {
    const got = batches.length === 0 ? "no batches" : `floor ${floor} and ceiling ${ceiling}`;
    throw new BinadeError("option.invalid", `probeLossScale: expected batches and floor ≤ ceiling, got ${got}`);
  }
  const probe = compile(
    (scale: Tensor, ...batch: readonly Tensor[]) => allFinite(scaledBy(scale, step, batch as unknown as A).values()),
    { readOnly: true },
  );
  const fits = async (exponent: number, batch: A): Promise<boolean> =>
    (await (await probe(tensor(2 ** exponent), ...batch)).item()) === 1;
  let best = greatest;
  for (const batch of batches) best = await largestFitting(least, best, (exponent) => fits(exponent, batch));
  return 2 ** Math.max(least, best - Math.ceil(headroom));
}

function requireBatches(batches: unknown): void {
  const isTensors = (batch: unknown): boolean => Array.isArray(batch) && batch.every((one) => one instanceof Tensor);
  if (Array.isArray(batches) && batches.every(isTensors)) return;
  throw new BinadeError(
    "option.invalid",
    `probeLossScale: batches: expected a list of batches, each a list of tensors, got ${showValue(batches)}; pass [[x, y], …]`,
  );
}

function exponentOf(name: string, value: number): number {
  requireNumber(`probeLossScale: ${name}`, value, isPositive, "a finite number > 0");
  const exponent = Math.log2(value);
  if (Number.isInteger(exponent) && Math.abs(exponent) <= 126) return exponent;
  const sentence = `probeLossScale: ${name}: expected a power of two from 2^-126 to 2^126, got ${value}`;
  throw new BinadeError("option.invalid", `${sentence}; only those scale without rounding`);
}

function scaledBy<A extends readonly Tensor[]>(scale: Tensor, step: ProbedStep<A>, batch: A): Grads<"scaled"> {
  const probe = {};
  const grads = step((loss) => new ScaledLoss(loss.cast("float32").mul(scale), loss, probe, probe), ...batch);
  requireGrads("probeLossScale: the gradients that step returned", grads);
  const origin = originOf(grads);
  if (origin?.kind === "scaled" && origin.scalers.includes(probe)) return markGrads(grads, origin);
  const sentence = "probeLossScale: the gradients are not those of the scaled loss";
  throw new BinadeError("scaler.order", `${sentence}; write gradients(scale(loss), model)`);
}

/** The largest exponent up to `high` that fits; those that do not fit are all above those that do. */
async function largestFitting(
  low: number,
  high: number,
  fits: (exponent: number) => Promise<boolean>,
): Promise<number> {
  if (await fits(high)) return high;
  if (!(await fits(low))) {
    const sentence = `probeLossScale: expected a loss scale from 2^${low} on, and gradients overflow there already`;
    throw new BinadeError("value.range", `${sentence}; compute what overflows in bfloat16 or float32`);
  }
  let [fitting, failing] = [low, high];
  while (failing - fitting > 1) {
    const middle = Math.floor((fitting + failing) / 2);
    if (await fits(middle)) fitting = middle;
    else failing = middle;
  }
  return fitting;
}
