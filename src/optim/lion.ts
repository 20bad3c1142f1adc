/** Lion: steps of one size in every element, by the sign of an interpolated momentum. */
import { requirePair } from "./arguments.ts";
import { type CommonOptions, Optimizer, type ParameterSource, type Rule, STORAGE } from "./optimizer.ts";

export interface LionOptions extends CommonOptions {
  /** Default 0.0001: a third to a tenth of AdamW's, since every element moves by it. */
  readonly lr?: NonNullable<CommonOptions["lr"]>;
  /** Share of the momentum in the direction, and its decay, each from 0 to less than 1. Default [0.9, 0.99]. */
  readonly betas?: readonly [number, number];
  /** Shrinks w by lr · weightDecay. Default 0. */
  readonly weightDecay?: number;
}

type Settings = Required<LionOptions>;

/**
 *     w ← w − lr · (sign(β₁ m + (1 − β₁) g) + weightDecay · w)
 *     m ← β₂ m + (1 − β₂) g
 *
 * Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2.
 */
const RULE: Rule<Settings> = {
  name: "Lion",
  defaults: { lr: 1e-4, weightDecay: 0, ...STORAGE, betas: [0.9, 0.99] },
  check: ({ betas }) => {
    requirePair("Lion: betas", betas, (v) => v >= 0 && v < 1, "a number from 0 to less than 1");
  },
  slots: (_, shape) => [{ name: "m", shape, signed: true }],
  update: ({ weight, gradient, slots: { m = gradient }, lr, settings: { betas, weightDecay } }) => {
    const mix = (beta: number) => m.mul(beta).add(gradient.mul(1 - beta));
    const sign = mix(betas[0]).sign();
    const direction = weightDecay === 0 ? sign : sign.add(weight.mul(weightDecay));
    return { weight: weight.sub(direction.mul(lr)), slots: { m: mix(betas[1]) } };
  },
};

/**
 * Lion, whose state is one momentum.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for a bad option.
 * @example
 * const optimizer = new optim.Lion(model, { lr: 1e-4, weightDecay: 0.1 });
 */
export class Lion extends Optimizer<Settings> {
  constructor(parameters: ParameterSource<LionOptions>, options: LionOptions = {}) {
    super(RULE, parameters, options);
  }
}
