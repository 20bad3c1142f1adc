/** Muon: the momentum of a matrix, made orthogonal by products in bfloat16. */
import { BinadeError } from "../errors.ts";
import { build } from "../ir/graph.ts";
import type { Shape } from "../ops/shape.ts";
import { requireBoolean, requireInteger, requireNumber } from "../precision/options.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import { type CommonOptions, Optimizer, type ParameterSource, type Rule, STORAGE } from "./optimizer.ts";

export interface MuonOptions extends CommonOptions {
  /** Default 0.001. */
  readonly lr?: NonNullable<CommonOptions["lr"]>;
  /** Shrinks w by lr · weightDecay. Default 0.1. */
  readonly weightDecay?: number;
  /** Decay of the momentum, from 0 to less than 1. Default 0.95. */
  readonly momentum?: number;
  /** Looks one step ahead along the momentum. Default true. */
  readonly nesterov?: boolean;
  /** Iterations that make the update orthogonal, 1 to 99. Default 5. */
  readonly iterations?: number;
  /** Least norm by which the momentum is divided, > 0. Default 1e-7. */
  readonly eps?: number;
  /**
   * What lr is multiplied by for a matrix of m × n: `original` √max(1, m/n) (default); `matchAdamW` 0.2 √max(m, n), with which
   * updates are as large as AdamW's.
   */
  readonly rateScale?: keyof typeof RATE_SCALES;
}

type Settings = Required<MuonOptions>;

const RATE_SCALES = {
  original: (m: number, n: number): number => Math.sqrt(Math.max(1, m / n)),
  matchAdamW: (m: number, n: number): number => 0.2 * Math.sqrt(Math.max(m, n)),
} as const;

/** The polynomial a x + b x³ + c x⁵: steepest at 0, and near 1 for singular values up to 1. Source: as of the rule. */
const [A, B, C] = [3.4445, -4.775, 2.0315];
/** The least normal float32. */
const LEAST_EPS = 2 ** -126;

/**
 * u with all singular values near 1, by Newton's and Schulz's iteration: operands in bfloat16, sums and what is added to them in
 * float32, rounded once per product.
 */
function orthogonalized(u: Tensor, iterations: number, eps: number): Tensor {
  const [m = 1, n = 1] = u.shape;
  const narrow = u.cast("bfloat16").cast("float32");
  const scaled = narrow.div(narrow.square().sum().sqrt().maximum(eps)).cast("bfloat16");
  // The square products are then of the smaller side.
  let x = m > n ? scaled.transpose() : scaled;
  const product = (a: Tensor, b: Tensor): Tensor => new Tensor(build.matmul(a.node, b.node, "float32"));
  for (let i = 0; i < iterations; i++) {
    const gram = product(x, x.transpose()).cast("bfloat16");
    const update = product(gram, gram).mul(C).add(gram.cast("float32").mul(B)).cast("bfloat16");
    x = product(update, x).add(x.cast("float32").mul(A)).cast("bfloat16");
  }
  return (m > n ? x.transpose() : x).cast("float32");
}

function requireMatrix({ name, shape }: Variable): void {
  if (shape.length === 2 && shape.every((n) => n > 0)) return;
  throw new BinadeError(
    "shape.invalid",
    `Muon: parameter ${name} has shape [${shape.join(", ")}], expected a matrix; give it to another optimizer, such as AdamW`,
  );
}

/**
 *     b ← b + (1 − momentum) (g − b)          u = nesterov ? g + momentum (b − g) : b
 *     w ← w (1 − lr · weightDecay) − lr · scale(m, n) · orthogonalized(u)
 *
 * Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", in the form of PyTorch's Muon; matchAdamW:
 * Liu et al. 2025, arXiv:2502.16982.
 */
const RULE: Rule<Settings> = {
  name: "Muon",
  defaults: {
    lr: 1e-3,
    weightDecay: 0.1,
    ...STORAGE,
    momentum: 0.95,
    nesterov: true,
    iterations: 5,
    eps: 1e-7,
    rateScale: "original",
  },
  check: ({ momentum, nesterov, iterations, eps, rateScale }) => {
    requireBoolean("Muon: nesterov", nesterov);
    requireNumber("Muon: momentum", momentum, (v) => v >= 0 && v < 1, "a number from 0 to less than 1");
    requireInteger("Muon: iterations", iterations, 1);
    requireNumber("Muon: iterations", iterations, (v) => v < 100, "an integer from 1 to 99");
    const expected = "a number > 0 that float32 holds (at least 1.2e-38; try 1e-7)";
    requireNumber("Muon: eps", eps, (v) => v >= LEAST_EPS && Number.isFinite(Math.fround(v)), expected);
    if (!Object.hasOwn(RATE_SCALES, rateScale)) {
      const got = JSON.stringify(rateScale);
      throw new BinadeError("option.invalid", `Muon: rateScale: expected "original" or "matchAdamW", got ${got}`);
    }
  },
  requireParameter: requireMatrix,
  slots: (_, shape) => [{ name: "momentum", shape, signed: true }],
  update: ({ weight, gradient, slots, lr, settings }) => {
    const { momentum: decay, nesterov, iterations, eps, weightDecay, rateScale } = settings;
    const before = slots.momentum ?? gradient;
    const momentum = before.add(gradient.sub(before).mul(1 - decay));
    const ahead = nesterov ? gradient.add(momentum.sub(gradient).mul(decay)) : momentum;
    const direction = orthogonalized(ahead, iterations, eps);
    const kept = weightDecay === 0 ? weight : weight.sub(weight.mul(lr.mul(weightDecay)));
    return { weight: kept.sub(direction.mul(lr.mul(scaleOf(rateScale, weight.shape)))), slots: { momentum } };
  },
};

const scaleOf = (name: Settings["rateScale"], [m = 1, n = 1]: Shape): number => RATE_SCALES[name](m, n);

/**
 * Muon, for matrices of hidden layers; embeddings, norms and biases go to another optimizer, such as AdamW, and one `GradScaler`
 * steps both.
 *
 * @throws BinadeError `shape.invalid` for a parameter that is no matrix; `value.range`, `option.invalid` or `option.unknown` for
 * a bad option.
 * @example
 * const muon = new optim.Muon(matrices, { lr: 0.02 });
 * const adamw = new optim.AdamW(others, { lr: 3e-4 });
 */
export class Muon extends Optimizer<Settings> {
  constructor(parameters: ParameterSource<MuonOptions>, options: MuonOptions = {}) {
    super(RULE, parameters, options);
  }
}
