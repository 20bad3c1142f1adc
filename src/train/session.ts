/** One run's optimizer and scaler, and its two compiled programs: the step and the evaluation. */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { ByteBatch, EvaluationBatches } from "../data/batches.ts";
import { BinadeError } from "../errors.ts";
import type { HalfDType } from "../formats/table.ts";
import { AdamW } from "../optim/adam.ts";
import { clipByGlobalNorm, globalNorm } from "../optim/clip.ts";
import { GradScaler } from "../optim/gradScaler.ts";
import { type ReadOutcome, readOutcome } from "../optim/outcome.ts";
import { warmupCosine } from "../optim/schedule.ts";
import { autocast } from "../precision/autocast.ts";
import type { LossScaleOptions } from "../precision/lossScale.ts";
import { requireInteger } from "../precision/options.ts";
import { type Compiled, compile } from "../tensor/compile.ts";
import { tensor } from "../tensor/create.ts";
import type { Device } from "../tensor/device.ts";
import { crossEntropy } from "../tensor/functions.ts";
import { gradients } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import { PRECISIONS, type Precision } from "./presets.ts";
import type { TrainableModel } from "./trainer.ts";

/** What decides a run besides model and data. */
export interface Hyperparameters {
  readonly precision: Precision;
  /** Attempted steps of the whole run, at least 1. */
  readonly steps: number;
  /** Peak learning rate, after a linear warm-up and before a cosine decay to a tenth of it. */
  readonly learningRate: number;
  /** Applied steps of warm-up. Default: a twentieth of the run, at most 200. */
  readonly warmupSteps?: number;
  /** Decoupled weight decay. Default 0.1. */
  readonly weightDecay?: number;
  /** Largest global norm of the gradients. Default 1. */
  readonly clipNorm?: number;
  /** Seed of the run: reported and stored. Default 0. */
  readonly seed?: number;
  /** How the loss scale of fp16-mixed starts and moves. Default as in `GradScaler`. */
  readonly lossScale?: LossScaleOptions;
}

/** The hyperparameters with their defaults: what a checkpoint must agree with. */
export type SessionSettings = Readonly<Required<Omit<Hyperparameters, "precision" | "lossScale">>> &
  Pick<Hyperparameters, "lossScale">;

export interface StepResult {
  readonly loss: number;
  readonly learningRate: number;
  readonly gradientNorm: number;
  readonly outcome: ReadOutcome;
}

const COMPUTE: Readonly<Record<Precision, HalfDType | false>> = {
  fp32: false,
  "bf16-mixed": "bfloat16",
  "fp16-mixed": "float16",
};

/** The dtype of matrix products in a run of this precision; false for float32. */
export const computeDType = (precision: Precision): HalfDType | false => COMPUTE[precision];

export class Session {
  readonly device: Device;
  readonly settings: SessionSettings;
  readonly #model: TrainableModel;
  readonly #optimizer: AdamW;
  readonly #scaler: GradScaler;
  readonly #step: Compiled<[Tensor, Tensor], ReturnType<Session["record"]>>;
  readonly #evaluate: Compiled<[Tensor, Tensor], Tensor>;

  constructor(model: TrainableModel, options: Hyperparameters) {
    const { precision, steps, learningRate, seed = 0, weightDecay = 0.1, clipNorm = 1, lossScale } = options;
    if (!PRECISIONS.includes(precision)) {
      throw new BinadeError(
        "option.invalid",
        `train: precision is ${JSON.stringify(precision)}, expected one of ${PRECISIONS.join(", ")}`,
      );
    }
    requireInteger("train: steps", steps, 1);
    const warmupSteps = options.warmupSteps ?? Math.min(200, Math.floor(steps / 20));
    const [first] = model.parameters();
    if (first === undefined)
      throw new BinadeError("option.invalid", "train: the model has no parameters; give one that has");
    this.device = first.device;
    const own = { steps, learningRate, seed, weightDecay, clipNorm, warmupSteps };
    this.settings = { ...own, ...(lossScale === undefined ? {} : { lossScale }) };
    this.#model = model;
    const lr = warmupCosine({ warmup: warmupSteps, total: steps, peak: learningRate, floor: learningRate / 10 });
    this.#optimizer = new AdamW(model, { lr, weightDecay, betas: [0.9, 0.95] });
    this.#scaler = new GradScaler({ ...lossScale, enabled: precision === "fp16-mixed" });
    const dtype = computeDType(precision);
    this.#step = compile((tokens: Tensor, targets: Tensor) => this.record(tokens, targets, dtype));
    this.#evaluate = compile((tokens: Tensor, targets: Tensor) =>
      autocast(dtype, () => crossEntropy(model.forward(tokens), targets)),
    );
  }

  /** One training step as a graph. */
  record(tokens: Tensor, targets: Tensor, dtype: HalfDType | false) {
    const loss = autocast(dtype, () => crossEntropy(this.#model.forward(tokens), targets));
    const grads = this.#scaler.unscale(gradients(this.#scaler.scale(loss), this.#model), this.#optimizer);
    const learningRate = this.#optimizer.learningRate();
    // Clipping scales finite gradients by at most 1: nothing new to check.
    const outcome = this.#scaler.step(this.#optimizer, clipByGlobalNorm(grads, this.settings.clipNorm), {
      checkGradients: false,
    });
    this.#scaler.update();
    return { loss, learningRate, gradientNorm: globalNorm(grads), outcome };
  }

  /** Everything that a checkpoint holds, by name. */
  get variables(): ReadonlyMap<string, Variable> {
    const parts: readonly (readonly [string, ReadonlyMap<string, Variable>])[] = [
      ["model", this.#model.namedParameters()],
      ["buffer", this.#model.namedBuffers()],
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

  #tensors({ tokens, targets }: Pick<ByteBatch, "tokens" | "targets">): [Tensor, Tensor] {
    const { context } = this.#model;
    const shape = [tokens.length / context, context];
    return [tensor(tokens, { shape, device: this.device }), tensor(targets, { shape, device: this.device })];
  }

  async step(batch: Pick<ByteBatch, "tokens" | "targets">): Promise<StepResult> {
    const inputs = this.#tensors(batch);
    const { loss, learningRate, gradientNorm, outcome } = await this.#step(...inputs);
    const result = {
      loss: await loss.item(),
      learningRate: await learningRate.item(),
      gradientNorm: await gradientNorm.item(),
      outcome: await readOutcome(outcome),
    };
    const { applied, lossFinite, nonFinite, lossScaleBefore, lossScaleAfter } = outcome;
    const flags = [applied, lossFinite, nonFinite, lossScaleBefore, lossScaleAfter];
    // Not left to the collector: it sees small objects, not the memory behind them.
    for (const used of [...inputs, loss, learningRate, gradientNorm, ...flags]) used.dispose();
    return result;
  }

  /** Mean loss over all held-out batches, in nats per token; null if the signal ended it. */
  async evaluate(batches: EvaluationBatches, signal?: AbortSignal): Promise<number | null> {
    const wasTraining = this.#model.training;
    this.#model.evaluate();
    try {
      let sum = 0;
      for (let i = 0; i < batches.count; i++) {
        if (signal?.aborted === true) return null;
        const inputs = this.#tensors(batches.batch(i));
        const loss = await this.#evaluate(...inputs);
        sum += await loss.item();
        for (const used of [...inputs, loss]) used.dispose();
        await nextTurn();
      }
      return sum / batches.count;
    } finally {
      if (wasTraining) this.#model.train();
    }
  }
}
