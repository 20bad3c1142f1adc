/** One parameter of an optimizer with its variables: how they are read as float32, and what a new weight and state make of them. */
import { BinadeError } from "../errors.ts";
import type { DType } from "../formats/index.ts";
import type { Shape } from "../ops/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Variable } from "../tensor/variable.ts";
import { STATE_FORMS, type StateDType, type StateForm, type StateSlot } from "./states.ts";
import { type MasterWeights, OWN_MASTER, type Slots, WEIGHT_FORMS, type WeightForm } from "./weights.ts";

/** Uniform numbers in [0, 1) of a shape: others for every stream, and in every step. */
export type Draw = (stream: number, shape: Shape) => Tensor;

/** How the variables of a parameter are kept. */
export interface StorageOptions {
  readonly masterWeights: MasterWeights;
  readonly stateDType: StateDType;
}

interface State {
  readonly slot: StateSlot;
  readonly form: StateForm;
  readonly parts: readonly Variable[];
}

/** Streams of one parameter: the first for its weight, the others for its state. */
const STREAMS = 16;

export class Entry {
  readonly parameter: Variable;
  readonly #write: (weight: Tensor, draw: () => Tensor) => { readonly stored: Tensor; readonly slots: Slots };
  readonly #read: (stored: Tensor, slots: Slots) => Tensor;
  readonly #outlivesOverflow: boolean;
  readonly #beside: ReadonlyMap<string, Variable>;
  readonly #states: readonly State[];
  readonly #stream: number;

  /**
   * @param owner name of the optimizer, for messages
   * @param position among the optimizer's parameters: separates their random numbers
   */
  constructor(
    owner: string,
    parameter: Variable,
    slots: readonly StateSlot[],
    options: StorageOptions,
    position: number,
  ) {
    const { name, dtype } = parameter;
    this.parameter = parameter;
    this.#stream = STREAMS * position;
    parameter.role = "parameter";
    if (dtype === "float32") {
      ({ read: this.#read, write: this.#write } = OWN_MASTER);
      this.#beside = new Map();
      this.#outlivesOverflow = false;
    } else if (dtype === "bfloat16" || dtype === "float16") {
      const form: WeightForm = WEIGHT_FORMS[options.masterWeights];
      requireDType(owner, parameter, options.masterWeights, form);
      this.#read = form.read;
      this.#outlivesOverflow = form.outlivesOverflow;
      this.#write = (weight, draw) => form.write(weight, dtype, draw);
      this.#beside = new Map(form.slots.map((slot) => [slot.name, this.#variable(slot.name, slot.dtype(dtype))]));
      for (const { name: slot, initial } of form.slots) {
        if (initial !== undefined) this.#beside.get(slot)?.assign(initial(parameter.read()));
      }
    } else {
      const sentence = `${owner}: parameter ${name} is ${dtype}, expected float32, bfloat16 or float16`;
      throw new BinadeError("dtype.unsupported", `${sentence}; leave it out or make it float32`);
    }
    this.#states = slots.map((slot) => this.#state(slot, STATE_FORMS[options.stateDType]));
  }

  #variable(suffix: string, dtype: DType): Variable {
    const { name, shape, device } = this.parameter;
    const made = new Variable(`${name}.${suffix}`, shape, dtype, undefined, device);
    made.role = "master";
    return made;
  }

  #state(slot: StateSlot, wanted: StateForm): State {
    const { name, device } = this.parameter;
    const form = wanted.takes(slot.shape) ? wanted : STATE_FORMS.float32;
    const parts = form.parts(slot).map(({ suffix, dtype, shape, initial }) => {
      const path = suffix === "" ? slot.name : `${slot.name}.${suffix}`;
      const made = new Variable(`${name}.${path}`, shape, dtype, initial, device);
      made.role = "optimizerState";
      return made;
    });
    return { slot, form, parts };
  }

  /** Masters and what stands for them, then the state: everything that a checkpoint must hold besides the parameter. */
  variables(): readonly Variable[] {
    return [...this.#beside.values(), ...this.#states.flatMap(({ parts }) => parts)];
  }

  /** The weight in float32, as exactly as it is kept. */
  weight(): Tensor {
    return this.#read(this.parameter.read(), readAll(this.#beside));
  }

  /** The state in float32, by slot. */
  state(): Slots {
    return Object.fromEntries(
      this.#states.map(({ slot, form, parts }) => [
        slot.name,
        form.read(
          parts.map((part) => part.read()),
          slot,
        ),
      ]),
    );
  }

  /** The new value of every variable of this parameter; state that `slots` leaves out stays. */
  updates(weight: Tensor, slots: Slots, draw: Draw): readonly (readonly [Variable, Tensor])[] {
    const { stored, slots: beside } = this.#write(weight, () => draw(this.#stream, this.parameter.shape));
    const masters = [...this.#beside].map(([name, variable]) => [variable, beside[name] ?? variable.read()] as const);
    const states = this.#states.flatMap(({ slot, form, parts }, i) => {
      const value = slots[slot.name];
      if (value === undefined) return [];
      const written = form.write(value, slot, () => draw(this.#stream + 1 + i, slot.shape));
      return parts.map((part, k) => [part, written[k] ?? part.read()] as const);
    });
    return [[this.parameter, stored], ...masters, ...states];
  }

  /**
   * How many elements of the parameter are infinite or NaN although the float32 weight behind them is finite: a float32 scalar.
   * Where no such weight outlives an overflow, all that are not finite.
   */
  overflowed(): Tensor {
    const lost = this.parameter.read().isFinite().not();
    return (this.#outlivesOverflow ? lost.and(this.weight().isFinite()) : lost).cast("float32").sum();
  }
}

const readAll = (variables: ReadonlyMap<string, Variable>): Slots =>
  Object.fromEntries([...variables].map(([name, variable]) => [name, variable.read()]));

function requireDType(owner: string, { name, dtype }: Variable, chosen: MasterWeights, { dtypes }: WeightForm): void {
  if (dtypes.some((one) => one === dtype)) return;
  const others = Object.entries<WeightForm>(WEIGHT_FORMS).filter(([, form]) =>
    form.dtypes.some((one) => one === dtype),
  );
  const choices = others.map(([key]) => JSON.stringify(key)).join(", ");
  throw new BinadeError(
    "option.invalid",
    `${owner}: masterWeights ${JSON.stringify(chosen)} is for ${dtypes.join(" and ")}, parameter ${name} is ${dtype}; choose ${choices}, or make the parameter ${dtypes[0]}`,
  );
}
