/** What a run trains, as data: model, loss, batches, evaluation. The loop and its session know no more of a task than this. */
import type { Module } from "../nn/module.ts";
import type { Shape } from "../ops/shape.ts";
import type { StorageOptions } from "../optim/entry.ts";
import type { Schedule, Steppable } from "../optim/optimizer.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Variable } from "../tensor/variable.ts";
import type { EvaluatedEvent, StartedEvent, StepEvent } from "./events.ts";

/** Values on the host, and the shape that they fill. */
export interface HostTensor {
  readonly values: Int32Array | Uint8Array | Float32Array;
  readonly shape: Shape;
}

/** What a step reads. Batches of one task have one shape, so that the step is compiled once. */
export interface HostBatch {
  readonly inputs: HostTensor;
  readonly targets: HostTensor;
}

/** Shape and dtype of values on the host. */
export interface HostLayout {
  readonly shape: Shape;
  readonly dtype: "int32" | "uint8" | "float32";
}

/** What an optimizer must offer to be trained with, and to be in a checkpoint. */
export interface TaskOptimizer extends Steppable {
  learningRate(): Tensor;
  namedState(): ReadonlyMap<string, Variable>;
  /** As `Optimizer.overflowedWeights`; without it, a run does not say when 16-bit weights become infinite. */
  overflowedWeights?(): ReadonlyMap<string, Tensor>;
}

/** What an evaluation found, as fields of its event. */
export type Scores = Omit<EvaluatedEvent, "type" | "step" | "elapsedMs">;

/** How fast a run is, as fields of its events: tokens or pictures per second. */
export type Throughput = Pick<StepEvent, "tokensPerSecond" | "picturesPerSecond">;

/** What a run decides of its optimizer. */
export interface TaskOptimizerOptions extends StorageOptions {
  readonly lr: Schedule;
  readonly weightDecay: number;
  /** Of stochastic rounding. */
  readonly seed: number;
}

/** An optimizer that a run may ask for. */
export interface OptimizerChoice {
  /** Unless the run says otherwise. */
  readonly weightDecay: number;
  make(options: TaskOptimizerOptions): TaskOptimizer;
}

/** How held-out data is evaluated: a program for each batch, and a sum over them. */
export interface TaskEvaluation {
  /** Batches of one evaluation; the last may have another shape. */
  readonly count: number;
  /** Of its largest batch, so that what an evaluation takes is known before the run begins. */
  readonly layout: { readonly inputs: HostLayout; readonly targets: HostLayout };
  /** How many training batches hold as much: what an evaluation costs. */
  readonly trainingBatches: number;
  /** @param index from 0 to `count` − 1. */
  batch(index: number): HostBatch;
  /** What the program of a batch computes, under autocast. */
  record(inputs: Tensor, targets: Tensor): readonly Tensor[];
  /** Begins an evaluation. */
  tally(): Tally;
}

/** The sum of one evaluation. */
export interface Tally {
  /** Takes what `record` gave for a batch. */
  add(batch: HostBatch, values: readonly ArrayLike<number>[]): void;
  scores(): Scores;
}

/**
 * Everything that `train` must know of what it trains. Batches are pure functions of their index, so that a run resumes
 * exactly.
 */
export interface Task {
  readonly model: Module;
  /** Settings of model and data under their own names: reported, stored, and compared on resuming. */
  readonly settings: Readonly<Record<string, string | number | boolean>>;
  readonly data: StartedEvent["data"];
  /** Examples per step. */
  readonly batchSize: number;
  /** What else the first event says: tokens per window, or the names of the classes. */
  readonly facts: Pick<StartedEvent, "context" | "classes">;
  readonly defaults: {
    readonly weightDecay: number;
    /** Largest global norm of the gradients; null does not clip. */
    readonly clipNorm: number | null;
    /** Last learning rate as a share of the peak. */
    readonly finalRate: number;
  };
  /** Made once the parameters have their dtype. */
  optimizer(options: TaskOptimizerOptions): TaskOptimizer;
  /** By name, others that it can be trained with (`train({ optimizer })`), the default among them. Default: none. */
  readonly optimizers?: Readonly<Record<string, OptimizerChoice>>;
  /** Of every batch, so that what a step takes is known before the first one takes memory. */
  readonly layout: { readonly inputs: HostLayout; readonly targets: HostLayout };
  batch(index: number): HostBatch;
  /** The scalar to be minimised, recorded under autocast. */
  loss(inputs: Tensor, targets: Tensor): Tensor;
  /** Without it nothing is evaluated. */
  readonly evaluation: TaskEvaluation | null;
  throughput(batches: number, elapsedMs: number): Throughput;
}
