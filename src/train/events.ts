/** What a training run says: one typed stream for the progress bar, the JSON lines, the dashboard and the tests. */
import type { MeterReading } from "../optim/meters.ts";
import type { SkipReason } from "../optim/outcome.ts";

/** The run begins. Always the first event. */
export type StartedEvent = {
  readonly type: "started";
  /** Attempted steps before this run: 0, or where the checkpoint that it resumes stood. */
  readonly step: number;
  /** Number of trainable parameters, and the settings of the model under their own names. */
  readonly model: { readonly parameters: number; readonly [setting: string]: string | number | boolean };
  /** Name of the precision policy, such as `fp16-mixed`. */
  readonly precision: string;
  /** The device and what runs there, such as `cpu: avx2`. */
  readonly device: string;
  /** Worker threads of the device. */
  readonly threads: number;
  /** Seed of weights, order of the data, dropout and stochastic rounding. */
  readonly seed: number;
  /** The attempted step at which the run will be finished. */
  readonly steps: number;
  /** Windows of text or pictures per batch. */
  readonly batch: number;
  /** Tokens per window, of a model of text. */
  readonly context?: number;
  /** Names of the classes by label, of a classifier. */
  readonly classes?: readonly string[];
  /**
   * The data: its name, length in bytes, and SHA-256 in hexadecimal digits; of pictures also how many are trained on and
   * held out.
   */
  readonly data: {
    readonly name: string;
    readonly byteLength: number;
    readonly sha256: string;
    readonly training?: number;
    readonly heldOut?: number;
  };
};

/** A step was attempted, and its loss was read. */
export type StepEvent = {
  readonly type: "step";
  /** Attempted steps so far, this one included. */
  readonly step: number;
  /** Mean training loss of this step's batch in nats per token or picture; not finite if the forward pass overflowed. */
  readonly loss: number;
  /** Learning rate of this step. */
  readonly learningRate: number;
  /** Global L2 norm of the unscaled gradients before clipping; not finite if the step was skipped. */
  readonly gradientNorm: number;
  /** Factor of the loss in this step; 1 without loss scaling. */
  readonly lossScale: number;
  /** Training throughput of this step, of a model of text. */
  readonly tokensPerSecond?: number;
  /** Training throughput of this step, of a classifier. */
  readonly picturesPerSecond?: number;
  /** Milliseconds since the run started. */
  readonly elapsedMs: number;
  /** Skipped steps so far. */
  readonly skippedSteps: number;
};

/** A step changed no weight, because a number was not finite; expected now and then while the loss scale adapts. */
export type SkippedEvent = {
  readonly type: "skipped";
  /** Attempted steps so far, this one included. */
  readonly step: number;
  /** Why: whether the loss itself or only gradients were not finite, or another reason that was asked for. */
  readonly reason: SkipReason;
  /** Names of the parameters whose gradients made it skip. */
  readonly parameters: readonly string[];
  /** Loss scale of this step. */
  readonly lossScaleBefore: number;
  /** Loss scale of the next step. */
  readonly lossScaleAfter: number;
  /** The same batch is tried again, in the same step; only if it is. */
  readonly retried?: true;
};

/** The held-out part was evaluated. */
export type EvaluatedEvent = {
  readonly type: "evaluated";
  /** Attempted steps so far. */
  readonly step: number;
  /** Mean loss over the held-out windows or pictures, in nats per token or picture. */
  readonly heldOutLoss: number;
  /** The same in bits per byte, of a model of text: `heldOutLoss` / ln 2 where a token is a byte. */
  readonly bitsPerByte?: number;
  /** Share of the held-out pictures whose class was found, of a classifier. */
  readonly accuracy?: number;
  /** `confusion[c][g]` held-out pictures of class c were taken for class g, of a classifier. */
  readonly confusion?: readonly (readonly number[])[];
  /** Milliseconds since the run started. */
  readonly elapsedMs: number;
};

/** Where the gradients of a step lay in float16's range, and how many updates 16 bits would lose; only if it was asked for. */
export type MeteredEvent = {
  readonly type: "metered";
  /** Attempted steps so far, this one included. */
  readonly step: number;
  /** One entry per parameter, of its gradient as it is scaled. */
  readonly gradients: readonly MeteredGradient[];
  /** Milliseconds since the run started. */
  readonly elapsedMs: number;
};

/** How the elements of a parameter's gradient lie in float16's range. */
export interface MeteredGradient extends Omit<MeterReading, "histogram"> {
  /** Share of the updates that a bfloat16 weight would lose, of a float32 parameter. */
  readonly lostUpdateShare?: number;
}

/** A checkpoint is complete on the disk. */
export type CheckpointedEvent = {
  readonly type: "checkpointed";
  /** Attempted steps in the checkpoint. */
  readonly step: number;
  /** File or folder of the checkpoint. */
  readonly path: string;
  /** Its size in bytes. */
  readonly byteLength: number;
  /** Milliseconds since the run started. */
  readonly elapsedMs: number;
};

/** Something that the user should know, and that does not end the run. */
export type WarningEvent = {
  readonly type: "warning";
  /** Attempted steps so far. */
  readonly step: number;
  /**
   * Stable identifier: `loss.notFinite`, `gradient.notFinite` (without loss scaling), `gradient.norm` (above `skipNormAbove`), `scale.floor`,
   * `weight.overflow` (16-bit weights are infinite; looked for when a step is skipped, and with every evaluation), `run.stalled`,
   * `run.complete` (nothing left to do), `device.reference` (slow, because there are no native kernels).
   */
  readonly code: string;
  /** One sentence: what happened and what to do. */
  readonly message: string;
};

/** The run is over. Always the last event, unless the run failed with an error. */
export type DoneEvent = {
  readonly type: "done";
  /** Attempted steps so far. */
  readonly step: number;
  /** Training loss of the last step in nats per token or picture, or null if none was made. */
  readonly loss: number | null;
  /** Last held-out loss in nats per token or picture, or null if there was no evaluation. */
  readonly heldOutLoss: number | null;
  /** As in the last `evaluated` event. */
  readonly bitsPerByte?: number;
  /** As in the last `evaluated` event. */
  readonly accuracy?: number;
  /** As in the last `evaluated` event. */
  readonly confusion?: readonly (readonly number[])[];
  /** Milliseconds since the run started. */
  readonly elapsedMs: number;
  /** Mean training throughput of the run, of a model of text. */
  readonly tokensPerSecond?: number;
  /** Mean training throughput of the run, of a classifier. */
  readonly picturesPerSecond?: number;
  /** Skipped steps so far. */
  readonly skippedSteps: number;
  /** Whether all steps were made, or the user ended the run. */
  readonly reason: "finished" | "interrupted";
  /** Text which the trained model wrote, if it was asked to. */
  readonly sample?: string;
};

/**
 * Everything a run reports. `step` counts attempted steps, skipped ones included.
 *
 * @example
 * for await (const event of run) if (event.type === "evaluated") console.log(event.step, event.heldOutLoss);
 */
export type TrainEvent =
  | StartedEvent
  | StepEvent
  | SkippedEvent
  | MeteredEvent
  | EvaluatedEvent
  | CheckpointedEvent
  | WarningEvent
  | DoneEvent;

/** The values of `type`, in the order in which a run first sends them. */
export const EVENT_TYPES = [
  "started",
  "step",
  "skipped",
  "metered",
  "evaluated",
  "checkpointed",
  "warning",
  "done",
] as const satisfies readonly TrainEvent["type"][];
