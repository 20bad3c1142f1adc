/** The optimizers of `train` by name: how each is made for a model, and how its rate and decay stand to AdamW's. */
import { Linear } from "../nn/layers.ts";
import type { Module } from "../nn/module.ts";
import { Adafactor } from "../optim/adafactor.ts";
import { Adam, AdamW } from "../optim/adam.ts";
import { Lion } from "../optim/lion.ts";
import { Muon } from "../optim/muon.ts";
import { SGD } from "../optim/sgd.ts";
import type { Grads } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import type { OptimizerChoice, TaskOptimizer, TaskOptimizerOptions } from "./task.ts";

/** What a task says of its optimizers. */
export interface OptimizerSettings {
  /** Decays of the moments of Adam and AdamW. */
  readonly betas: readonly [number, number];
  /** Weight decay of AdamW; of another optimizer that decays apart from the gradient, such that rate times decay is the same. */
  readonly decay: number;
  /** Weight decay of optimizers that add it to the gradient. */
  readonly addedDecay: number;
}

interface OptimizerRow {
  /** Peak learning rate that does about what AdamW's does, in units of that. */
  readonly rate: number;
  /** Whether weight decay is added to the gradient. */
  readonly addsDecay: boolean;
  readonly make: (model: Module, options: TaskOptimizerOptions, settings: OptimizerSettings) => TaskOptimizer;
}

const ROWS = {
  adamw: { rate: 1, addsDecay: false, make: (model, options, { betas }) => new AdamW(model, { ...options, betas }) },
  adam: { rate: 1, addsDecay: true, make: (model, options, { betas }) => new Adam(model, { ...options, betas }) },
  sgd: { rate: 50, addsDecay: true, make: (model, options) => new SGD(model, { ...options, momentum: 0.9 }) },
  lion: { rate: 0.25, addsDecay: false, make: (model, options) => new Lion(model, options) },
  adafactor: { rate: 10, addsDecay: false, make: (model, options) => new Adafactor(model, options) },
  // Muon's rate is scaled such that its updates are as large as AdamW's.
  muon: { rate: 1, addsDecay: false, make: (model, options, settings) => new MuonAndAdamW(model, options, settings) },
} as const satisfies Readonly<Record<string, OptimizerRow>>;

export type OptimizerName = keyof typeof ROWS;
export const OPTIMIZERS: Readonly<Record<OptimizerName, OptimizerRow>> = ROWS;
export const OPTIMIZER_NAMES = Object.keys(ROWS) as OptimizerName[];

/** The choices of a task, by name. */
export function choicesOf(
  model: Module,
  names: readonly OptimizerName[],
  settings: OptimizerSettings,
): Readonly<Record<string, OptimizerChoice>> {
  const choice = (name: OptimizerName): OptimizerChoice => ({
    weightDecay: weightDecayOf(name, settings),
    make: (options) => OPTIMIZERS[name].make(model, options, settings),
  });
  return Object.fromEntries(names.map((name) => [name, choice(name)]));
}

/** The weight decay with which an optimizer is made unless the user says otherwise. */
function weightDecayOf(name: OptimizerName, { decay, addedDecay }: OptimizerSettings): number {
  const { rate, addsDecay } = OPTIMIZERS[name];
  return addsDecay ? addedDecay : decay / rate;
}

/**
 * Muon for the matrices of all linear layers but the last, which gives the logits; AdamW for everything else: embeddings, norms,
 * biases. Both have one learning rate: Muon's is scaled such that its updates are as large as AdamW's.
 */
class MuonAndAdamW implements TaskOptimizer {
  readonly #muon: Muon;
  readonly #adamw: AdamW;

  constructor(model: Module, options: TaskOptimizerOptions, { betas }: OptimizerSettings) {
    const linear = [...model.namedModules().values()].filter((module) => module instanceof Linear);
    const matrices = new Set(linear.slice(0, -1).map(({ weight }) => weight));
    const others = model.parameters().filter((parameter) => !matrices.has(parameter));
    this.#muon = new Muon([...matrices], { ...options, rateScale: "matchAdamW" });
    this.#adamw = new AdamW(others, { ...options, betas });
  }

  parameters(): readonly Variable[] {
    return [...this.#muon.parameters(), ...this.#adamw.parameters()];
  }

  updates(grads: Grads<"true">): readonly (readonly [Variable, Tensor])[] {
    return [...this.#muon.updates(grads), ...this.#adamw.updates(grads)];
  }

  learningRate(): Tensor {
    return this.#muon.learningRate();
  }

  namedState(): ReadonlyMap<string, Variable> {
    const prefixed = (prefix: string, state: ReadonlyMap<string, Variable>): readonly (readonly [string, Variable])[] =>
      [...state].map(([name, variable]) => [`${prefix}.${name}`, variable] as const);
    return new Map([...prefixed("muon", this.#muon.namedState()), ...prefixed("adamw", this.#adamw.namedState())]);
  }

  overflowedWeights(): ReadonlyMap<string, Tensor> {
    return new Map([...this.#muon.overflowedWeights(), ...this.#adamw.overflowedWeights()]);
  }
}
