/** A loss scale on the device: its state as variables, and the machine's transition run on tensors. */
import { BinadeError } from "../errors.ts";
import { countingMachine } from "../precision/lossScale.ts";
import { fieldOf, type MachineState, type ScaleMachine, type Seen } from "../precision/scaleMachine.ts";
import type { LossScaleRule } from "../precision/scalePresets.ts";
import { where } from "../tensor/functions.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";

/**
 * The machine that counts clean steps, for devices: bit for bit `nextLossScale` where float32 holds both factors (2, 0.5, 1.5,
 * 0.75, …); others, such as 1.1, are rounded to float32 first.
 */
export const deviceMachine = (rule: LossScaleRule): ScaleMachine =>
  countingMachine({
    ...rule,
    growthFactor: Math.fround(rule.growthFactor),
    backoffFactor: rule.backoffFactor === null ? null : Math.fround(rule.backoffFactor),
  });

/** The variables of a moving scale, by field. */
export class ScaleVariables {
  readonly #variables: ReadonlyMap<string, Variable>;

  constructor({ fields }: ScaleMachine) {
    this.#variables = new Map(
      fields.map(({ name, dtype, initial }) => {
        const values = dtype === "float32" ? new Float32Array([initial]) : new Int32Array([initial]);
        return [name, new Variable(`lossScale.${name}`, [], dtype, values)];
      }),
    );
  }

  get scale(): Variable {
    return this.#variables.get("scale") as Variable;
  }

  /** By variable name, for checkpoints. */
  named(): ReadonlyMap<string, Variable> {
    return new Map([...this.#variables.values()].map((variable) => [variable.name, variable]));
  }

  read(): MachineState<Tensor> {
    return Object.fromEntries([...this.#variables].map(([name, variable]) => [name, variable.read()]));
  }

  /** Assigns the next state; the condition under which the run is over, if the machine has one. */
  move(machine: ScaleMachine, seen: Seen<Tensor>): Tensor | null {
    const { state, exhausted } = machine.next<Tensor>(this.read(), seen, where);
    for (const [name, variable] of this.#variables) variable.assign(fieldOf(state, name));
    return exhausted;
  }

  /** The stored values, by field. */
  async values(): Promise<MachineState<number>> {
    const entries = [...this.#variables].map(async ([name, v]) => [name, Number(await v.read().item())] as const);
    return Object.fromEntries(await Promise.all(entries));
  }

  /**
   * Overwrites every field; all are checked before any is written.
   *
   * @throws BinadeError `scaler.state` unless `saved` has a number for every field, an integer ≥ 0 for the counters.
   */
  async load(saved: MachineState<number>): Promise<void> {
    const writes = [...this.#variables].map(
      ([name, variable]) => [variable, bytesOf(variable, name, saved[name])] as const,
    );
    for (const [variable, bytes] of writes) await variable.load(bytes);
  }
}

function bytesOf(variable: Variable, name: string, value: number | undefined): Uint8Array {
  const isInteger = variable.dtype === "int32";
  const fits = isInteger
    ? Number.isInteger(value) && Number(value) >= 0 && Number(value) < 2 ** 31
    : typeof value === "number";
  if (!fits) {
    const expected = isInteger ? "an integer ≥ 0" : "a number";
    const sentence = `load: ${name}: expected ${expected}, got ${String(value)}`;
    throw new BinadeError("scaler.state", `${sentence}; load what state() of the same kind of scaler returned`);
  }
  const words = isInteger ? new Int32Array([Number(value)]) : new Float32Array([Number(value)]);
  return new Uint8Array(words.buffer);
}
