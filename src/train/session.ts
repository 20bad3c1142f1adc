/** One run's optimizer and scaler, and its two compiled programs: the step and the evaluation. */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { MemoryPlan } from "../compile/plan.ts";
import { BinadeError, showValue } from "../errors.ts";
import type { HalfDType } from "../formats/table.ts";
import { clipByGlobalNorm, globalNorm } from "../optim/clip.ts";
import { GradScaler } from "../optim/gradScaler.ts";
import {
  type Meters,
  meterUpdates,
  meterValues,
  readMeters,
  readUpdateMeters,
  type UpdateMeters,
} from "../optim/meters.ts";
import { outcomeTensors, type ReadOutcome, readOutcome } from "../optim/outcome.ts";
import type { GradScalerOptions } from "../optim/scaleSource.ts";
import { warmupCosine } from "../optim/schedule.ts";
import type { StateDType } from "../optim/states.ts";
import type { MasterWeights } from "../optim/weights.ts";
import { autocast } from "../precision/autocast.ts";
import { requireInteger } from "../precision/options.ts";
import { type Compiled, compile } from "../tensor/compile.ts";
import { tensor, zeros } from "../tensor/create.ts";
import type { Device } from "../tensor/device.ts";
import { type Grads, gradients, mapGradients } from "../tensor/gradients.ts";
import { MemoryError } from "../tensor/memory-error.ts";
import { memoryError, showBytes } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import type { MeteredGradient } from "./events.ts";
import { PRECISIONS, type Precision } from "./presets.ts";
import type { HostBatch, OptimizerChoice, Scores, Task, TaskOptimizer } from "./task.ts";

/** What decides a run besides its task. */
export interface Hyperparameters {
  readonly precision: Precision;
  /** Attempted steps of the whole run, at least 1. */
  readonly steps: number;
  /** Peak learning rate, after a linear warm-up and before a cosine decay to the task's last rate. */
  readonly learningRate: number;
  /** Applied steps of warm-up. Default: a twentieth of the run, at most 200. */
  readonly warmupSteps?: number;
  /** Name of an optimizer that the task has: of `OPTIMIZERS`, for Binade's tasks. Default: the task's own. */
  readonly optimizer?: string;
  /** As the optimizer has it. Default: the task's for that optimizer. */
  readonly weightDecay?: number;
  /** Largest global norm of the gradients; null does not clip. Default: the task's. */
  readonly clipNorm?: number | null;
  /** Seed of the run: reported and stored. Default 0. */
  readonly seed?: number;
  /** How the loss scale of fp16-mixed starts and moves. Default as in `GradScaler`. */
  readonly lossScale?: Omit<GradScalerOptions, "enabled">;
  /** Skip steps whose gradients have a global norm above this, before clipping; > 0. Default: none is. */
  readonly skipNormAbove?: number;
  /**
   * How often a batch is tried again at once when its gradients overflowed, with the scale that is left. Default 0: the next
   * step takes the next batch.
   */
  readonly retries?: number;
  /**
   * How the float32 weights are kept, as optimizers have it. `float32` (default): parameters are float32. Otherwise parameters
   * are of the dtype of the matrix products, and what the form keeps stands beside them.
   */
  readonly masterWeights?: MasterWeights;
  /** How the optimizer's moments are kept, as optimizers have it. Default float32. */
  readonly stateDType?: StateDType;
  /** Most bytes that a step may take in all; parts of the model are recomputed to stay within it, see `compile`. Default: any. */
  readonly memoryBudget?: number;
}

/** The hyperparameters with their defaults: what a checkpoint must agree with. */
export type SessionSettings = Readonly<
  Required<Omit<Hyperparameters, "precision" | "memoryBudget" | OptionalSetting>> &
    Pick<Hyperparameters, OptionalSetting>
>;
/** Settings that a checkpoint holds only where they were given. */
type OptionalSetting = "optimizer" | "lossScale" | "skipNormAbove" | "retries" | "masterWeights" | "stateDType";

/** Elements of a 16-bit parameter that are infinite or NaN, as `Optimizer.overflowedWeights` counts them. */
export interface OverflowedWeights {
  readonly name: string;
  readonly count: number;
}

export interface StepResult {
  readonly loss: number;
  readonly learningRate: number;
  readonly gradientNorm: number;
  readonly outcome: ReadOutcome;
  /** Null unless the step was metered. */
  readonly gradients: readonly MeteredGradient[] | null;
}

