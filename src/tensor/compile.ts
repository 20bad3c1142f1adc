/** compile: records a function of tensors once, and replays it as one program. */
import type { MemoryPlan } from "../compile/plan.ts";
import type { Synchronous } from "../precision/autocast.ts";
import {
  requireBoolean,
  requireFunction,
  requireInteger,
  requireKnownKeys,
  requireText,
} from "../precision/options.ts";
import { MemoryError } from "./memory-error.ts";
import { listCategories, remedyOf } from "./plan.ts";
import { launch } from "./realize.ts";
import { Recording, type RecordingOptions } from "./recording.ts";
import { requireTensors } from "./require.ts";
import { requireTensor, type Tensor } from "./tensor.ts";
import { currentTrace } from "./trace.ts";

/** A compiled function: takes tensors, resolves to what the function returned, with every tensor computed. */
export interface Compiled<A extends readonly Tensor[], R> {
  (...args: A): Promise<R>;
  /** How often the function was recorded: once per combination of shapes, dtypes and modes. */
  readonly traces: number;
  /** Bytes of the program's arena for the recordings so far: intermediates share it. */
  readonly arenaByteLength: number;
  /**
   * Bytes by category that a call with arguments of these shapes and dtypes takes. Records the function where it was not yet,
   * and allocates nothing: the arguments' values are not read, so `zeros` will do. `formatMemoryPlan` makes a table of it.
   *
   * @example
   * const { byteLength, resident, arena } = step.plan(zeros([8, 784]), zeros([8], "int32"));
   */
  plan(...args: A): MemoryPlan;
}

export interface CompileOptions {
  /**
   * Most bytes that a call may take in all: parameters, optimizer state, arguments and intermediates. Where it takes more, parts
   * of `checkpoint(…, { when: "budget" })` are recomputed, the earliest first and as few as will do; GPT offers its blocks.
   */
  readonly memoryBudget?: number;
  /**
   * Variables keep their values: what the function assigns to them (random counters, running statistics, parameters) is dropped
   * when it ends. For a look at what a step would do. Default false.
   */
  readonly readOnly?: boolean;
}

const MANY_TRACES = 8;

/**
 * Records `fn` on its first call and replays the recording afterwards: one native call per step, no allocation but the
 * results. Variables assigned inside are updated in place, together, at the end. Another shape, dtype or mode records anew.
 * Numbers that the function captures are constants; use `HostNumber` (or the optimizer's learning rate) for those that change.
 * Calls, assignments, loads and reads take effect in the order in which they are made, awaited or not.
 *
 * @throws BinadeError `memory.budget` if the function cannot be recorded within `memoryBudget`; `memory.insufficient` from a call
 * that needs more memory than the machine has, before it allocates any; `trace.read` if a value is read inside the function; `trace.structure` if it returns a promise, or tensors in something
 * else than arrays and plain objects.
 * @example
 * const step = compile((x: Tensor, y: Tensor) => ({ loss: crossEntropy(model.forward(x), y) }));
 * const { loss } = await step(x, y);
 */
export function compile<A extends readonly Tensor[], R>(
  fn: (...args: A) => R & Synchronous<R>,
  options: CompileOptions = {},
): Compiled<A, R> {
  requireFunction("compile", fn);
  requireKnownKeys("compile", options, ["memoryBudget", "readOnly"]);
  const { memoryBudget, readOnly = false } = options;
  requireBoolean("compile: readOnly", readOnly);
  if (memoryBudget !== undefined) requireInteger("compile: memoryBudget", memoryBudget, 1, Number.MAX_SAFE_INTEGER);
  const recordings: Recording<R>[] = [];
  const record = (args: A): Recording<R> => {
    const how = { effects: !readOnly };
    const recording =
      memoryBudget === undefined ? new Recording(fn, args, how) : withinBudget(fn, args, memoryBudget, how);
    recordings.push(recording);
    if (recordings.length === MANY_TRACES + 1) {
      console.warn(
        `binade: compile recorded a function ${recordings.length} times for different shapes or modes; pad or drop the last batch so that shapes repeat`,
      );
    }
    return recording;
  };
  const recordingFor = (args: A): Recording<R> => recordings.find((r) => r.matches(args)) ?? record(args);
  const call = async (...args: A): Promise<R> => {
    requireTensors("compile: argument", args);
    const { leaves, done } = launch(args.map((a) => a.node));
    return recordingFor(args).run(leaves, done);
  };
  return Object.defineProperties(call, {
    traces: { get: () => recordings.length },
    arenaByteLength: { get: () => Math.max(0, ...recordings.map((r) => r.arenaByteLength)) },
    plan: {
      value: (...args: A) => {
        requireTensors("compile: argument", args);
        return recordingFor(args).plan();
      },
    },
  }) as Compiled<A, R>;
}

/** The recording that recomputes the fewest parts such that its plan fits. */
function withinBudget<R>(
  fn: (...args: never) => R,
  args: readonly Tensor[],
  budget: number,
  how: RecordingOptions,
): Recording<R> {
  const attempt = (chosen: number): { recording: Recording<R>; byteLength: number } => {
    const recording = new Recording(fn, args, { ...how, chosen });
    return { recording, byteLength: recording.plan().byteLength };
  };
  const none = attempt(0);
  if (none.byteLength <= budget) return none.recording;
  const parts = none.recording.checkpointCandidates;
  let [low, high] = [1, parts];
  let best = attempt(parts);
  if (best.byteLength > budget) {
    const least = Math.min(none.byteLength, best.byteLength);
    const plan = (least === none.byteLength ? none : best).recording.plan();
    throw new MemoryError(
      `compile: memoryBudget is ${budget} bytes, and the least possible is ${least}, with ${least === none.byteLength ? "nothing" : `all ${parts} parts`} recomputed (${listCategories(plan)})`,
      `raise the budget, or ${remedyOf(plan)}`,
      { code: "memory.budget", plan, availableBytes: budget },
    );
  }
  // More recomputed parts never take more memory, but for a part's own at work: the least number is found by halving.
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const tried = attempt(middle);
    if (tried.byteLength <= budget) [best, high] = [tried, middle];
    else low = middle + 1;
  }
  return best.recording;
}

/**
 * Prints a value from inside a compiled function, after each run; outside one, when it is next computed.
 *
 * @returns the tensor itself.
 */
export function debug(tensor: Tensor, label: string): Tensor {
  requireTensor("debug", tensor);
  requireText("debug: label", label);
  const trace = currentTrace();
  if (trace !== null) trace.probes.push({ label, node: tensor.node });
  else void tensor.show().then((text) => console.log(`${label}: ${text}`));
  return tensor;
}
