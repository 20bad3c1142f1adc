/** How a parameter's float32 weight is kept: a row for every form, which the optimizer asks for its columns. */
import type { DType, HalfDType } from "../formats/index.ts";
import { build } from "../ir/graph.ts";
import { Tensor } from "../tensor/tensor.ts";

/** Values by the name of a variable. */
export type Slots = Readonly<Record<string, Tensor>>;

/** A variable that is kept beside the parameter, with its shape. */
export interface WeightSlot {
  /** Follows the parameter's name and a dot. */
  readonly name: string;
  /** Of the variable, by that of the parameter. */
  readonly dtype: (parameter: HalfDType) => DType;
  /** First value from the stored parameter; without it, zeros. */
  readonly initial?: (stored: Tensor) => Tensor;
}

/** One way to keep a float32 weight of which the parameter holds 16 bits. */
export interface WeightForm {
  /** dtypes of parameters that it is for. */
  readonly dtypes: readonly HalfDType[];
  readonly slots: readonly WeightSlot[];
  /** Whether the float32 weight is kept where the stored one has become infinite. */
  readonly outlivesOverflow: boolean;
  /** The float32 weight that the update starts from. */
  readonly read: (stored: Tensor, slots: Slots) => Tensor;
  /** What the new float32 weight is stored as. `draw` gives uniform numbers of the weight's shape, others in every step. */
  readonly write: (
    weight: Tensor,
    dtype: HalfDType,
    draw: () => Tensor,
  ) => { readonly stored: Tensor; readonly slots: Slots };
}

const BOTH: readonly HalfDType[] = ["bfloat16", "float16"];
const widened = (stored: Tensor): Tensor => stored.cast("float32");

/** x (float32) rounded to bfloat16 up or down at random, by `draw`. */
export const roundedStochastically = (x: Tensor, draw: () => Tensor): Tensor =>
  new Tensor(build.composite("roundStochastic", [x.node, draw().node]));

export const WEIGHT_FORMS = {
  /** A float32 master of which the parameter is the rounded copy: 4 bytes more. */
  float32: {
    dtypes: BOTH,
    slots: [{ name: "master", dtype: () => "float32", initial: widened }],
    outlivesOverflow: true,
    read: (_, { master }) => master as Tensor,
    write: (weight, dtype) => ({ stored: weight.cast(dtype), slots: { master: weight } }),
  },
  /**
   * The lower 16 bits of the float32 master, whose upper ones are the parameter: 2 bytes more, nothing lost. Megatron and
   * Transformer Engine call them the remainder.
   */
  split: {
    dtypes: ["bfloat16"],
    slots: [{ name: "remainder", dtype: () => "int16" }],
    outlivesOverflow: true,
    read: (stored, { remainder }) =>
      new Tensor(build.composite("splitJoin", [stored.node, (remainder as Tensor).node])),
    write: (weight) => ({
      stored: new Tensor(build.composite("splitUpper", [weight.node])),
      slots: { remainder: new Tensor(build.composite("splitLower", [weight.node])) },
    }),
  },
  /** Nothing: updates round up or down at random, and are kept on average. */
  stochastic: {
    dtypes: ["bfloat16"],
    slots: [],
    outlivesOverflow: false,
    read: widened,
    write: (weight, _, draw) => ({ stored: roundedStochastically(weight, draw), slots: {} }),
  },
  /**
   * What rounding took away, in the parameter's dtype: 2 bytes more, updates down to 2⁻¹⁷ of a weight kept. Kahan's sum with the
   * pending correction in 16 bits: stored + compensation is the weight, to 16 (float16: 22) bits.
   */
  kahan: {
    dtypes: BOTH,
    slots: [{ name: "compensation", dtype: (parameter) => parameter }],
    outlivesOverflow: false,
    read: (stored, { compensation }) => widened(stored).add(widened(compensation as Tensor)),
    write: (weight, dtype) => {
      const stored = weight.cast(dtype);
      return { stored, slots: { compensation: weight.sub(widened(stored)).cast(dtype) } };
    },
  },
  /** Nothing: updates below half a spacing of the parameter's dtype are lost. */
  none: {
    dtypes: BOTH,
    slots: [],
    outlivesOverflow: false,
    read: widened,
    write: (weight, dtype) => ({ stored: weight.cast(dtype), slots: {} }),
  },
} as const satisfies Readonly<Record<string, WeightForm>>;

/** How the float32 weight of a 16-bit parameter is kept. */
export type MasterWeights = keyof typeof WEIGHT_FORMS;
export const MASTER_WEIGHTS = Object.keys(WEIGHT_FORMS) as MasterWeights[];

/** A float32 parameter is its own master, whatever the form. */
export const OWN_MASTER = {
  slots: [],
  read: (stored: Tensor): Tensor => stored,
  write: (weight: Tensor): { readonly stored: Tensor; readonly slots: Slots } => ({ stored: weight, slots: {} }),
} as const;