const COMPUTE: Readonly<Record<Precision, HalfDType | false>> = {
  fp32: false,
  "bf16-mixed": "bfloat16",
  "fp16-mixed": "float16",
};

/** The dtype of matrix products in a run of this precision; false for float32. */
export const computeDType = (precision: Precision): HalfDType | false => COMPUTE[precision];

/** Forms other than float32 are of parameters in the dtype of the matrix products. */
function narrowParameters({ model }: Task, precision: Precision, masterWeights: MasterWeights): void {
  if (masterWeights === "float32") return;
  const dtype = computeDType(precision);
  if (dtype !== false) {
    model.to(dtype);
    return;
  }
  const sentence = `train: masterWeights ${JSON.stringify(masterWeights)} is for 16-bit parameters, precision ${precision} has none`;
  throw new BinadeError("option.invalid", `${sentence}; leave it out, or choose bf16-mixed`);
}

export class Session {
  readonly device: Device;
  readonly settings: SessionSettings;
  readonly #task: Task;
  readonly #optimizer: TaskOptimizer;
  readonly #scaler: GradScaler;
  readonly #step: Compiled<[Tensor, Tensor], ReturnType<Session["record"]>>;
  /** The step with meters; recorded when it is first asked for. */
  readonly #meteredStep: Compiled<[Tensor, Tensor], ReturnType<Session["record"]>>;
  readonly #overflowed: Compiled<[], { readonly names: readonly string[]; readonly counts: readonly Tensor[] }>;
  readonly #evaluate: Compiled<[Tensor, Tensor], readonly Tensor[]>;

