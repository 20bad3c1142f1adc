/** GradScaler: scales losses, unscales and checks gradients, steps only if all are finite, and moves the scale. */
import { BinadeError, listNames } from "../errors.ts";
import { isFloat } from "../formats/index.ts";
import { topological } from "../ir/walk.ts";
import { USABLE_SCALES } from "../precision/lossScale.ts";
import { isPositive, requireBoolean, requireKnownKeys, requireNumber } from "../precision/options.ts";
import { nonFiniteCount } from "../tensor/finite.ts";
import { decideStep, endStep } from "../tensor/following.ts";
import { where } from "../tensor/functions.ts";
import { type Grads, markGrads, originOf, ScaledLoss } from "../tensor/gradients.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import {
  allCheckedFinite,
  type Checked,
  type Entry,
  type Judgement,
  judge,
  largestMagnitude,
  unscaleAndCheck,
} from "./gradientCheck.ts";
import type { Steppable } from "./optimizer.ts";
import type { StepOutcome } from "./outcome.ts";
import { orderError, requireGradients, restartSession, type Session, sessionOf } from "./scalerSession.ts";
import { type GradScalerOptions, type SavedScaler, ScaleSource } from "./scaleSource.ts";

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
export type Scaled<T extends LossTree> = T extends Tensor
  ? ScaledLoss
  : { readonly [K in keyof T]: T[K] extends LossTree ? Scaled<T[K]> : never };

