/** Stochastic gradient descent with momentum. */
import { BinadeError } from "../errors.ts";
import { requireBoolean, requireNumber } from "../precision/options.ts";
import { type CommonOptions, Optimizer, type ParameterSource, type Rule, STORAGE } from "./optimizer.ts";

export interface SGDOptions extends CommonOptions {
  /** Default 0.01. */
  readonly lr?: NonNullable<CommonOptions["lr"]>;
  /** Added to the gradient as weightDecay · w. Default 0. */
  readonly weightDecay?: number;
  /** Share of the previous direction, from 0 to less than 1; 0 keeps no state. Default 0. */
  readonly momentum?: number;
  /** Looks one step ahead along the momentum; needs momentum > 0. Default false. */
  readonly nesterov?: boolean;
}

type Settings = Required<SGDOptions>;

/**
 *     g ← g + weightDecay · w
 *     b ← momentum · b + g                    (b = 0 at first; without dampening)
 *     w ← w − lr · (nesterov ? g + momentum · b : b)
 *
 * Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", in the form of
 * PyTorch's SGD, where lr multiplies the direction and not the gradient.
 */
const RULE: Rule<Settings> = {
  name: "SGD",
  defaults: { lr: 0.01, weightDecay: 0, ...STORAGE, momentum: 0, nesterov: false },
  check: ({ momentum, nesterov }) => {
    requireNumber("SGD: momentum", momentum, (v) => v >= 0 && v < 1, "a number from 0 to less than 1");
    requireBoolean("SGD: nesterov", nesterov);
    if (nesterov && momentum === 0) {
      throw new BinadeError(
        "option.invalid",
        "SGD: nesterov needs momentum > 0, got 0; set momentum, for instance 0.9",
      );
    }
  },
  slots: ({ momentum }, shape) => (momentum > 0 ? [{ name: "momentum", shape, signed: true }] : []),
  update: ({ weight, gradient, slots, lr, settings: { momentum, nesterov, weightDecay } }) => {
    const g = weightDecay === 0 ? gradient : gradient.add(weight.mul(weightDecay));
    if (slots.momentum === undefined) return { weight: weight.sub(g.mul(lr)), slots: {} };
    const direction = slots.momentum.mul(momentum).add(g);
    const ahead = nesterov ? g.add(direction.mul(momentum)) : direction;
    return { weight: weight.sub(ahead.mul(lr)), slots: { momentum: direction } };
  },
};

/**
 * Stochastic gradient descent, with momentum and Nesterov's look-ahead on request.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for a bad option.
 * @example
 * const optimizer = new optim.SGD(model, { lr: 0.1, momentum: 0.9, nesterov: true });
 */
export class SGD extends Optimizer<Settings> {
  constructor(parameters: ParameterSource<SGDOptions>, options: SGDOptions = {}) {
    super(RULE, parameters, options);
  }
}
