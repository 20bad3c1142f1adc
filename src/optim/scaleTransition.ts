/** A loss scale on the device: its state as variables, and the machine's transition run on tensors. */
import { BinadeError } from "../errors.ts";
import { countingMachine } from "../precision/lossScale.ts";
import { fieldOf, type MachineState, type ScaleMachine, type Seen } from "../precision/scaleMachine.ts";
import type { LossScaleRule } from "../precision/scalePresets.ts";
import type { Device } from "../tensor/device.ts";
import { defaultDevice } from "../tensor/devices.ts";
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

  /** @param prefix begins the names */
  constructor({ fields }: ScaleMachine, prefix = "", device: Device = defaultDevice()) {
    this.#variables = new Map(
      fields.map(({ name, dtype, initial }) => {
        const values = dtype === "float32" ? new Float32Array([initial]) : new Int32Array([initial]);
        return [name, new Variable(`${prefix}lossScale.${name}`, [], dtype, values, device)];
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

  /** Assigns the next state where `holds` (null: always); the condition under which the run is over, if the machine has one. */
  move(machine: ScaleMachine, seen: Seen<Tensor>, holds: Tensor | null = null): Tensor | null {
    const before = this.read();
    const { state, exhausted } = machine.next<Tensor>(before, seen, where);
    for (const [name, variable] of this.#variables) {
      const next = fieldOf(state, name);
      variable.assign(holds === null ? next : where(holds, next, fieldOf(before, name)));
    }
    return exhausted === null || holds === null ? exhausted : exhausted.and(holds);
  }

  /** The stored values, by field. */
  async values(): Promise<MachineState<number>> {
    const entries = [...this.#variables].map(async ([name, v]) => [name, Number(await v.read().item())] as const);
    return Object.fromEntries(await Promise.all(entries));
  }

  /**
   * Overwrites every field; all are checked before any is written.
   *
   * @throws BinadeError `scaler.state` as `wordsOf`.
   */
  async load(saved: MachineState<number>): Promise<void> {
    const writes = [...this.#variables].map(
      ([name, variable]) => [variable, wordsOf(name, variable.dtype === "int32", saved[name])] as const,
    );
    for (const [variable, words] of writes) await variable.load(new Uint8Array(words.buffer));
  }
}

/**
 * The machine whose first state is a saved one.
 *
 * @throws BinadeError `scaler.state` as `wordsOf`.
 */
export const startingFrom = (machine: ScaleMachine, saved: MachineState<number>): ScaleMachine => ({
  ...machine,
  fields: machine.fields.map((field) => {
    const [initial = field.initial] = wordsOf(field.name, field.dtype === "int32", saved[field.name]);
    return { ...field, initial };
  }),
});

/** A saved number as its variable stores it; `scaler.state` unless it is a number, of counters an integer ≥ 0. */
function wordsOf(name: string, isInteger: boolean, value: number | undefined): Float32Array | Int32Array {
  const fits = isInteger
    ? Number.isInteger(value) && Number(value) >= 0 && Number(value) < 2 ** 31
    : typeof value === "number";
  if (!fits) {
    const expected = isInteger ? "an integer ≥ 0" : "a number";
    const sentence = `load: ${name}: expected ${expected}, got ${String(value)}`;
    throw new BinadeError("scaler.state", `${sentence}; load what state() of the same kind of scaler returned`);
  }
  return isInteger ? new Int32Array([Number(value)]) : new Float32Array([Number(value)]);
}