/**
 * Loss scaling for float16: `scale` the loss, take gradients, `unscale`, `step` each optimizer, `update` once. A step with
 * a gradient that is not finite, scaled or unscaled, changes no parameter and no optimizer state. The dynamic scale follows
 * PyTorch's rule with a floor and a ceiling (see `nextLossScale`), another system's with `preset`, or the distribution of
 * gradients with `logMax`. Nothing here waits for the device.
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
  readonly #source: ScaleSource;

  constructor(options: GradScalerOptions = {}) {
    this.#source = new ScaleSource(options);
  }

  get enabled(): boolean {
    return this.#source.enabled;
  }

  /** The scale as a float32 scalar: for gradient penalties, and for logs. 1 if disabled. */
  get lossScale(): Tensor {
    return this.#source.read();
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
    const session = sessionOf(this);
    for (const loss of list) {
      session.lossFinite = session.lossFinite.and(nonFiniteCount(loss).equal(0));
      session.lossNonZero = session.lossNonZero.or(loss.notEqual(0).cast("float32").sum().greater(0));
    }
    return this.#scaleTree(losses);
  }

  #scaleTree(losses: LossTree): ScaledLoss | readonly unknown[] {
    if (!(losses instanceof Tensor)) return losses.map((loss) => this.#scaleTree(loss));
    if (this.#source.isOne) return new ScaledLoss(losses, this, sessionOf(this));
    const wide = losses.dtype === "float64" ? losses : losses.cast("float32");
    return new ScaledLoss(wide.mul(this.lossScale.cast(wide.dtype)), this, sessionOf(this));
  }

  /**
   * `x` itself, at a border between parameters of two scalers: its cotangent, which `from` scaled, goes on scaled by this
   * scaler. Everything that the parameters below the border give to the loss must pass through one; take their gradients
   * with `scaledGradients(grads, parameters)`.
   *
   * @throws BinadeError `scaler.order` if both are the same scaler.
   * @example
   * const hidden = lower.rescale(encoder.forward(x), upper);
   * const grads = gradients(upper.scale(crossEntropy(head.forward(hidden), y)), model);
   * const outcomes = [upper.step(headOptimizer, upper.unscale(grads, headOptimizer)),
   *   lower.step(encoderOptimizer, lower.scaledGradients(grads, encoder))];
   */
  rescale(x: Tensor, from: GradScaler): Tensor {
    if (from === this) throw orderError("rescale: both sides of the border have the same scaler; it needs no border");
    sessionOf(from).boundaries.push(x);
    const constant = x.detach();
    // x − x is +0, and y − 0 is y, −0 included. The product is differentiated in float32, where every ratio of scales fits.
    const nothing = constant.sub(x).cast("float32").mul(this.lossScale.div(from.lossScale));
    return where(x.isFinite(), constant.sub(nothing.cast(x.dtype)), constant);
  }

  /**
   * Gradients of a scaled loss that were computed by other means, such as sums over micro-batches kept in variables; or those
   * of `parameters` among the gradients of another scaler's loss, which came through `rescale`.
   */
  scaledGradients(
    entries: Iterable<readonly [Variable, Tensor]>,
    parameters?: Pick<Steppable, "parameters">,
  ): Grads<"scaled"> {
    const wanted = parameters === undefined ? null : new Set(parameters.parameters());
    const own = [...entries].filter(([parameter]) => wanted === null || wanted.has(parameter));
    return markGrads<"scaled">(own, { kind: "scaled", scalers: [this] });
  }

  /**
   * Gradients divided by the scale, and checked: an element that is infinite or NaN before or after makes `step` skip.
   * The values are returned whether or not the check holds. Once per parameter between updates.
   *
   * @param optimizer takes only this optimizer's parameters; default all.
   * @throws BinadeError `scaler.order` if called twice, after `step`, or for gradients that this scaler did not scale, or
   * scaled before its last update;
   * `dtype.unsupported` for float16 gradients, in which small values are lost already; `gradient.missing` for none.
   */
  unscale(grads: Grads<"scaled">, optimizer?: Steppable): Grads<"true"> {
    const checked = this.#check(grads, optimizer);
    for (const [parameter, entry] of checked) sessionOf(this).checked.set(parameter, entry);
    return this.#trueGradients(checked);
  }

  #trueGradients(checked: ReadonlyMap<Variable, Checked>): Grads<"true"> {
    const entries = [...checked].map(([parameter, { gradient }]) => [parameter, gradient] as const);
    return markGrads<"true">(entries, { kind: "unscaled", scalers: [this] });
  }

  #check(grads: ReadonlyMap<Variable, Tensor>, optimizer: Steppable | undefined): ReadonlyMap<Variable, Checked> {
    this.#requireOrigin("unscale", grads, "scaled");
    const parameters = optimizer?.parameters() ?? [];
    const wanted = optimizer === undefined ? null : new Set(parameters);
    const entries = [...grads].filter(([parameter]) => wanted === null || wanted.has(parameter));
    requireGradients("unscale", entries, parameters);
    this.#requireFresh(entries);
    this.#requireAbove(entries);
    const { isOne, checks } = this.#source;
    const lossScale = isOne ? null : this.lossScale;
    return new Map(entries.map(([parameter, scaled]) => [parameter, unscaleAndCheck(scaled, lossScale, checks)]));
  }

  #requireFresh(entries: readonly Entry[]): void {
    const { checked, steppedParameters } = sessionOf(this);
    const repeated = entries.map(([parameter]) => parameter).filter((p) => checked.has(p) || steppedParameters.has(p));
    const [first] = repeated;
    if (first === undefined) return;
    const when = steppedParameters.has(first) ? "stepped" : "unscaled";
    throw orderError(
      `unscale: ${listNames(repeated.map(({ name }) => name))} was ${when} already; unscale its gradients once, pass on what unscale returns, and call update() at the end of the step`,
    );
  }

  /** Gradients from below a border are scaled by the other scaler. */
  #requireAbove(entries: readonly Entry[]): void {
    const { boundaries } = sessionOf(this);
    if (boundaries.length === 0) return;
    const below = new Set(topological(boundaries.map(({ node }) => node)));
    const foreign = entries.map(([parameter]) => parameter).filter((parameter) => below.has(parameter.node));
    if (foreign.length === 0) return;
    throw orderError(
      `unscale: ${listNames(foreign.map(({ name }) => name))} lies below rescale(), where another scaler scales; unscale it there, and pass the optimizer of the other parameters here`,
    );
  }

  #requireOrigin(subject: string, grads: ReadonlyMap<Variable, Tensor>, kind: "scaled" | "unscaled"): void {
    const origin = originOf(grads);
    if (origin === undefined && kind === "unscaled") return;
    const names = listNames([...grads.keys()].map(({ name }) => name));
    const of = `${subject}: the gradients of ${names === "" ? "no parameter" : names}`;
    if (origin === undefined || origin.kind === "plain") {
      throw orderError(
        `${of} are not those of a loss that this scaler scaled; write gradients(scaler.scale(loss), model)`,
      );
    }
    if (!origin.scalers.includes(this))
      throw orderError(`${of} belong to another scaler; use one scaler for a loss and its gradients`);
    if (origin.kind !== kind)
      throw orderError(
        `${of} are ${origin.kind === "scaled" ? "still scaled" : "unscaled already"}; unscale them once`,
      );
    // The scale that they have is that of another step: divided by today's they would be wrong by their ratio.
    if (origin.session !== undefined && origin.session !== sessionOf(this))
      throw orderError(`${of} were scaled before the last update(); scale the loss again after it`);
  }

  /**
   * Steps the optimizer if all gradients of its parameters are finite; otherwise every parameter and every state variable
   * keeps its bits, the applied clock included. Scaled gradients are unscaled first. Of a sum of several scalers' gradients
   * (`addGradients`) any of them makes the step, all of them judge it, and each is updated by what it found itself.
   *
   * @returns what became of the step, as tensors.
   * @throws BinadeError `scaler.order` if the optimizer stepped since the last update, or for gradients of a loss that was
   * not scaled; `gradient.missing` if none belongs to the optimizer; `value.range` for a bad option; otherwise as `unscale`.
   */
  step(optimizer: Steppable, grads: Grads<"scaled"> | Grads<"true">, options: StepOptions = {}): StepOutcome {
    requireKnownKeys("step", options, ["checkGradients", "skipNormAbove", "skipZeroGradients"]);
    requireBoolean("step: checkGradients", options.checkGradients);
    requireBoolean("step: skipZeroGradients", options.skipZeroGradients);
    if (options.skipNormAbove !== undefined)
      requireNumber("step: skipNormAbove", options.skipNormAbove, isPositive, "a finite number > 0");
    const isScaled = originOf(grads)?.kind === "scaled";
    const scalers = isScaled ? [this] : this.#scalersOf(grads);
    if (scalers.some((scaler) => sessionOf(scaler).stepped.has(optimizer)))
      throw orderError(
        `step: the optimizer of ${listNames(optimizer.parameters().map(({ name }) => name))} stepped already since the last update(); call update() once per step`,
      );
    const fresh = isScaled ? this.#check(grads, optimizer) : null;
    const trueGrads = fresh === null ? this.#acceptTrue(grads) : this.#trueGradients(fresh);
    const entries = optimizer.parameters().flatMap((parameter): Entry[] => {
      const gradient = trueGrads.get(parameter);
      return gradient === undefined ? [] : [[parameter, gradient]];
    });
    requireGradients("step", entries, optimizer.parameters());
    const judgement = this.#judge(entries, scalers, fresh, options);
    const updates = [...optimizer.updates(trueGrads)];
    for (const [variable, value] of updates) variable.assign(where(judgement.applied, value, variable.read()));
    decideStep(judgement.applied);
    for (const scaler of scalers) scaler.#noteStep(optimizer, entries, scalers.length === 1 ? judgement.finite : null);
    for (const [parameter, entry] of fresh ?? []) sessionOf(this).checked.set(parameter, entry);
    return this.#outcome(judgement, entries);
  }

  #scalersOf(grads: ReadonlyMap<Variable, Tensor>): readonly GradScaler[] {
    const found = originOf(grads)?.scalers.filter((scaler) => scaler instanceof GradScaler) ?? [];
    return found.length === 0 ? [this] : found;
  }

  #acceptTrue(grads: ReadonlyMap<Variable, Tensor>): Grads<"true"> {
    const origin = originOf(grads);
    if (!this.#source.isOne || origin?.kind === "unscaled") this.#requireOrigin("step", grads, "unscaled");
    return markGrads<"true">(grads, origin);
  }

  #judge(
    entries: readonly Entry[],
    scalers: readonly GradScaler[],
    fresh: ReadonlyMap<Variable, Checked> | null,
    { checkGradients = true, skipNormAbove, skipZeroGradients = false }: StepOptions,
  ): Judgement {
    const tables = fresh === null ? scalers.map((scaler) => sessionOf(scaler).checked) : [fresh];
    const sessions = scalers.map((scaler) => sessionOf(scaler));
    const usable = scalers.flatMap((scaler) => scaler.#usable() ?? []);
    return judge({
      entries,
      found: entries.map(([parameter]) => tables.flatMap((table) => table.get(parameter) ?? [])),
      again: checkGradients,
      lossFinite: sessions.map(({ lossFinite }) => lossFinite).reduce((a, b) => a.and(b)),
      lossNonZero: sessions.map(({ lossNonZero }) => lossNonZero).reduce((a, b) => a.or(b)),
      usable: usable.length === 0 ? null : usable.reduce((a, b) => a.and(b)),
      skipNormAbove,
      skipZeroGradients,
    });
  }

  /** bool scalar: the scale and its reciprocal are normal numbers; null where its bounds see to it. */
  #usable(): Tensor | null {
    const { floor, ceiling } = this.#source;
    const { least, greatest } = USABLE_SCALES;
    if (floor >= least && ceiling <= greatest) return null;
    const scale = this.lossScale;
    return scale.greaterEqual(least).and(scale.lessEqual(greatest));
  }

  /** @param finite whether the gradients were finite; null: among several scalers, each answers for its own. */
  #noteStep(optimizer: Steppable, entries: readonly Entry[], finite: Tensor | null): void {
    const session = sessionOf(this);
    const own = entries.flatMap(([parameter]) => session.checked.get(parameter) ?? []);
    session.stepped.set(optimizer, finite ?? allCheckedFinite(own));
    for (const [parameter, gradient] of entries) session.steppedParameters.set(parameter, gradient);
  }

  #outcome({ applied, verdict, blame }: Judgement, entries: readonly Entry[]): StepOutcome {
    const before = this.lossScale;
    const session = sessionOf(this);
    return {
      applied,
      verdict,
      blame,
      parameters: entries.map(([parameter]) => parameter.name),
      lossScaleBefore: before,
      // Known at update(), which comes after the last step and before a compiled function returns.
      get lossScaleAfter() {
        return session.after?.lossScale ?? before;
      },
      get exhausted() {
        return session.after?.exhausted ?? null;
      },
      lossScaleFloor: this.#source.floor,
    };
  }

  /**
   * Moves the scale, once for all optimizers: it backs off if any gradient since the last update was not finite.
   *
   * @throws BinadeError `scaler.order` if no optimizer stepped since the last update.
   */
  update(): void {
    const session = sessionOf(this);
    if (session.stepped.size === 0) {
      const names = listNames([...session.checked.keys()].map(({ name }) => name));
      const waiting = names === "" ? "" : `, and the gradients of ${names} are unscaled`;
      throw orderError(`update: no optimizer stepped since the last update()${waiting}; call step() first`);
    }
    const unstepped = [...session.checked].filter(([parameter]) => !session.steppedParameters.has(parameter));
    const flags = [...session.stepped.values()];
    if (unstepped.length > 0) flags.push(allCheckedFinite(unstepped.map(([, checked]) => checked)));
    const exhausted = this.#source.move({
      finite: flags.reduce((all, flag) => all.and(flag)),
      largest: () => largestMagnitude(trueGradients(session)),
    });
    session.after = { lossScale: this.lossScale, exhausted };
    restartSession(this);
    endStep();
  }

  /**
   * Sets a dynamic scale by hand, from the next `scale` on; the count of clean steps goes on, as in PyTorch.
   *
   * @throws BinadeError `scaler.order` between `scale` and `update`, where gradients of the old scale are under way, or if the
   * scale is not dynamic; `value.range` beyond the bounds.
   * @example
   * scaler.setScale(1024);
   */
  setScale(scale: number): void {
    if (isBusy(sessionOf(this)))
      throw orderError("setScale: gradients of the present scale are under way; call it after update()");
    this.#source.set(scale);
  }

  /** Everything that the scale is decided by, by name, for checkpoints; empty unless the scale moves. */
  namedState(): ReadonlyMap<string, Variable> {
    return this.#source.namedState();
  }

  /**
   * The state to save, read from the device; `{}` unless the scale moves.
   *
   * @throws BinadeError `scaler.order` in the middle of a step that is not compiled: what `unscale` found would be lost.
   */
  async state(): Promise<SavedScaler> {
    if (isBusy(sessionOf(this)))
      throw orderError("state: a step is under way, and what unscale found is in no state; call update() first");
    return this.#source.state();
  }

  /**
   * Goes on from a saved state; compiled steps are recorded anew if its factors differ. Does nothing if disabled.
   *
   * @throws BinadeError `scaler.state` for a state that this scaler cannot go on from; nothing is changed then.
   */
  async load(state: SavedScaler): Promise<void> {
    await this.#source.load(state);
    restartSession(this);
  }
}

/** What the step's gradients were before anything was made of them, where they came through `unscale`. */
const trueGradients = ({ checked, steppedParameters }: Session): readonly Tensor[] => [
  ...[...checked.values()].map(({ gradient }) => gradient),
  ...[...steppedParameters].flatMap(([parameter, gradient]) => (checked.has(parameter) ? [] : [gradient])),
];

const isBusy = ({ checked, stepped }: Session): boolean => checked.size > 0 || stepped.size > 0;

function flattenLosses(losses: LossTree): readonly Tensor[] {
  if (losses instanceof Tensor && isFloat(losses.dtype)) return [losses];
  if (Array.isArray(losses)) return losses.flatMap(flattenLosses);
  throw new BinadeError(
    "option.invalid",
    `scale: expected a floating tensor or arrays of them, got ${String(losses)}; pass the loss itself`,
  );
}
