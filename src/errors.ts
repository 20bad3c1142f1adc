/** The one error class. Every mistake has a stable `code`; its sentence names the subject, what was expected, what came, and the fix. */

/** Stable identifiers of mistakes; documented in docs/errors.md. */
export type ErrorCode =
  | "shape.mismatch"
  | "shape.invalid"
  | "dtype.mismatch"
  | "dtype.unsupported"
  | "value.range"
  | "index.outOfRange"
  | "option.invalid"
  | "option.unknown"
  | "autocast.refused"
  | "autocast.async"
  | "autodiff.notDifferentiable"
  | "scaler.order"
  | "scaler.state"
  | "gradient.missing"
  | "trace.read"
  | "trace.structure"
  | "tensor.disposed"
  | "device.unavailable"
  | "device.failed"
  | "memory.insufficient"
  | "memory.budget"
  | "file.missing"
  | "file.unreadable"
  | "file.write"
  | "file.busy"
  | "data.short"
  | "data.corrupt"
  | "data.mixed"
  | "data.unknown"
  | "package.missing"
  | "checkpoint.corrupt"
  | "checkpoint.mismatch"
  | "run.stalled"
  | "internal";

/**
 * A mistake in the use of Binade. Expected outcomes (a skipped step, a missing accelerator) are values, never this.
 *
 * @example
 * try { a.matmul(b) } catch (error) { if (error instanceof BinadeError && error.code === "shape.mismatch") … }
 */
export class BinadeError extends Error {
  override readonly name = "BinadeError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Throws a fault of Binade itself, never of its user, unless `condition` holds. */
export function invariant(condition: unknown, message: () => string): asserts condition {
  if (!condition) throw new BinadeError("internal", `internal: ${message()}`);
}

/** At most three names, and how many more there are. */
export const listNames = (names: readonly string[]): string =>
  names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");

/** What was given, for a message: numbers and texts as written, objects as JSON or by their class; never throws itself. */
export function showValue(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return "a function";
  if (value instanceof Promise) return "a promise";
  if (typeof value !== "object" || value === null) return String(value);
  const { name = "" } = (value.constructor ?? {}) as { readonly name?: string };
  if (name !== "" && name !== "Object" && name !== "Array") return `an object of class ${name}`;
  try {
    return JSON.stringify(value);
  } catch {
    return "an object that JSON cannot show";
  }
}
