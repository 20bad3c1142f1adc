/** Gradients of several calls, summed in float32 variables: a large batch in pieces. */
import { BinadeError } from "../errors.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { full } from "../tensor/create.ts";
import { where } from "../tensor/functions.ts";
import {
  type Grads,
  type LossFacts,
  lossesOf,
  markGrads,
  type Origin,
  originOf,
  type Parameters,
  parametersOf,
} from "../tensor/gradients.ts";
import { requireGrads } from "../tensor/require.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import { type GradScaler, requireScaler } from "./gradScaler.ts";
import { requireOneDevice } from "./groups.ts";
import { sessionOf } from "./scalerSession.ts";
import { WindowStatistics } from "./windowStatistics.ts";

export interface GradientAccumulatorOptions {
  /** What `take` gives: the mean over the calls of `add` (default), or their sum. */
  readonly reduction?: "mean" | "sum";
  /** The scaler whose scaled gradients are added; without it, gradients of plain losses are. */
  readonly scaler?: GradScaler;
}

const REDUCTIONS = ["mean", "sum"] as const;

/**
 * Sums of gradients over several calls: one program adds the gradients of a micro-batch, another takes them and steps. The sums
 * are float32 variables whatever the gradients' dtype: in float16 a sum of ones stops at 2048, in bfloat16 at 256. `add` never
 * skips, so one gradient that is not finite stays visible in the sum, and the step over it is skipped whole. With a scaler, the
 * sums have the loss scale of the first `add`: should it move before the step, later gradients are brought to it. Given a module,
 * a skipped step also takes back what all its calls of `add` did to running statistics.
 *
 * Of k micro-batches of one size, the mean of their mean losses' gradients is the gradient of the whole batch's mean loss. The
 * variables take 4 bytes per parameter, and belong in a checkpoint that is written between `add` and `take`.
 *
 * @throws BinadeError `option.invalid` or `option.unknown` for a bad option, or no parameters.
 * @example
 * const sums = new optim.GradientAccumulator<"scaled">(model, { scaler });
 * const add = compile((x: Tensor, y: Tensor) => {
 *   const loss = autocast("float16", () => crossEntropy(model.forward(x), y));
 *   sums.add(gradients(scaler.scale(loss), model));
 *   return loss;
 * });
 * const apply = compile(() => {
 *   const outcome = scaler.step(optimizer, clipByGlobalNorm(scaler.unscale(sums.take()), 1));
 *   scaler.update();
 *   return outcome;
 * });
 */
export class GradientAccumulator<S extends "scaled" | "true" = "true"> {
  readonly #sums: ReadonlyMap<Variable, Variable>;
  /** Calls of `add` since the last `take`. */
  readonly #count: Variable;
  readonly #reduction: (typeof REDUCTIONS)[number];
  readonly #origin: Origin;
  readonly #window: Window | null;
  readonly #statistics: WindowStatistics;

  constructor(
    parameters: Parameters,
    ...rest: S extends "scaled"
      ? [options: GradientAccumulatorOptions & { readonly scaler: GradScaler }]
      : [options?: GradientAccumulatorOptions & { readonly scaler?: never }]
  );
  constructor(parameters: Parameters, options: GradientAccumulatorOptions = {}) {
    requireKnownKeys("GradientAccumulator", options, ["reduction", "scaler"]);
    const { reduction = "mean", scaler } = options;
    if (scaler !== undefined) requireScaler("GradientAccumulator: scaler", scaler);
    if (!REDUCTIONS.includes(reduction)) {
      const got = JSON.stringify(reduction);
      throw new BinadeError("option.invalid", `GradientAccumulator: reduction is ${got}, expected "mean" or "sum"`);
    }
    const variables = parametersOf(parameters);
    const [first] = variables;
    if (first === undefined) {
      const sentence = "GradientAccumulator: expected at least one parameter, got none";
      throw new BinadeError("option.invalid", `${sentence}; pass a module or a list of variables`);
    }
    requireOneDevice("GradientAccumulator", variables);
    this.#reduction = reduction;
    const known = { scalers: scaler === undefined ? [] : [scaler], losses: [] };
    this.#origin = { kind: scaler === undefined ? "plain" : "scaled", ...known };
    this.#statistics = new WindowStatistics(parameters);
    this.#window = scaler === undefined ? null : new Window(scaler, first);
    this.#sums = new Map(variables.map((parameter) => [parameter, sumOf(parameter)]));
    this.#count = new Variable("microSteps", [], "int32", undefined, first.device);
    this.#count.role = "gradientSum";
  }

  /** Calls of `add` since the last `take`: an int32 scalar. */
  get microSteps(): Variable {
    return this.#count;
  }

  /**
   * Adds gradients to the sums. Parameters without a gradient add nothing; gradients of other parameters are ignored.
   *
   * @throws BinadeError `scaler.order` for gradients that are not those of the scaler's losses, or were scaled before its last
   * update, or, without a scaler, for scaled and unscaled ones; `gradient.missing` if none belongs to a parameter.
   */
  add(grads: Grads<S>): void {
    requireGrads("GradientAccumulator: add", grads);
    this.#requireOrigin(grads);
    const own = [...grads].filter(([parameter]) => this.#sums.has(parameter));
    const entries = own.flatMap(([parameter, gradient]) => {
      const sum = this.#sums.get(parameter);
      return sum === undefined ? [] : [[sum, gradient] as const];
    });
    if (entries.length === 0) {
      const sentence = "GradientAccumulator: no gradient belongs to any of its parameters";
      throw new BinadeError("gradient.missing", `${sentence}; pass gradients(loss, model) of the same model`);
    }
    this.#statistics.add();
    const factor = this.#window?.add(lossesOf(grads, own)) ?? null;
    for (const [sum, gradient] of entries) {
      const wide = gradient.cast("float32");
      sum.assign(sum.read().add(factor === null ? wide : wide.mul(factor)));
    }
    this.#count.assign(this.#count.read().add(1));
  }

  #requireOrigin(grads: Grads<S>): void {
    const { kind, scalers } = this.#origin;
    const origin = originOf(grads);
    if (kind === "plain" && (origin === undefined || origin.kind === "plain")) return;
    if (kind === "scaled" && origin?.kind === "scaled" && scalers.every((scaler) => origin.scalers.includes(scaler))) {
      requirePresent(origin);
      return;
    }
    const expected =
      kind === "plain"
        ? "those of a plain loss, since it has no scaler; construct it with { scaler }"
        : "scaled ones of its own scaler; add gradients(scaler.scale(loss), model), and unscale what take returns";
    throw new BinadeError("scaler.order", `GradientAccumulator: the gradients are not ${expected}`);
  }

