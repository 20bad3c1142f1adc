/** What a scaler remembers between two updates, one memory per recording, and the checks on it. */
import { BinadeError, listNames } from "../errors.ts";
import { full } from "../tensor/create.ts";
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
  /** Tensors below which cotangents are scaled by another scaler, see `GradScaler.rescale`. */
  readonly boundaries: Tensor[];
  /** bool scalar: all losses were finite before they were scaled. */
  lossFinite: Tensor;
  /** bool scalar: one of the losses was not 0. */
  lossNonZero: Tensor;
  /** What `update` left: the scale of the next step, and whether the run is over. */
  after: { readonly lossScale: Tensor; readonly exhausted: Tensor | null } | null;
}

const newSession = (): Session => ({
  checked: new Map(),
  stepped: new Map(),
  steppedParameters: new Map(),
  boundaries: [],
  lossFinite: full([], 1, "bool"),
  lossNonZero: full([], 0, "bool"),
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
