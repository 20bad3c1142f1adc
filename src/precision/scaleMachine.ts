/** What every moving loss scale is: named scalars, and a transition that runs on numbers and on tensors alike. */

/** Scalar arithmetic with the names of `Tensor`: what a transition is written in. Conditions are values, too. */
export interface Arithmetic<T> {
  add(other: T | number): T;
  sub(other: T | number): T;
  mul(other: T | number): T;
  div(other: T | number): T;
  minimum(other: T | number): T;
  maximum(other: T | number): T;
  equal(other: T | number): T;
  less(other: T | number): T;
  lessEqual(other: T | number): T;
  greater(other: T | number): T;
  greaterEqual(other: T | number): T;
  and(other: T): T;
  or(other: T): T;
  not(): T;
  isFinite(): T;
  floor(): T;
  sqrt(): T;
  exp(): T;
  log(): T;
  cast(dtype: "float32" | "int32"): T;
}

/** The value where the condition holds, else the other one. */
export type Where<T> = (condition: T, value: T | number, other: T | number) => T;

/** A scalar that lives across steps: one variable on the device, one entry of a saved state. */
export interface StateField {
  readonly name: string;
  readonly dtype: "float32" | "int32";
  readonly initial: number;
}

/** The state by field name. */
export type MachineState<T> = Readonly<Record<string, T>>;

/** What a step tells the machine. */
export interface Seen<T> {
  /** Condition: every gradient was finite. */
  readonly finite: T;
  /** Largest magnitude among the unscaled gradients, float32; only for machines that ask for it. */
  readonly largest?: T;
}

export interface Moved<T> {
  readonly state: MachineState<T>;
  /** Condition: the scale cannot fall, and the system that this machine reproduces would end the run. Null: it never would. */
  readonly exhausted: T | null;
}

/** A loss scale that moves. The field `scale` is the scale. */
export interface ScaleMachine {
  readonly fields: readonly StateField[];
  /** Least scale; 0 for none. */
  readonly floor: number;
  /** Greatest scale; infinite for none. */
  readonly ceiling: number;
  /** Whether `next` reads `largest`. */
  readonly readsLargest: boolean;
  readonly next: <T extends Arithmetic<T>>(state: MachineState<T>, seen: Seen<T>, where: Where<T>) => Moved<T>;
}

/** A field that the machine is known to have. */
export function fieldOf<T>(state: MachineState<T>, name: string): T {
  const value = state[name];
  if (value === undefined) throw new TypeError(`loss scale: the state has no field ${name}`);
  return value;
}

/**
 * A number with the arithmetic of a device's scalar: float32 results are rounded once, int32 ones are exact below 2^31. A
 * literal operand keeps its 53 bits, so that a product with 1.1 is PyTorch's, which forms it in double.
 */
export class Scalar implements Arithmetic<Scalar> {
  readonly value: number;
  readonly dtype: StateField["dtype"];

  constructor(value: number, dtype: StateField["dtype"] = "float32") {
    this.value = dtype === "float32" ? Math.fround(value) : value;
    this.dtype = dtype;
  }

  #with(value: number): Scalar {
    return new Scalar(value, this.dtype);
  }
  #holds(condition: boolean): Scalar {
    return new Scalar(Number(condition), "int32");
  }

  add(other: Scalar | number): Scalar {
    return this.#with(this.value + raw(other));
  }
  sub(other: Scalar | number): Scalar {
    return this.#with(this.value - raw(other));
  }
  mul(other: Scalar | number): Scalar {
    return this.#with(this.value * raw(other));
  }
  div(other: Scalar | number): Scalar {
    return this.#with(this.value / raw(other));
  }
  minimum(other: Scalar | number): Scalar {
    return this.#with(Math.min(this.value, raw(other)));
  }
  maximum(other: Scalar | number): Scalar {
    return this.#with(Math.max(this.value, raw(other)));
  }
  equal(other: Scalar | number): Scalar {
    return this.#holds(this.value === raw(other));
  }
  less(other: Scalar | number): Scalar {
    return this.#holds(this.value < raw(other));
  }
  lessEqual(other: Scalar | number): Scalar {
    return this.#holds(this.value <= raw(other));
  }
  greater(other: Scalar | number): Scalar {
    return this.#holds(this.value > raw(other));
  }
  greaterEqual(other: Scalar | number): Scalar {
    return this.#holds(this.value >= raw(other));
  }
  and(other: Scalar): Scalar {
    return this.#holds(this.holds && other.holds);
  }
  or(other: Scalar): Scalar {
    return this.#holds(this.holds || other.holds);
  }
  not(): Scalar {
    return this.#holds(!this.holds);
  }
  isFinite(): Scalar {
    return this.#holds(Number.isFinite(this.value));
  }
  floor(): Scalar {
    return this.#with(Math.floor(this.value));
  }
  sqrt(): Scalar {
    return this.#with(Math.sqrt(this.value));
  }
  exp(): Scalar {
    return this.#with(Math.exp(this.value));
  }
  log(): Scalar {
    return this.#with(Math.log(this.value));
  }
  cast(dtype: StateField["dtype"]): Scalar {
    return new Scalar(dtype === "int32" ? Math.trunc(this.value) : this.value, dtype);
  }

  /** Whether a condition holds. */
  get holds(): boolean {
    return this.value !== 0;
  }
}

const raw = (operand: Scalar | number): number => (typeof operand === "number" ? operand : operand.value);

/** `where` of scalars: a literal takes the dtype of the other value. */
export function whereScalar(condition: Scalar, value: Scalar | number, other: Scalar | number): Scalar {
  const { dtype = "float32" } = [value, other].find((operand) => operand instanceof Scalar) ?? {};
  return new Scalar(raw(condition.holds ? value : other), dtype);
}

/** The state before the first step. */
export const initialState = ({ fields }: ScaleMachine): MachineState<number> =>
  Object.fromEntries(fields.map(({ name, initial }) => [name, initial]));

/** One transition of plain numbers. */
export function moveNumbers(
  machine: ScaleMachine,
  state: MachineState<number>,
  seen: { readonly finite: boolean; readonly largest?: number },
): { readonly state: MachineState<number>; readonly exhausted: boolean } {
  const scalars = machine.fields.map(({ name, dtype }) => [name, new Scalar(fieldOf(state, name), dtype)] as const);
  const finite = new Scalar(Number(seen.finite), "int32");
  const largest = seen.largest === undefined ? {} : { largest: new Scalar(seen.largest) };
  const moved = machine.next<Scalar>(Object.fromEntries(scalars), { finite, ...largest }, whereScalar);
  return {
    state: Object.fromEntries(machine.fields.map(({ name }) => [name, fieldOf(moved.state, name).value])),
    exhausted: moved.exhausted?.holds ?? false,
  };
}