  /**
   * The gradients of the whole batch, in float32, scaled if those that were added were; the sums begin anew at 0, whether or not
   * the step that follows is skipped. Nothing was added: zeros.
   */
  take(): Grads<S> {
    const count = this.#count.read().cast("float32").maximum(1);
    this.#statistics.take();
    const losses = this.#window?.losses([...this.#sums.keys()]) ?? [];
    const factor = this.#window?.take() ?? null;
    const taken = [...this.#sums].map(([parameter, sum]) => {
      const scaled = factor === null ? sum.read() : sum.read().mul(factor);
      const gradient: Tensor = this.#reduction === "mean" ? scaled.div(count) : scaled;
      return [parameter, gradient] as const;
    });
    for (const sum of this.#sums.values()) sum.assign(full(sum.shape, 0));
    this.#count.assign(full([], 0, "int32"));
    return markGrads<S>(taken, presentOrigin(this.#origin, losses));
  }

  /**
   * State for checkpoints by name: "microSteps", "<parameter>.sum" for every parameter, with a scaler "sum.lossScale" and
   * "sum.lossOverflows", and of a module with floating buffers "<buffer>.before" for each and "sum.buffersTaken".
   */
  namedState(): ReadonlyMap<string, Variable> {
    const all = [
      this.#count,
      ...this.#sums.values(),
      ...(this.#window?.variables ?? []),
      ...this.#statistics.variables,
    ];
    return new Map(all.map((variable) => [variable.name, variable]));
  }
}

/** The calls of `add` between two of `take`: their one loss scale, and whether their losses were finite. All zeros if empty. */
class Window {
  readonly #scaler: GradScaler;
  /** float32 scalars; the scale is 0 until the first `add`. */
  readonly #scale: Variable;
  readonly #overflows: Variable;

  constructor(scaler: GradScaler, { device }: Variable) {
    this.#scaler = scaler;
    const scalar = (name: string): Variable => {
      const made = new Variable(`sum.${name}`, [], "float32", undefined, device);
      made.role = "gradientSum";
      return made;
    };
    this.#scale = scalar("lossScale");
    this.#overflows = scalar("lossOverflows");
  }

  get variables(): readonly Variable[] {
    return [this.#scale, this.#overflows];
  }

  /** The factor that brings gradients to the window's scale: 1 but after a move, and then a ratio of powers of two. */
  add(losses: readonly LossFacts[]): Tensor {
    const present = this.#scaler.lossScale;
    const scale = where(this.#scale.read().equal(0), present, this.#scale.read());
    this.#scale.assign(scale);
    const overflows = losses.map(({ finite }) => finite.not().cast("float32"));
    this.#overflows.assign(overflows.reduce((sum, one) => sum.add(one), this.#overflows.read()));
    return scale.div(present);
  }

  /** What is known of the losses so far, in one. */
  losses(parameters: readonly Variable[]): readonly LossFacts[] {
    return [
      {
        loss: null,
        finite: this.#overflows.read().equal(0),
        // Not kept: a window of gradients that are all 0 counts as an underflow where that is asked for.
        nonZero: full([], 1, "bool"),
        scaler: this.#scaler,
        parameters: new Set(parameters),
        cotangents: new Map(),
      },
    ];
  }

  /** The factor that brings sums to the present scale. */
  take(): Tensor {
    const scale = this.#scale.read();
    const factor = where(scale.equal(0), full([], 1), this.#scaler.lossScale.div(scale));
    for (const variable of this.variables) variable.assign(full([], 0));
    return factor;
  }
}

/** What is scaled now has the scale of the scaler's present session. */
function presentOrigin({ kind, scalers }: Origin, losses: readonly LossFacts[]): Origin {
  const [scaler] = scalers;
  return scaler === undefined ? { kind, scalers, losses } : { kind, scalers, losses, session: sessionOf(scaler) };
}

/** The window brings gradients of the present scale to its own: those of an earlier scale would be off by their ratio. */
function requirePresent({ scalers, session }: Origin): void {
  const [scaler] = scalers;
  if (session === undefined || scaler === undefined || session === sessionOf(scaler)) return;
  throw new BinadeError(
    "scaler.order",
    "GradientAccumulator: the gradients were scaled before the last update(); add them before it, or scale the loss again",
  );
}

function sumOf({ name, dtype, shape, device }: Variable): Variable {
  if (dtype !== "float32" && dtype !== "bfloat16" && dtype !== "float16") {
    const sentence = `GradientAccumulator: parameter ${name} is ${dtype}, expected float32, bfloat16 or float16`;
    throw new BinadeError("dtype.unsupported", `${sentence}; leave it out`);
  }
  const sum = new Variable(`${name}.sum`, shape, "float32", undefined, device);
  sum.role = "gradientSum";
  return sum;
}
