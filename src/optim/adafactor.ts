/** Adafactor: second moments of matrices as the product of a row and a column, steps relative to the weights. */
import { isNonNegative, requireNumber } from "../precision/options.ts";
import { full } from "../tensor/create.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { requirePair } from "./arguments.ts";
import { type CommonOptions, Optimizer, type ParameterSource, type Rule, STORAGE } from "./optimizer.ts";

export interface AdafactorOptions extends CommonOptions {
  /** Greatest relative step: step t makes at most min(lr, 1/√t) of the weights' root mean square. Default 0.01. */
  readonly lr?: NonNullable<CommonOptions["lr"]>;
  /** Exponent of the step t in the share of the newest squares, t^beta2Decay, at most 0. Default −0.8. */
  readonly beta2Decay?: number;
  /**
   * Least square root of a second moment, at least 1.1e-19 since its square must be a float32 number, and least root mean square
   * of weights, ≥ 0. Default [2⁻²³, 0.001].
   */
  readonly eps?: readonly [number, number];
  /** Root mean square of the update above which it is scaled down, at least 1. Default 1. */
  readonly clipThreshold?: number;
  /** Shrinks w by lr · weightDecay. Default 0. */
  readonly weightDecay?: number;
}

type Settings = Required<AdafactorOptions>;

/** Its square is the least normal float32. */
const LEAST_EPS = 2 ** -63;

const rms = (x: Tensor): Tensor => x.square().mean().sqrt();
/** a + share · (b − a). */
const towards = (a: Tensor, b: Tensor, share: Tensor): Tensor => a.add(b.sub(a).mul(share));

/** The second moment of every element, and the state behind it: rows and columns of the last two axes, or all elements of a vector. */
function moments(gradient: Tensor, slots: Readonly<Record<string, Tensor>>, share: Tensor, floor: number) {
  const squares = gradient.square();
  const { row, column, v } = slots;
  if (row === undefined || column === undefined) {
    const moment = towards(v ?? squares, squares, share);
    return { estimate: moment, slots: { v: moment } };
  }
  const rows = towards(row, squares.mean({ axes: -1, keepAxes: true }), share);
  const columns = towards(column, squares.mean({ axes: -2, keepAxes: true }), share);
  const mean = rows.mean({ axes: -2, keepAxes: true }).maximum(floor);
  return { estimate: rows.mul(columns).div(mean), slots: { row: rows, column: columns } };
}

/**
 *     ρ = min(lr, 1/√t)     α = max(eps₂, RMS(w)) · ρ     β = t^beta2Decay
 *     r ← r + β (mean of g² over columns − r)     c ← c + β (mean of g² over rows − c)     v = r c / max(mean(r), eps₁)
 *     u = g / √max(v, eps₁²)
 *     w ← w (1 − lr · weightDecay) − α u / max(1, RMS(u) / clipThreshold)
 *
 * Vectors and scalars keep v whole. Source: Shazeer, Stern 2018, arXiv:1804.04235, algorithms 4 to 6, in the form of PyTorch's
 * Adafactor, whose eps₁ bounds √v and not v. t counts applied steps.
 */
const RULE: Rule<Settings> = {
  name: "Adafactor",
  defaults: { lr: 0.01, weightDecay: 0, ...STORAGE, beta2Decay: -0.8, eps: [2 ** -23, 1e-3], clipThreshold: 1 },
  check: ({ beta2Decay, eps, clipThreshold }) => {
    requireNumber("Adafactor: beta2Decay", beta2Decay, (v) => v <= 0 && Number.isFinite(v), "a finite number ≤ 0");
    const expected = "a number ≥ 1.1e-19 whose square float32 holds (try 1e-7)";
    requirePair("Adafactor: eps", eps, isNonNegative, "a finite number ≥ 0");
    requireNumber("Adafactor: eps[0]", eps[0], (v) => v >= LEAST_EPS && Number.isFinite(Math.fround(v * v)), expected);
    requireNumber(
      "Adafactor: clipThreshold",
      clipThreshold,
      (v) => v >= 1 && Number.isFinite(v),
      "a finite number ≥ 1",
    );
  },
  slots: (_, shape) => {
    if (shape.length < 2) return [{ name: "v", shape, signed: false }];
    const [rows = 1, columns = 1] = shape.slice(-2);
    const lead = shape.slice(0, -2);
    return [
      { name: "row", shape: [...lead, rows, 1], signed: false },
      { name: "column", shape: [...lead, 1, columns], signed: false },
    ];
  },
  update: ({ weight, gradient, slots, lr, step, settings }) => {
    const { beta2Decay, eps, clipThreshold, weightDecay } = settings;
    // β = e^(beta2Decay · log t): 1 in the first step, so that its state is the squares themselves.
    const { estimate, slots: state } = moments(gradient, slots, step.log().mul(beta2Decay).exp(), eps[0]);
    const rate = lr.minimum(step.rsqrt()).mul(rms(weight).maximum(eps[1]));
    const update = gradient.mul(estimate.maximum(eps[0] ** 2).rsqrt());
    const scale = rms(update).div(clipThreshold).maximum(full([], 1));
    const kept = weightDecay === 0 ? weight : weight.sub(weight.mul(lr.mul(weightDecay)));
    return { weight: kept.sub(update.mul(rate.div(scale))), slots: state };
  },
};

/**
 * Adafactor, whose state of a matrix is one row and one column.
 *
 * @throws BinadeError `value.range`, `option.invalid` or `option.unknown` for a bad option.
 * @example
 * const optimizer = new optim.Adafactor(model, { lr: 0.01 });
 */
export class Adafactor extends Optimizer<Settings> {
  constructor(parameters: ParameterSource<AdafactorOptions>, options: AdafactorOptions = {}) {
    super(RULE, parameters, options);
  }
}
