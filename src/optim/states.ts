/** How an optimizer's state is kept: a row for every form, which the optimizer asks for its columns. */
import type { DType } from "../formats/index.ts";
import { build } from "../ir/graph.ts";
import { zeroCode } from "../ops/dynamic-map.ts";
import { type Shape, sizeOf } from "../ops/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Initial } from "../tensor/variable.ts";
import { roundedStochastically } from "./weights.ts";

/** A part of an optimizer's state of one parameter. */
export interface StateSlot {
  readonly name: string;
  readonly shape: Shape;
  /** Whether it can be negative. */
  readonly signed: boolean;
}

/** A variable in which a slot, or a part of it, is stored. */
export interface StatePart {
  /** Follows the slot's name and a dot; empty for the whole slot. */
  readonly suffix: string;
  readonly dtype: DType;
  readonly shape: Shape;
  /** Default zeros. */
  readonly initial?: Initial;
}

/** One way to store a slot, whose value is float32 while the update runs. */
export interface StateForm {
  /** Whether slots of this shape are kept so; others are float32. */
  readonly takes: (shape: Shape) => boolean;
  readonly parts: (slot: StateSlot) => readonly StatePart[];
  readonly read: (parts: readonly Tensor[], slot: StateSlot) => Tensor;
  /** `draw` gives uniform numbers of the slot's shape, others in every step. */
  readonly write: (value: Tensor, slot: StateSlot, draw: () => Tensor) => readonly Tensor[];
}

/** Elements that share a scale, and the fewest elements of a slot that is kept in 8 bits: torchao's. */
export const BLOCK = 256;
const LEAST_BLOCKWISE = 4096;
/** Least scale of a block: torchao's. A block of zeros stays zeros. */
const LEAST_SCALE = 1e-12;

const blocksOf = (shape: Shape): number => sizeOf(shape) / BLOCK;

const single =
  (dtype: DType): StateForm["parts"] =>
  ({ shape }) => [{ suffix: "", dtype, shape }];
const first = (parts: readonly Tensor[]): Tensor => parts[0] as Tensor;

export const STATE_FORMS = {
  /** 4 bytes, as it is. */
  float32: {
    takes: () => true,
    parts: single("float32"),
    read: first,
    write: (value) => [value],
  },
  /**
   * bfloat16, rounded stochastically: 2 bytes. To nearest, a second moment would never fall: it decays by 0.1 % a step, and half a
   * spacing is 0.195 % at least.
   */
  bfloat16: {
    takes: () => true,
    parts: single("bfloat16"),
    read: (parts) => first(parts).cast("float32"),
    write: (value, _, draw) => [roundedStochastically(value, draw)],
  },
  /** Codes of 8 bits and a float32 scale for every 256 elements: 1.02 bytes. */
  "int8-blockwise": {
    takes: (shape) => sizeOf(shape) >= LEAST_BLOCKWISE && sizeOf(shape) % BLOCK === 0,
    parts: ({ shape, signed }) => [
      {
        suffix: "codes",
        dtype: "uint8",
        shape: [blocksOf(shape), BLOCK],
        initial: () => new Uint8Array(sizeOf(shape)).fill(zeroCode(signed)),
      },
      { suffix: "scales", dtype: "float32", shape: [blocksOf(shape), 1] },
    ],
    read: ([codes, scales], { shape, signed }) => {
      const values = new Tensor(build.composite("dequantizeDynamic", [(codes as Tensor).node], { signed }));
      return values.mul(scales as Tensor).reshape(shape);
    },
    write: (value, { shape, signed }) => {
      const blocks = value.reshape([blocksOf(shape), BLOCK]);
      const scales = blocks.abs().max({ axes: 1, keepAxes: true }).maximum(LEAST_SCALE);
      return [new Tensor(build.composite("quantizeDynamic", [blocks.div(scales).node], { signed })), scales];
    },
  },
} as const satisfies Readonly<Record<string, StateForm>>;

/** How the moments of an optimizer are kept. */
export type StateDType = keyof typeof STATE_FORMS;
export const STATE_DTYPES = Object.keys(STATE_FORMS) as StateDType[];
