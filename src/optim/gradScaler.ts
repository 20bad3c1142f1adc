/** GradScaler: scales losses, unscales and checks gradients, steps only if all are finite, and moves the scale. */
import { BinadeError } from "../errors.ts";
import { isFloat } from "../formats/index.ts";
import { initialLossScale, type LossScaleOptions, type LossScaleRule, lossScaleRule } from "../precision/lossScale.ts";
import { isPositive, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { full } from "../tensor/create.ts";
import { decideStep } from "../tensor/following.ts";
import { where } from "../tensor/functions.ts";
import { type Grads, markGrads, originOf, ScaledLoss } from "../tensor/gradients.ts";
import { realize } from "../tensor/realize.ts";
import { Tensor } from "../tensor/tensor.ts";
import { currentTrace, guarded, type Trace } from "../tensor/trace.ts";
import { Variable } from "../tensor/variable.ts";
import { nonFiniteCount } from "./finite.ts";
import type { Steppable } from "./optimizer.ts";
import type { StepOutcome } from "./outcome.ts";
import {
  type Checked,
  countNonFinite,
  newSession,
  orderError,
  requireGradients,
  type Session,
} from "./scalerSession.ts";
import { nextScaleTensors } from "./scaleTransition.ts";

export interface GradScalerOptions extends LossScaleOptions {
  /** false: losses pass unscaled, but gradients are checked and bad steps skipped all the same. Default true. */
  readonly enabled?: boolean;
  /** A scale that never moves, > 0, instead of a dynamic one. */
  readonly staticScale?: number;
}

export interface StepOptions {
  /** Check gradients that were changed after `unscale` once more. Default true; PyTorch does not. */
  readonly checkGradients?: boolean;
}

/** The saved state of a dynamic scaler. */
export interface ScalerState {
  readonly scale: number;
  readonly growthFactor: number;
  readonly backoffFactor: number;
  readonly growthInterval: number;
  readonly growthTracker: number;
}

/** Tensors in arrays, nested. */
export type LossTree = Tensor | readonly LossTree[];
export type Scaled<T extends LossTree> = T extends Tensor
  ? ScaledLoss
  : { readonly [K in keyof T]: T[K] extends LossTree ? Scaled<T[K]> : never };

type Mode =
  | { readonly kind: "dynamic"; readonly scale: Variable; readonly growthTracker: Variable }
  | { readonly kind: "static"; readonly scale: number };

const STATE_KEYS = ["scale", "growthFactor", "backoffFactor", "growthInterval", "growthTracker"] as const;

/**
 * Loss scaling for float16: `scale` the loss, take gradients, `unscale`, `step` each optimizer, `update` once. A step with
 * a gradient that is not finite, scaled or unscaled, changes no parameter and no optimizer state. The dynamic scale follows
 * PyTorch's rule with a floor and a ceiling (see `nextLossScale`). Nothing here waits for the device.
 *
 * @throws BinadeError `option.unknown`, `option.invalid` or `value.range` for a bad option.
 * @example
 * const scaler = new GradScaler();
 * const step = compile((x: Tensor, y: Tensor) => {
 *   const loss = autocast("float16", () => crossEntropy(model.forward(x), y));
 *   const grads = scaler.unscale(gradients(scaler.scale(loss), model));
 *   const outcome = scaler.step(optimizer, clipByGlobalNorm(grads, 1));
 *   scaler.update();
 *   return { loss, outcome };
 * });
 */
export class GradScaler {
  readonly enabled: boolean;
  readonly #mode: Mode;
  #rule: LossScaleRule;
  readonly #recorded = new WeakMap<Trace, Session>();
  #eager = newSession();

  constructor(options: GradScalerOptions = {}) {
    const { enabled = true, staticScale, ...dynamic } = options;
    this.enabled = enabled;
    this.#rule = lossScaleRule(dynamic);
    if (staticScale !== undefined) {
      requireKnownKeys("GradScaler with staticScale", dynamic, []);
      requireNumber("GradScaler: staticScale", Math.fround(staticScale), isPositive, "a number > 0 within float32");
    }
    this.#mode =
      !enabled || staticScale !== undefined
        ? { kind: "static", scale: enabled ? Math.fround(staticScale ?? 1) : 1 }
        : this.#dynamicMode();
  }

  #dynamicMode(): Mode {
    const { scale, growthTracker } = initialLossScale(this.#rule);
    return {
      kind: "dynamic",
      scale: new Variable("lossScale.scale", [], "float32", new Float32Array([scale])),
      growthTracker: new Variable("lossScale.growthTracker", [], "int32", new Int32Array([growthTracker])),
    };
  }

  /** The scale as a float32 scalar: for gradient penalties, and for logs. 1 if disabled. */
  get lossScale(): Tensor {
    return this.#mode.kind === "dynamic" ? this.#mode.scale.read() : full([], this.#mode.scale);
  }

  get #session(): Session {
    const trace = currentTrace();
    if (trace === null) return this.#eager;
    const session = this.#recorded.get(trace) ?? newSession();
    this.#recorded.set(trace, session);
    return session;
  }

  #restartSession(): void {
    const trace = currentTrace();
    if (trace === null) this.#eager = newSession();
    else this.#recorded.set(trace, newSession());
  }

  /**
   * The loss times the scale, in float32 at least: 65536 does not fit into float16. Arrays of losses, nested or not, keep
   * their structure.
   *
   * @throws BinadeError `option.invalid` for anything but floating tensors in arrays.
   */
  scale(loss: Tensor): ScaledLoss;
  scale<const T extends LossTree>(losses: T): Scaled<T>;
  scale(losses: LossTree): unknown {
    const list = flattenLosses(losses);
    const session = this.#session;
    const finite = list.map((loss) => nonFiniteCount(loss).equal(0));
    session.lossFinite = finite.reduce((all, one) => all.and(one), session.lossFinite);
    return this.#scaleTree(losses);
  }

  #scaleTree(losses: LossTree): ScaledLoss | readonly unknown[] {
    if (!(losses instanceof Tensor)) return losses.map((loss) => this.#scaleTree(loss));
    if (!this.#scales) return new ScaledLoss(losses, this);
    const wide = losses.dtype === "float64" ? losses : losses.cast("float32");
    return new ScaledLoss(wide.mul(this.lossScale.cast(wide.dtype)), this);
  }

  /** Whether the scale can be other than 1. */
  get #scales(): boolean {
    return this.#mode.kind === "dynamic" || this.#mode.scale !== 1;
  }

  /** Gradients of a scaled loss that were computed by other means, such as sums over micro-batches kept in variables. */
  scaledGradients(entries: Iterable<readonly [Variable, Tensor]>): Grads<"scaled"> {
    return markGrads<"scaled">(entries, { kind: "scaled", scaler: this });
  }

  /**
   * Gradients divided by the scale, and checked: an element that is infinite or NaN before or after makes `step` skip.
   * The values are returned whether or not the check holds. Once per parameter between updates.
   *
   * @param optimizer takes only this optimizer's parameters; default all.
   * @throws BinadeError `scaler.order` if called twice, after `step`, or for gradients that this scaler did not scale;
   * `dtype.unsupported` for float16 gradients, in which small values are lost already; `gradient.missing` for none.
   */
  unscale(grads: Grads<"scaled">, optimizer?: Steppable): Grads<"true"> {
    const checked = this.#check(grads, optimizer);
    for (const [parameter, entry] of checked) this.#session.checked.set(parameter, entry);
    return this.#trueGradients(checked);
  }

  #trueGradients(checked: ReadonlyMap<Variable, Checked>): Grads<"true"> {
    const entries = [...checked].map(([parameter, { gradient }]) => [parameter, gradient] as const);
    return markGrads<"true">(entries, { kind: "unscaled", scaler: this });
  }

  #check(grads: ReadonlyMap<Variable, Tensor>, optimizer: Steppable | undefined): ReadonlyMap<Variable, Checked> {
    this.#requireOrigin("unscale", grads, "scaled");
    const wanted = optimizer === undefined ? null : new Set(optimizer.parameters());
    const entries = [...grads].filter(([parameter]) => wanted === null || wanted.has(parameter));
    requireGradients("unscale", entries);
    const { checked, steppedParameters } = this.#session;
    const repeated = entries.find(([parameter]) => checked.has(parameter) || steppedParameters.has(parameter))?.[0];
    if (repeated !== undefined) {
      const when = steppedParameters.has(repeated) ? "stepped" : "unscaled";
      throw orderError(
        `unscale: ${repeated.name} was ${when} already; unscale its gradients once, pass on what unscale returns, and call update() at the end of the step`,
      );
    }
    const inverse = this.lossScale.reciprocal();
    return new Map(
      entries.map(([parameter, scaled]) => {
        const gradient = this.#scales ? scaled.cast("float32").mul(inverse).cast(scaled.dtype) : scaled;
        // One look serves for both sides: what was infinite or NaN is so after the product (∞ · 0 is NaN).
        return [parameter, { gradient, nonFinite: nonFiniteCount(gradient) }];
      }),
    );
  }

  #requireOrigin(subject: string, grads: ReadonlyMap<Variable, Tensor>, kind: "scaled" | "unscaled"): void {
    const origin = originOf(grads);
    if (origin === undefined && kind === "unscaled") return;
    if (origin === undefined || origin.kind === "plain") {
      throw orderError(
        `${subject}: the gradients are not those of a loss that this scaler scaled; write gradients(scaler.scale(loss), model)`,
      );
    }
    if (origin.scaler !== this)
      throw orderError(
        `${subject}: the gradients belong to another scaler; use one scaler for a loss and its gradients`,
      );
    if (origin.kind !== kind) throw orderError(`${subject}: the gradients are unscaled already; unscale them once`);
  }

  /**
   * Steps the optimizer if all gradients of its parameters are finite; otherwise every parameter and every state variable
   * keeps its bits, the applied clock included. Scaled gradients are unscaled first.
   *
   * @returns what became of the step, as tensors.
   * @throws BinadeError `scaler.order` if the optimizer stepped since the last update, or for gradients of a loss that was
   * not scaled; `gradient.missing` if none belongs to the optimizer; otherwise as `unscale`.
   */
  step(optimizer: Steppable, grads: Grads<"scaled"> | Grads<"true">, options: StepOptions = {}): StepOutcome {
    requireKnownKeys("step", options, ["checkGradients"]);
    const session = this.#session;
    if (session.stepped.has(optimizer))
      throw orderError("step: the optimizer stepped already since the last update(); call update() once per step");
    const fresh = originOf(grads)?.kind === "scaled" ? this.#check(grads, optimizer) : null;
    const trueGrads = fresh === null ? this.#acceptTrue(grads) : this.#trueGradients(fresh);
    const entries = optimizer.parameters().flatMap((parameter) => {
      const gradient = trueGrads.get(parameter);
      return gradient === undefined ? [] : [[parameter, gradient] as const];
    });
    requireGradients("step", entries);
    const again = options.checkGradients ?? true;
    const { applied, nonFinite } = countNonFinite(entries, fresh ?? session.checked, again);
    const updates = [...optimizer.updates(trueGrads)];
    for (const [variable, value] of updates) variable.assign(where(applied, value, variable.read()));
    decideStep(applied);
    session.stepped.set(optimizer, applied);
    for (const [parameter] of entries) session.steppedParameters.add(parameter);
    return this.#outcome(session, { applied, nonFinite, parameters: entries.map(([parameter]) => parameter.name) });
  }

  #acceptTrue(grads: ReadonlyMap<Variable, Tensor>): Grads<"true"> {
    const origin = originOf(grads);
    if (this.#scales || origin?.kind === "unscaled") this.#requireOrigin("step", grads, "unscaled");
    return markGrads<"true">(grads, origin);
  }

  #outcome(session: Session, step: Pick<StepOutcome, "applied" | "nonFinite" | "parameters">): StepOutcome {
    const before = this.lossScale;
    return {
      ...step,
      lossFinite: session.lossFinite,
      lossScaleBefore: before,
      // Known at update(), which comes after the last step and before a compiled function returns.
      get lossScaleAfter() {
        return session.after ?? before;
      },
      lossScaleFloor: this.#mode.kind === "dynamic" ? this.#rule.floor : this.#mode.scale,
    };
  }

  /**
   * Moves the scale, once for all optimizers: it backs off if any gradient since the last update was not finite.
   *
   * @throws BinadeError `scaler.order` if no optimizer stepped since the last update.
   */
  update(): void {
    const session = this.#session;
    if (session.stepped.size === 0)
      throw orderError("update: no optimizer stepped since the last update(); call step() first");
    if (this.#mode.kind === "dynamic") {
      const { scale, growthTracker } = this.#mode;
      const unstepped = [...session.checked].filter(([parameter]) => !session.steppedParameters.has(parameter));
      const flags = [...session.stepped.values(), ...unstepped.map(([, { nonFinite }]) => nonFinite.equal(0))];
      const finite = flags.reduce((all, flag) => all.and(flag));
      const state = { scale: scale.read(), growthTracker: growthTracker.read() };
      const next = nextScaleTensors(
        state,
        guarded(() => this.#rule),
        finite,
      );
      scale.assign(next.scale);
      growthTracker.assign(next.growthTracker);
    }
    session.after = this.lossScale;
    this.#restartSession();
  }

  /** Scale and growth tracker by name, for checkpoints; empty unless the scale is dynamic. */
  namedState(): ReadonlyMap<string, Variable> {
    if (this.#mode.kind !== "dynamic") return new Map();
    return new Map([this.#mode.scale, this.#mode.growthTracker].map((variable) => [variable.name, variable]));
  }

  /** The state to save, read from the device; `{}` unless the scale is dynamic. */
  async state(): Promise<ScalerState | Record<string, never>> {
    if (this.#mode.kind !== "dynamic") return {};
    await realize([]);
    const { growthFactor, backoffFactor, growthInterval } = this.#rule;
    const scale = (await this.#mode.scale.read().item()) as number;
    return {
      scale,
      growthFactor,
      backoffFactor,
      growthInterval,
      growthTracker: await this.#mode.growthTracker.read().item(),
    };
  }

  /**
   * Goes on from a saved state; compiled steps are recorded anew if its factors differ. Does nothing if disabled.
   *
   * @throws BinadeError `scaler.state` for a state that a dynamic scaler cannot go on from; nothing is changed then.
   */
  async load(state: ScalerState | Record<string, never>): Promise<void> {
    if (this.#mode.kind !== "dynamic") return;
    const { scale, growthTracker, ...factors } = requireState(state);
    const rule = this.#ruleOf(scale, factors);
    await realize([]);
    this.#rule = rule;
    await this.#mode.scale.load(bytesOf(new Float32Array([scale])));
    await this.#mode.growthTracker.load(bytesOf(new Int32Array([growthTracker])));
  }

  #ruleOf(
    scale: number,
    factors: Pick<ScalerState, "growthFactor" | "backoffFactor" | "growthInterval">,
  ): LossScaleRule {
    const { initialScale, floor, ceiling, profile, ...own } = this.#rule;
    const same = STATE_KEYS.every((key) => key === "scale" || key === "growthTracker" || own[key] === factors[key]);
    try {
      // The saved scale must lie within the bounds, as a first scale must.
      lossScaleRule({ initialScale: scale, floor, ceiling, profile, ...factors });
      return same ? this.#rule : { ...this.#rule, ...factors };
    } catch (error) {
      throw new BinadeError("scaler.state", `load: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
  }
}

function flattenLosses(losses: LossTree): readonly Tensor[] {
  if (losses instanceof Tensor && isFloat(losses.dtype)) return [losses];
  if (Array.isArray(losses)) return losses.flatMap(flattenLosses);
  throw new BinadeError("option.invalid", `scale: expected a floating tensor or arrays of them, got ${String(losses)}`);
}

function requireState(state: ScalerState | Record<string, never>): ScalerState {
  const missing = STATE_KEYS.find((key) => typeof state[key] !== "number");
  if (missing !== undefined) {
    throw new BinadeError(
      "scaler.state",
      `load: expected a number ${missing}, got ${String(state[missing])}; load the state of an enabled scaler`,
    );
  }
  const full = state as ScalerState;
  if (!(Number.isInteger(full.growthTracker) && full.growthTracker >= 0)) {
    throw new BinadeError("scaler.state", `load: growthTracker: expected an integer ≥ 0, got ${full.growthTracker}`);
  }
  return full;
}

const bytesOf = (words: Float32Array | Int32Array): Uint8Array => new Uint8Array(words.buffer);
