/** Pooling and resampling → words: the taps of both axes as tables, and where the planes lie. */
import type { Kernel, Operand } from "../../compile/program.ts";
import { invariant } from "../../errors.ts";
import { describe, type Node } from "../../ir/graph.ts";
import type { Attributes } from "../../ops/define.ts";
import { isContiguous, sizeOf } from "../../ops/shape.ts";
import { type TapAxis, tapAxes, tapsInside, tapTable } from "../../ops/taps.ts";
import { PLANE_CORES } from "./abi.ts";
import { dtypeCode, floatBits, reference, type Word } from "./words.ts";

const ABSENT: readonly Word[] = [-1, -1, 0];

const arrayWords = (operand: Operand | undefined): readonly Word[] =>
  operand === undefined ? ABSENT : [dtypeCode(operand.buffer.dtype), ...reference(operand)];

/** The axis before the last one of what has one axis only. */
const SINGLE: TapAxis = {
  kind: "window",
  input: 1,
  output: 1,
  size: 1,
  stride: 1,
  padding: 0,
  dilation: 1,
  scale: 0,
  aligned: 0,
};

function axisWords(axis: TapAxis, { divide }: Attributes): readonly Word[] {
  const { count, positions, weights } = tapTable(axis);
  const inside = divide === "taps" ? tapsInside(axis) : null;
  const divisor = divide === "size" ? axis.size : 1;
  return [
    axis.input,
    axis.output,
    count,
    ...positions,
    ...(weights ?? positions.map(() => 1)).map(floatBits),
    ...Array.from({ length: axis.output }, (_, o) => floatBits(inside?.[o] ?? divisor)),
  ];
}

/** The words of a kernel over planes: see `plane` in abi.ts. */
export function planeWords(kernel: Kernel): readonly Word[] {
  const [core] = kernel.cores;
  invariant(core !== undefined && core.op.kind === "composite", () => "a kernel over planes has no core");
  const name = core.op.native?.core as (typeof PLANE_CORES)[number];
  const axes = tapAxes(core.attributes);
  const [rows, columns] = [SINGLE, ...axes].slice(-2) as [TapAxis, TapAxis];
  const planes = sizeOf(core.shape.slice(0, core.shape.length - axes.length));
  const read = (node: Node | undefined): Operand | undefined => {
    const operand = node === undefined ? undefined : kernel.reads.get(node);
    invariant(operand === undefined || isContiguous(operand.view), () => `${describe(core)} reads strided planes`);
    return operand;
  };
  const written = (result: number): Operand | undefined =>
    kernel.writes.find(({ node }) => node.op.kind === "composite" && node.op.native?.result === result)?.operand;
  return [
    PLANE_CORES.indexOf(name),
    planes,
    ...axisWords(rows, core.attributes),
    ...axisWords(columns, core.attributes),
    ...[read(core.inputs[0]), read(core.inputs[1]), written(0), written(1)].flatMap(arrayWords),
  ];
}
