/** What optimizers and scalers are handed, checked at the boundary: a wrong object would fail far from here, or not at all. */
import { BinadeError, showValue } from "../errors.ts";
import { isFloat } from "../formats/index.ts";
import { isPositive, requireBoolean, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { ScaledLoss } from "../tensor/gradients.ts";
import { invalid } from "../tensor/require.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import type { Steppable } from "./optimizer.ts";

export interface StepOptions {
  /** Check gradients that were changed after `unscale` once more. Default true; PyTorch does not. */
  readonly checkGradients?: boolean;
  /** Skip a step whose finite gradients have a global norm above this, before clipping; > 0. Default: none is. */
  readonly skipNormAbove?: number;
  /** Skip a step whose gradients are all exactly 0 though a loss is not. Default false: such a step is applied. */
  readonly skipZeroGradients?: boolean;
}

/** Tensors in arrays, nested. */
export type LossTree = Tensor | readonly LossTree[];

/** The same structure of scaled losses. */
export type Scaled<T extends LossTree> = T extends Tensor
  ? ScaledLoss
  : { readonly [K in keyof T]: T[K] extends LossTree ? Scaled<T[K]> : never };

export function requireStepOptions(options: StepOptions): void {
  requireKnownKeys("step", options, ["checkGradients", "skipNormAbove", "skipZeroGradients"]);
  requireBoolean("step: checkGradients", options.checkGradients);
  requireBoolean("step: skipZeroGradients", options.skipZeroGradients);
  if (options.skipNormAbove !== undefined)
    requireNumber("step: skipNormAbove", options.skipNormAbove, isPositive, "a finite number > 0");
}

/** The losses of a tree, all of them floating. */
export function flattenLosses(losses: LossTree): readonly Tensor[] {
  if (losses instanceof Tensor && isFloat(losses.dtype)) return [losses];
  if (Array.isArray(losses)) return losses.flatMap(flattenLosses);
  const got = losses instanceof Tensor ? losses.dtype : showValue(losses);
  throw new BinadeError(
    "option.invalid",
    `scale: expected a floating tensor or arrays of them, got ${got}; pass the loss itself`,
  );
}

export function requireFloating(subject: string, value: unknown): asserts value is Tensor {
  if (value instanceof Tensor && isFloat(value.dtype)) return;
  const got = value instanceof Tensor ? `one of ${value.dtype}` : showValue(value);
  throw new BinadeError("option.invalid", `${subject}: expected a floating tensor, got ${got}; pass one`);
}

export function requireScaledLoss(loss: unknown): ScaledLoss {
  if (loss instanceof ScaledLoss) return loss;
  throw invalid("scaledGradients: losses", "what scale() returned", loss, "pass scaler.scale(loss)");
}

/** Two numbers, such as the decays of both moments. */
export function requirePair(
  subject: string,
  value: unknown,
  holds: (value: number) => boolean,
  expected: string,
): void {
  if (!Array.isArray(value) || value.length !== 2)
    throw new BinadeError("option.invalid", `${subject}: expected two numbers, got ${showValue(value)}; give both`);
  for (const [i, one] of value.entries()) requireNumber(`${subject}[${i}]`, one, holds, expected);
}

export function requireParameters(subject: string, value: unknown): asserts value is Pick<Steppable, "parameters"> {
  const found = hasMethod(value, "parameters") ? value.parameters() : null;
  if (Array.isArray(found) && found.every((one) => one instanceof Variable)) return;
  throw invalid(subject, "something whose parameters() are variables", value, "pass a module or an optimizer");
}

/** An optimizer of Binade's or of the user's own. */
export function requireSteppable(subject: string, value: unknown): asserts value is Steppable {
  requireParameters(subject, value);
  if (hasMethod(value, "updates")) return;
  throw invalid(subject, "an optimizer with parameters() and updates()", value, "pass one, such as optim.AdamW");
}

const hasMethod = <K extends string>(value: unknown, name: K): value is { readonly [key in K]: () => unknown } =>
  typeof value === "object" &&
  value !== null &&
  name in value &&
  typeof (value as Readonly<Record<string, unknown>>)[name] === "function";