  constructor(task: Task, options: Hyperparameters) {
    const { defaults, evaluation } = task;
    const { precision, steps, learningRate, seed = 0, lossScale, memoryBudget, skipNormAbove, retries } = options;
    const choice = choiceOf(task, options.optimizer);
    const { weightDecay = choice?.weightDecay ?? defaults.weightDecay, clipNorm = defaults.clipNorm } = options;
    if (!PRECISIONS.includes(precision)) {
      throw new BinadeError(
        "option.invalid",
        `train: precision is ${JSON.stringify(precision)}, expected one of ${PRECISIONS.join(", ")}`,
      );
    }
    requireInteger("train: steps", steps, 1);
    const { masterWeights = "float32", stateDType = "float32" } = options;
    narrowParameters(task, precision, masterWeights);
    const warmupSteps = options.warmupSteps ?? Math.min(200, Math.floor(steps / 20));
    const [first] = task.model.parameters();
    if (first === undefined)
      throw new BinadeError("option.invalid", "train: the model has no parameters; give one that has");
    this.device = first.device;
    if (retries !== undefined) requireInteger("train: retries", retries, 0);
    this.settings = {
      ...{ steps, learningRate, seed, weightDecay, clipNorm, warmupSteps },
      ...(options.optimizer === undefined ? {} : { optimizer: options.optimizer }),
      ...(lossScale === undefined ? {} : { lossScale }),
      ...(skipNormAbove === undefined ? {} : { skipNormAbove }),
      ...(retries === undefined ? {} : { retries }),
      ...(options.masterWeights === undefined ? {} : { masterWeights }),
      ...(options.stateDType === undefined ? {} : { stateDType }),
    };
    this.#task = task;
    const floor = learningRate * defaults.finalRate;
    const lr = warmupCosine({ warmup: warmupSteps, total: steps, peak: learningRate, floor });
    this.#optimizer = (choice ?? { make: task.optimizer.bind(task) }).make({
      lr,
      weightDecay,
      masterWeights,
      stateDType,
      seed,
    });
    this.#scaler = new GradScaler({ device: this.device, ...lossScale, enabled: precision === "fp16-mixed" });
    const dtype = computeDType(precision);
    const budget = memoryBudget === undefined ? {} : { memoryBudget };
    this.#step = compile((inputs: Tensor, targets: Tensor) => this.record(inputs, targets, dtype, false), budget);
    this.#meteredStep = compile((inputs: Tensor, targets: Tensor) => this.record(inputs, targets, dtype, true), budget);
    this.#overflowed = compile(() => {
      const counts = this.#optimizer.overflowedWeights?.() ?? new Map<string, Tensor>();
      return { names: [...counts.keys()], counts: [...counts.values()] };
    });
    this.#evaluate = compile((inputs: Tensor, targets: Tensor) =>
      autocast(dtype, () => evaluation?.record(inputs, targets) ?? []),
    );
  }

  /** One training step as a graph; meters change none of its bits. */
  record(inputs: Tensor, targets: Tensor, dtype: HalfDType | false, isMetered: boolean) {
    const { model } = this.#task;
    const { clipNorm, skipNormAbove } = this.settings;
    const loss = autocast(dtype, () => this.#task.loss(inputs, targets));
    // Gradients of 16-bit parameters are of 16 bits: widened before they are divided by the scale, which would lose small ones.
    const scaled = mapGradients(gradients(this.#scaler.scale(loss), model), (gradient) => gradient.cast("float32"));
    const grads = this.#scaler.unscale(scaled, this.#optimizer);
    const learningRate = this.#optimizer.learningRate();
    const clipped = clipNorm === null ? grads : clipByGlobalNorm(grads, clipNorm);
    const meters = isMetered ? this.#meters(scaled, clipped) : null;
    // Clipping scales finite gradients by at most 1: nothing new to check.
    const outcome = this.#scaler.step(this.#optimizer, clipped, {
      checkGradients: false,
      ...(skipNormAbove === undefined ? {} : { skipNormAbove }),
    });
    this.#scaler.update();
    return { loss, learningRate, gradientNorm: globalNorm(grads), outcome, meters };
  }

  #meters(scaled: Grads<"scaled">, grads: Grads<"true">) {
    const isWide = this.#task.model.parameters().some(({ dtype }) => dtype === "float32");
    return {
      gradients: meterValues(scaled),
      updates: isWide ? meterUpdates(this.#optimizer, grads, "bfloat16") : null,
    };
  }

  /** Everything that a checkpoint holds, by name. */
  get variables(): ReadonlyMap<string, Variable> {
    const { model } = this.#task;
    const parts: readonly (readonly [string, ReadonlyMap<string, Variable>])[] = [
      ["model", model.namedParameters()],
      ["buffer", model.namedBuffers()],
      ["optimizer", this.#optimizer.namedState()],
      ["scaler", this.#scaler.namedState()],
    ];
    return new Map(
      parts.flatMap(([prefix, variables]) => [...variables].map(([name, v]) => [`${prefix}.${name}`, v] as const)),
    );
  }

  /** Bytes of intermediates that the step's program plans. */
  get plannedBytes(): number {
    return this.#step.arenaByteLength;
  }

  /** Bytes that a step takes, by category; nothing is allocated. */
  plan(): MemoryPlan {
    const { inputs, targets } = this.#task.layout;
    return this.#step.plan(zeros(inputs.shape, inputs.dtype), zeros(targets.shape, targets.dtype));
  }

  /** Bytes that an evaluation takes beside the run's variables, by category; null without one. Nothing is allocated. */
  #evaluationPlan(): MemoryPlan | null {
    const { model, evaluation } = this.#task;
    if (evaluation === null) return null;
    const { inputs, targets } = evaluation.layout;
    const wasTraining = model.training;
    model.evaluate();
    try {
      return this.#evaluate.plan(zeros(inputs.shape, inputs.dtype), zeros(targets.shape, targets.dtype));
    } finally {
      if (wasTraining) model.train();
    }
  }

  /**
   * Programs share one arena, so a run takes what the larger of step and evaluation does.
   *
   * @throws MemoryError if the machine has not got what a run takes beyond what it holds already, and nothing is allocated;
   * BinadeError `memory.budget` as `compile`.
   */
  requireMemory(): void {
    const missing = [...this.variables.values()].reduce((sum, { unallocatedBytes }) => sum + unallocatedBytes, 0);
    // Known at once, where a plan of a model that is out of the question would take its time.
    const variables = this.device.shortage(0, missing);
    if (variables !== null) {
      const { needed, available } = variables;
      const facts = `memory: the weights of this run, and what is kept beside them, take ${showBytes(needed)} more, and the machine has ${showBytes(available)} left for it; nothing was allocated`;
      throw new MemoryError(facts, "use a smaller model", { availableBytes: available });
    }
    const need = (plan: MemoryPlan, subject: string): void => {
      const { inputs, outputs, gradientSums } = plan.resident;
      const lacking = this.device.shortage(plan.arena.byteLength, missing + inputs + outputs + gradientSums);
      if (lacking !== null) throw memoryError(plan, lacking.needed, lacking.available, subject);
    };
    need(this.plan(), "this run");
    const evaluation = this.#evaluationPlan();
    if (evaluation !== null) need(evaluation, "an evaluation in this run");
  }

  #tensors({ inputs, targets }: HostBatch): [Tensor, Tensor] {
    const { device } = this;
    return [
      tensor(inputs.values, { shape: inputs.shape, device }),
      tensor(targets.values, { shape: targets.shape, device }),
    ];
  }

  /**
   * @param meanwhile runs on this thread while the step runs on the device's
   * @param isMetered whether the result says where gradients lie in float16's range
   */
  async step(batch: HostBatch, meanwhile: () => void = () => undefined, isMetered = false): Promise<StepResult> {
    const inputs = this.#tensors(batch);
    const running = (isMetered ? this.#meteredStep : this.#step)(...inputs);
    // The call is handed to the device in a microtask; work for this thread comes after.
    const [{ loss, learningRate, gradientNorm, outcome, meters }] = await Promise.all([
      running,
      nextTurn().then(meanwhile),
    ]);
    const result = {
      loss: await loss.item(),
      learningRate: await learningRate.item(),
      gradientNorm: await gradientNorm.item(),
      outcome: await readOutcome(outcome),
      gradients: meters === null ? null : await readGradients(meters),
    };
    // Not left to the collector: it sees small objects, not the memory behind them.
    const metered = meters === null ? [] : [meters.gradients.counts, meters.updates?.changed, meters.updates?.lost];
    for (const used of [...inputs, loss, learningRate, gradientNorm, ...outcomeTensors(outcome), ...metered])
      used?.dispose();
    return result;
  }

  /** Parameters of 16 bits that hold what float32 would, and 16 bits do not: a program of its own, run when it is asked. */
  async overflowedWeights(): Promise<readonly OverflowedWeights[]> {
    if (this.#task.model.parameters().every(({ dtype }) => dtype === "float32")) return [];
    const { names, counts } = await this.#overflowed();
    const values = await Promise.all(counts.map((count) => count.item()));
    for (const count of counts) count.dispose();
    return names.map((name, i) => ({ name, count: values[i] ?? 0 })).filter(({ count }) => count > 0);
  }

  /** Scores over all held-out batches; null without any, or if the signal ended it. */
  async evaluate(signal?: AbortSignal): Promise<Scores | null> {
    const { model, evaluation } = this.#task;
    if (evaluation === null) return null;
    const wasTraining = model.training;
    model.evaluate();
    try {
      const tally = evaluation.tally();
      for (let i = 0; i < evaluation.count; i++) {
        if (signal?.aborted === true) return null;
        const batch = evaluation.batch(i);
        const inputs = this.#tensors(batch);
        const found = await this.#evaluate(...inputs);
        tally.add(batch, await Promise.all(found.map((value) => value.data())));
        for (const used of [...inputs, ...found]) used.dispose();
        await nextTurn();
      }
      return tally.scores();
    } finally {
      if (wasTraining) model.train();
    }
  }
}

function choiceOf({ optimizers = {} }: Task, name: string | undefined): OptimizerChoice | null {
  if (name === undefined) return null;
  const choice = Object.hasOwn(optimizers, name) ? optimizers[name] : undefined;
  if (choice !== undefined) return choice;
  const names = Object.keys(optimizers).join(", ");
  const expected = names === "" ? "none, since the task has but its own" : `one of ${names}`;
  throw new BinadeError("option.invalid", `train: optimizer: expected ${expected}, got ${showValue(name)}; choose one`);
}

/** Gradients and lost updates by parameter. */
async function readGradients(meters: {
  readonly gradients: Meters;
  readonly updates: UpdateMeters | null;
}): Promise<readonly MeteredGradient[]> {
  const readings = await readMeters(meters.gradients);
  const updates = meters.updates === null ? [] : await readUpdateMeters(meters.updates);
  const lost = new Map(updates.map(({ name, lostShare }) => [name, lostShare]));
  return readings.map(({ histogram: _, ...shares }) => {
    const lostUpdateShare = lost.get(shares.name);
    return lostUpdateShare === undefined ? shares : { ...shares, lostUpdateShare };
  });
}
