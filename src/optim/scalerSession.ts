/** What a scaler remembers between two updates, one memory per recording, and the checks on it. */
import { BinadeError, listNames } from "../errors.ts";
import { originOf } from "../tensor/gradients.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { currentTrace, type Trace } from "../tensor/trace.ts";
import type { Variable } from "../tensor/variable.ts";
import type { Checked } from "./gradientCheck.ts";
import type { Steppable } from "./optimizer.ts";

/** What happened between two updates. */
export interface Session {
  readonly checked: Map<Variable, Checked>;
  /** For each optimizer that stepped, whether its gradients of this scaler were finite: a bool scalar. */
  readonly stepped: Map<Steppable, Tensor>;
  /** Parameters of these with the gradients of their steps. */
  readonly steppedParameters: Map<Variable, Tensor>;
  /** What steps of other scalers got from this one was finite, one bool scalar for each. */
  readonly passedOn: Tensor[];
  /** What steps got from other scalers, over borders, was finite: otherwise nothing is known of this scale. */
  readonly received: Tensor[];
  /** What `update` left: the scale of the next step, and whether the run is over. */
  after: { readonly lossScale: Tensor; readonly exhausted: Tensor | null } | null;
}

const newSession = (): Session => ({
  checked: new Map(),
  stepped: new Map(),
  steppedParameters: new Map(),
  passedOn: [],
  received: [],
  after: null,
});

/** Recordings end by themselves; outside of one, a session ends with its update. */
const recorded = new WeakMap<object, WeakMap<Trace, Session>>();
const eager = new WeakMap<object, Session>();

/** The present session of a scaler. */
export function sessionOf(scaler: object): Session {
  const trace = currentTrace();
  const known = trace === null ? eager.get(scaler) : recorded.get(scaler)?.get(trace);
  return known ?? restartSession(scaler);
}

/** A new session, from the next call on. */
export function restartSession(scaler: object): Session {
  const trace = currentTrace();
  const session = newSession();
  if (trace === null) eager.set(scaler, session);
  else {
    const sessions = recorded.get(scaler) ?? new WeakMap<Trace, Session>();
    recorded.set(scaler, sessions);
    sessions.set(trace, session);
  }
  return session;
}

export const orderError = (message: string): BinadeError => new BinadeError("scaler.order", message);

/** Whether gradients of the present scale are under way. */
export const isBusy = ({ checked, stepped }: Session): boolean => checked.size > 0 || stepped.size > 0;

/** What the step's gradients were before anything was made of them, where they came through `unscale`. */
export const trueGradients = ({ checked, steppedParameters }: Session): readonly Tensor[] => [
  ...[...checked.values()].map(({ gradient }) => gradient),
  ...[...steppedParameters].flatMap(([parameter, gradient]) => (checked.has(parameter) ? [] : [gradient])),
];

/** Each parameter once between updates. */
export function requireFresh({ checked, steppedParameters }: Session, parameters: readonly Variable[]): void {
  const repeated = parameters.filter((p) => checked.has(p) || steppedParameters.has(p));
  const [first] = repeated;
  if (first === undefined) return;
  const when = steppedParameters.has(first) ? "stepped" : "unscaled";
  throw orderError(
    `unscale: ${listNames(repeated.map(({ name }) => name))} was ${when} already; unscale its gradients once, pass on what unscale returns, and call update() at the end of the step`,
  );
}

/** Gradients of this scaler's losses, of the kind that is due, from between the same updates. */
export function requireOrigin(
  scaler: object,
  subject: string,
  grads: ReadonlyMap<Variable, Tensor>,
  kind: "scaled" | "unscaled",
): void {
  const origin = originOf(grads);
  if (origin === undefined && kind === "unscaled") return;
  const names = listNames([...grads.keys()].map(({ name }) => name));
  const of = `${subject}: the gradients of ${names === "" ? "no parameter" : names}`;
  if (origin === undefined || origin.kind === "plain")
    throw orderError(
      `${of} are not those of a loss that this scaler scaled; write gradients(scaler.scale(loss), model)`,
    );
  if (!origin.scalers.includes(scaler))
    throw orderError(`${of} belong to another scaler; use one scaler for a loss and its gradients`);
  if (origin.kind !== kind)
    throw orderError(`${of} are ${origin.kind === "scaled" ? "still scaled" : "unscaled already"}; unscale them once`);
  // The scale that they have is that of another step: divided by today's they would be wrong by their ratio.
  if (origin.session !== undefined && origin.session !== sessionOf(scaler))
    throw orderError(`${of} were scaled before the last update(); scale the loss again after it`);
}

/** At least one gradient, and none in float16. */
export function requireGradients(
  subject: string,
  entries: readonly (readonly [Variable, Tensor])[],
  parameters: readonly Variable[],
): void {
  if (entries.length === 0) {
    const of = parameters.length === 0 ? "at least one parameter" : listNames(parameters.map(({ name }) => name));
    const fix = "pass gradients of a loss that depends on them, and see that they are not frozen or detached";
    throw new BinadeError("gradient.missing", `${subject}: expected gradients of ${of}, got none; ${fix}`);
  }
  const half = entries.filter(([, gradient]) => gradient.dtype === "float16").map(([parameter]) => parameter.name);
  if (half.length === 0) return;
  throw new BinadeError(
    "dtype.unsupported",
    `${subject}: the gradients of ${listNames(half)} are float16, expected float32 or bfloat16; keep the parameters in float32 and use autocast("float16", …)`,
  );
}
