/** GradScaler: scales losses, unscales and checks gradients, steps only if all are finite, and moves the scale. */
import { BinadeError, listNames, showValue } from "../errors.ts";
import { full } from "../tensor/create.ts";
import { defaultDevice } from "../tensor/devices.ts";
import { decideStep, endStep } from "../tensor/following.ts";
import { where } from "../tensor/functions.ts";
import { factsOf, type Grads, type LossFacts, lossesOf, markGrads, originOf, ScaledLoss } from "../tensor/gradients.ts";
import { computeWithNextRun } from "../tensor/realize.ts";
import { requireEntries, requireGrads } from "../tensor/require.ts";
import { deviceOf } from "../tensor/runtime.ts";
import { Tensor } from "../tensor/tensor.ts";
import { currentTrace } from "../tensor/trace.ts";
import type { Variable } from "../tensor/variable.ts";
import {
  flattenLosses,
  type LossTree,
  requireFloating,
  requireParameters,
  requireScaledLoss,
  requireStepOptions,
  requireSteppable,
  type Scaled,
  type StepOptions,
} from "./arguments.ts";
import { noteBorder, passagesTo, requireAbove } from "./borders.ts";
import {
  allCheckedFinite,
  allOf,
  bothShares,
  type Checked,
  type Entry,
  type Judgement,
  judge,
  largestMagnitude,
  type Share,
  unscaleAndCheck,
} from "./gradientCheck.ts";
import type { Steppable } from "./optimizer.ts";
import { outcomeTensors, type ScaleMove, type StepOutcome } from "./outcome.ts";
import {
  isBusy,
  orderError,
  requireFresh,
  requireGradients,
  requireOrigin,
  restartSession,
  sessionOf,
  trueGradients,
} from "./scalerSession.ts";
import { type GradScalerOptions, type SavedScaler, ScaleSource } from "./scaleSource.ts";

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

  /** What outcomes and errors call it. */
  get name(): string {
    return this.#source.name;
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
   * their structure. A loss whose gradients make no step has no part in any outcome.
   *
   * @throws BinadeError `option.invalid` for anything but floating tensors in arrays.
   */
  scale(loss: Tensor): ScaledLoss;
  scale<const T extends LossTree>(losses: T): Scaled<T>;
  scale(losses: LossTree): unknown {
    const [first] = flattenLosses(losses);
    if (first !== undefined) this.#source.place(() => deviceOf([first.node], defaultDevice));
    return this.#scaleTree(losses);
  }

  #scaleTree(losses: LossTree): ScaledLoss | readonly unknown[] {
    if (!(losses instanceof Tensor)) return losses.map((loss) => this.#scaleTree(loss));
    if (this.#source.isOne) return new ScaledLoss(losses, losses, this, sessionOf(this));
    const wide = losses.dtype === "float64" ? losses : losses.cast("float32");
    return new ScaledLoss(wide.mul(this.lossScale.cast(wide.dtype)), losses, this, sessionOf(this));
  }

  /**
   * `x` itself, at a border between parameters of two scalers: its cotangent, which `from` scaled, goes on scaled by this
   * scaler. Everything that the parameters below the border give to the loss must pass through one; take their gradients
   * with `scaledGradients(grads, parameters)`. A cotangent that arrives at the border infinite or NaN is an overflow of `from`,
   * whose scale backs off; that of this scaler stays as it is.
   *
   * @throws BinadeError `scaler.order` if both are the same scaler; `option.invalid` for no scaler, or no floating tensor.
   * @example
   * const hidden = lower.rescale(encoder.forward(x), upper);
   * const grads = gradients(upper.scale(crossEntropy(head.forward(hidden), y)), model);
   * const outcomes = [upper.step(headOptimizer, upper.unscale(grads, headOptimizer)),
   *   lower.step(encoderOptimizer, lower.scaledGradients(grads, encoder))];
   */
  rescale(x: Tensor, from: GradScaler): Tensor {
    requireScaler("rescale: from", from);
    requireFloating("rescale: x", x);
    if (from === this) throw orderError("rescale: both sides of the border have the same scaler; it needs no border");
    for (const scaler of [this, from]) scaler.#source.place(() => deviceOf([x.node], defaultDevice));
    const constant = x.detach();
    // x − x is +0, and y − 0 is y, −0 included. The product is differentiated in float32, where every ratio of scales fits.
    const nothing = constant.sub(x).cast("float32").mul(this.lossScale.div(from.lossScale));
    const above = where(x.isFinite(), constant.sub(nothing.cast(x.dtype)), constant);
    noteBorder(above, { below: x, from, to: this });
    return above;
  }

  /**
   * Gradients of a scaled loss that were computed by other means, such as sums over micro-batches kept in variables; or those
   * of `parameters` among the gradients of another scaler's loss, which came through `rescale`.
   *
   * @param losses of which they are, where `gradients` did not take them: without, no overflow is known to be one of the loss.
   * @throws BinadeError `option.invalid` for anything but pairs of a variable and a tensor.
   */
  scaledGradients(
    entries: Iterable<readonly [Variable, Tensor]>,
    parameters?: Pick<Steppable, "parameters">,
    losses: ScaledLoss | readonly ScaledLoss[] = [],
  ): Grads<"scaled"> {
    const given = requireEntries("scaledGradients", entries);
    if (parameters !== undefined) requireParameters("scaledGradients: parameters", parameters);
    const wanted = parameters === undefined ? null : new Set(parameters.parameters());
    const own = given.filter(([parameter]) => wanted === null || wanted.has(parameter));
    const reached = own.map(([parameter]) => parameter);
    const named = [losses].flat().map((loss) => factsOf(requireScaledLoss(loss), reached, new Map()));
    // Whoever scaled them before, they came through this scaler.
    const facts = [...(originOf(entries)?.losses ?? []), ...named].map((loss) => ({ ...loss, scaler: this }));
    return markGrads<"scaled">(own, { kind: "scaled", scalers: [this], losses: facts });
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
    return this.#trueGradients(checked, grads);
  }

  #trueGradients(checked: ReadonlyMap<Variable, Checked>, scaled: ReadonlyMap<Variable, Tensor>): Grads<"true"> {
    const entries = [...checked].map(([parameter, { gradient }]) => [parameter, gradient] as const);
    const losses = originOf(scaled)?.losses ?? [];
    return markGrads<"true">(entries, { kind: "unscaled", scalers: [this], losses });
  }

  #check(grads: ReadonlyMap<Variable, Tensor>, optimizer: Steppable | undefined): ReadonlyMap<Variable, Checked> {
    requireGrads("unscale", grads);
    if (optimizer !== undefined) requireParameters("unscale: optimizer", optimizer);
    requireOrigin(this, "unscale", grads, "scaled");
    const parameters = optimizer?.parameters() ?? [];
    const wanted = optimizer === undefined ? null : new Set(parameters);
    const entries = [...grads].filter(([parameter]) => wanted === null || wanted.has(parameter));
    const own = entries.map(([parameter]) => parameter);
    requireGradients("unscale", entries, parameters);
    requireFresh(sessionOf(this), own);
    this.#source.requireOn(own);
    requireAbove(this, originOf(grads)?.losses ?? [], own);
    const { isOne, checks } = this.#source;
    const lossScale = isOne ? null : this.lossScale;
    return new Map(entries.map(([parameter, scaled]) => [parameter, unscaleAndCheck(scaled, lossScale, checks)]));
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
    requireSteppable("step: optimizer", optimizer);
    requireGrads("step", grads);
    requireStepOptions(options);
    const isScaled = originOf(grads)?.kind === "scaled";
    const scalers = isScaled ? [this] : this.#scalersOf(grads, optimizer);
    if (scalers.some((scaler) => sessionOf(scaler).stepped.has(optimizer)))
      throw orderError(
        `step: the optimizer of ${listNames(optimizer.parameters().map(({ name }) => name))} stepped already since the last update(); call update() once per step`,
      );
    const fresh = isScaled ? this.#check(grads, optimizer) : null;
    const trueGrads = fresh === null ? this.#acceptTrue(grads) : this.#trueGradients(fresh, grads);
    const entries = optimizer.parameters().flatMap((parameter): Entry[] => {
      const gradient = trueGrads.get(parameter);
      return gradient === undefined ? [] : [[parameter, gradient]];
    });
    requireGradients("step", entries, optimizer.parameters());
    const losses = lossesOf(trueGrads, entries);
    const tables = fresh === null ? scalers.map((scaler) => sessionOf(scaler).checked) : [fresh];
    const shares = GradScaler.#sharesOf(scalers, tables, entries, losses);
    const { checkGradients = true } = options;
    const judgement = judge({
      entries,
      found: entries.map(([parameter]) => tables.flatMap((table) => table.get(parameter) ?? [])),
      again: checkGradients,
      shares: [...shares.values()],
      losses,
      skipNormAbove: options.skipNormAbove,
      skipZeroGradients: options.skipZeroGradients ?? false,
    });
    const updates = [...optimizer.updates(trueGrads)];
    for (const [variable, value] of updates) variable.assign(where(judgement.applied, value, variable.read()));
    decideStep(judgement.applied);
    for (const scaler of scalers) scaler.#noteStep(optimizer, entries, scalers.length === 1 ? judgement.finite : null);
    for (const [parameter, entry] of fresh ?? []) sessionOf(this).checked.set(parameter, entry);
    for (const [scaler, { passedOn, received }] of shares) {
      if (passedOn !== null) sessionOf(scaler).passedOn.push(passedOn);
      if (received !== null) sessionOf(scaler).received.push(received);
    }
    const outcome = this.#outcome(judgement, entries, [...shares.keys()]);
    computeWithNextRun([...outcomeTensors(outcome), ...losses.flatMap(({ loss }) => loss ?? [])]);
    return outcome;
  }

  /** Those that had a part in the optimizer's gradients. */
  #scalersOf(grads: ReadonlyMap<Variable, Tensor>, optimizer: Steppable): readonly GradScaler[] {
    const all = originOf(grads)?.scalers.filter((scaler) => scaler instanceof GradScaler) ?? [];
    const found = all.filter((scaler) => optimizer.parameters().some((p) => sessionOf(scaler).checked.has(p)));
    return found.length === 0 ? [this] : found;
  }

  #acceptTrue(grads: ReadonlyMap<Variable, Tensor>): Grads<"true"> {
    const origin = originOf(grads);
    if (!this.#source.isOne || origin?.kind === "unscaled") requireOrigin(this, "step", grads, "unscaled");
    return markGrads<"true">(grads, origin);
  }

  /** The part of every scaler: of those whose gradients are summed, and of those from which they came over borders. */
  static #sharesOf(
    scalers: readonly GradScaler[],
    tables: readonly ReadonlyMap<Variable, Checked>[],
    entries: readonly Entry[],
    losses: readonly LossFacts[],
  ): ReadonlyMap<GradScaler, Share> {
    const shares = new Map<GradScaler, Share>();
    for (const [i, scaler] of scalers.entries()) {
      const checked = entries.flatMap(([parameter]) => tables[i]?.get(parameter) ?? []);
      const own = scalers.length === 1 ? losses : losses.filter((loss) => loss.scaler === scaler);
      for (const { scaler: one, passedOn, received } of passagesTo(scaler, own)) {
        if (!(one instanceof GradScaler)) continue;
        const found = one === scaler ? checked : [];
        const share = { checked: found, losses: own, usable: one.#source.usable(), passedOn, received };
        shares.set(one, bothShares(shares.get(one), share));
      }
    }
    return shares;
  }

  /** @param finite whether the gradients were finite; null: among several scalers, each answers for its own. */
  #noteStep(optimizer: Steppable, entries: readonly Entry[], finite: Tensor | null): void {
    const session = sessionOf(this);
    const own = entries.flatMap(([parameter]) => session.checked.get(parameter) ?? []);
    session.stepped.set(optimizer, finite ?? allCheckedFinite(own));
    for (const [parameter, gradient] of entries) session.steppedParameters.set(parameter, gradient);
  }

  #outcome(
    { applied, verdict, blame, verdicts }: Judgement,
    entries: readonly Entry[],
    scalers: readonly GradScaler[],
  ): StepOutcome {
    const parameters = entries.map(([parameter]) => parameter.name);
    const parts = scalers.map((scaler, i) => ({ scaler, name: scaler.name, verdict: verdicts[i] ?? verdict }));
    const several = parts.length === 1 ? [] : parts.map(({ scaler, ...part }) => scaler.#withMove(part));
    return this.#withMove({ applied, verdict, blame, parameters, scalers: several });
  }

  /** Adds how the scale moves: known at update(), which comes after the last step and before a compiled function returns. */
  #withMove<T extends object>(facts: T): T & ScaleMove {
    const before = this.lossScale;
    const session = sessionOf(this);
    const move: ScaleMove = {
      lossScaleBefore: before,
      get lossScaleAfter() {
        return session.after?.lossScale ?? before;
      },
      get exhausted() {
        return session.after?.exhausted ?? null;
      },
      lossScaleFloor: this.#source.floor,
    };
    return Object.assign(move, facts);
  }

  /**
   * Moves the scale, once for all optimizers: it backs off if any gradient since the last update was not finite. A step that is not
   * compiled may be given up after `unscale`, for a reason of your own: without `step`, `update` ends it, and running statistics go
   * back as in a skipped one. Inside `compile` a missing step is a mistake.
   *
   * @throws BinadeError `scaler.order` if nothing was unscaled since the last update, or no optimizer stepped inside `compile`.
   */
  update(): void {
    const session = sessionOf(this);
    const isGivenUp = session.stepped.size === 0 && session.checked.size > 0 && currentTrace() === null;
    if (isGivenUp) decideStep(full([], 0, "bool"));
    else if (session.stepped.size === 0) {
      const names = listNames([...session.checked.keys()].map(({ name }) => name));
      const waiting = names === "" ? "" : `, and the gradients of ${names} are unscaled`;
      throw orderError(`update: no optimizer stepped since the last update()${waiting}; call step() first`);
    }
    const unstepped = [...session.checked].filter(([parameter]) => !session.steppedParameters.has(parameter));
    const flags = [...session.stepped.values(), ...session.passedOn];
    if (unstepped.length > 0) flags.push(allCheckedFinite(unstepped.map(([, checked]) => checked)));
    const exhausted = this.#source.move({
      finite: flags.reduce((all, flag) => all.and(flag)),
      largest: () => largestMagnitude(trueGradients(session)),
      holds: allOf(session.received),
    });
    session.after = { lossScale: this.lossScale, exhausted };
    computeWithNextRun([session.after.lossScale, ...(exhausted === null ? [] : [exhausted])]);
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

export function requireScaler(subject: string, value: unknown): asserts value is GradScaler {
  if (value instanceof GradScaler) return;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected a GradScaler, got ${showValue(value)}; pass new GradScaler(…), the one that scales the loss`,
  );
}
