/** Adam, and AdamW, which decays weights apart from the gradient. */
import { requireNumber } from "../precision/options.ts";
import { full } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { requirePair } from "./arguments.ts";
import {
  type CommonOptions,
  Optimizer,
  type ParameterSource,
  type Rule,
  STORAGE,
  type UpdateArguments,
} from "./optimizer.ts";

export interface AdamOptions extends CommonOptions {
  /** Default 0.001. */
  readonly lr?: NonNullable<CommonOptions["lr"]>;
  /** Decay of the first and second moment, each from 0 to less than 1. Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number];
  /** Added to √v̂. Default 1e-8. */
  readonly eps?: number;
  /** Adam adds weightDecay · w to the gradient (default 0); AdamW shrinks w by lr · weightDecay (default 0.01). */
  readonly weightDecay?: number;
}

export type AdamWOptions = AdamOptions;

type Settings = Required<AdamOptions>;

/** The least normal float32. */
const LEAST_EPS = 2 ** -126;
const COMMON = { lr: 1e-3, ...STORAGE, betas: [0.9, 0.999], eps: 1e-8 } as const;

const moments: Rule<Settings>["slots"] = (_, shape) => [
  { name: "m", shape, signed: true },
  { name: "v", shape, signed: false },
];

function check(name: string): (settings: Settings) => void {
  return ({ betas, eps }) => {
    requirePair(`${name}: betas`, betas, (v) => v >= 0 && v < 1, "a number from 0 to less than 1");
    // A gradient that is always 0 gives 0/(√0 + eps): NaN where eps is 0, or becomes 0 in the dtype of the state.
    const expected = "a number > 0 that float32 holds (at least 1.2e-38; try 1e-8)";
    requireNumber(`${name}: eps`, eps, (v) => v >= LEAST_EPS && Number.isFinite(Math.fround(v)), expected);
  };
}

/** 1 − βᵗ as −expm1(t · log β): near β = 1 the difference itself would lose most of its digits in float32. */
function biasCorrection(beta: number, step: Tensor): Tensor {
  return beta === 0 ? full([], 1) : step.mul(Math.log(beta)).expm1().neg();
}

/**
 *     m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
 *     w ← w − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)
 *
 * Source: Kingma, Ba 2015, "Adam", arXiv:1412.6980, algorithm 1. t counts applied steps.
 */
function adam(weight: Tensor, gradient: Tensor, { slots, lr, step, settings }: UpdateArguments<Settings>) {
  const [beta1, beta2] = settings.betas;
  const { m = gradient, v = gradient } = slots;
  const first = m.mul(beta1).add(gradient.mul(1 - beta1));
  const second = v.mul(beta2).add(gradient.square().mul(1 - beta2));
  const deviation = second.div(biasCorrection(beta2, step)).sqrt().add(settings.eps);
  const direction = first.div(biasCorrection(beta1, step)).div(deviation);
  return { weight: weight.sub(direction.mul(lr)), slots: { m: first, v: second } };
}

const ADAM: Rule<Settings> = {
  name: "Adam",
  defaults: { ...COMMON, weightDecay: 0 },
  check: check("Adam"),
  slots: moments,
  update: (args) => {
    const { weight, gradient, settings } = args;
    const { weightDecay } = settings;
    return adam(weight, weightDecay === 0 ? gradient : gradient.add(weight.mul(weightDecay)), args);
  },
};

/** w ← w · (1 − lr · weightDecay) before Adam's update. Source: Loshchilov, Hutter 2019, arXiv:1711.05101, algorithm 2. */
const ADAMW: Rule<Settings> = {
  name: "AdamW",
  defaults: { ...COMMON, weightDecay: 0.01 },
  check: check("AdamW"),
  slots: moments,
  update: (args) => {
    const { weight, gradient, lr, settings } = args;
    const { weightDecay } = settings;
    // The decay is subtracted: 1 − lr · weightDecay is a multiple of 2⁻²⁴, which at 1e-6 is off by 5 % of the decay.
    return adam(weightDecay === 0 ? weight : weight.sub(weight.mul(lr.mul(weightDecay))), gradient, args);
  },
};

/**
 * Adam with bias correction; weight decay is added to the gradient, as in PyTorch.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for a bad option.
 * @example
 * const optimizer = new optim.Adam(model, { lr: 1e-3, betas: [0.9, 0.95] });
 */
export class Adam extends Optimizer<Settings> {
  constructor(parameters: ParameterSource<AdamOptions>, options: AdamOptions = {}) {
    super(ADAM, parameters, options);
  }
}

/**
 * Adam with decoupled weight decay.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for a bad option.
 * @example
 * const optimizer = new optim.AdamW(
 *   [{ parameters: matrices }, { parameters: norms, weightDecay: 0 }],
 *   { lr: optim.warmupCosine({ warmup: 100, total: 2000, peak: 1e-3 }), weightDecay: 0.1 },
 * );
 */
export class AdamW extends Optimizer<Settings> {
  constructor(parameters: ParameterSource<AdamWOptions>, options: AdamWOptions = {}) {
    super(ADAMW, parameters, options);
  }
}
