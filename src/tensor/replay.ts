/** A step computed once for a look at it: under other rules or in float32, with nothing assigned. */
import type { MemoryPlan } from "../compile/plan.ts";
import { fullPrecision, underRules } from "../precision/autocast.ts";
import type { AutocastRule } from "../precision/rules.ts";
import { launch } from "./realize.ts";
import { Recording } from "./recording.ts";
import { Tensor } from "./tensor.ts";
import { currentTrace } from "./trace.ts";

/** How a step is replayed. */
export interface ReplayOptions {
  /** Rules that every region begins with. Default none. */
  readonly rules?: readonly AutocastRule[];
  /** Autocast and policies off. Default false. */
  readonly full?: boolean;
}

/** Records `body`, and computes the tensors that it returns with the present parameters. */
export async function replay<A extends readonly Tensor[], R>(
  body: (...args: A) => R,
  args: A,
  { rules = [], full = false }: ReplayOptions = {},
): Promise<{ readonly result: R; readonly plan: MemoryPlan }> {
  const traced = (...given: readonly Tensor[]): R => {
    const run = (): R => body(...(given as unknown as A));
    return full ? fullPrecision(run) : underRules(rules, run);
  };
  const recording = new Recording(traced, args, { effects: false });
  const { leaves, done } = launch(args.map((a) => a.node));
  return { result: await recording.run(leaves, done), plan: recording.plan() };
}

/** While a function is recorded: the gradients that it has asked for, by name of the parameter. */
export const gradientsSoFar = (): readonly (readonly [string, Tensor])[] =>
  (currentTrace()?.differentiated ?? []).flatMap(({ parameters, gradients }) =>
    gradients.map((node, i) => [parameters[i] ?? "", new Tensor(node)] as const),
  );
