/** Convolution kernels in words. */
import type { Kernel } from "../../compile/program.ts";
import { invariant } from "../../errors.ts";
import { describe, type Node } from "../../ir/graph.ts";
import { type ConvolutionGeometry, geometryOf } from "../../ops/convolution.ts";
import { extent } from "../../ops/shape.ts";
import { CONVOLUTION_FORMS } from "./abi.ts";
import { Evaluator, evaluateAll, inputOf, packedOperand } from "./evaluator.ts";
import { domainWords, dtypeCode, reference, type Word } from "./words.ts";

export function convolution(kernel: Kernel): readonly Word[] {
  const [core] = kernel.cores;
  invariant(
    core?.op.kind === "composite" && core.op.native !== undefined,
    () => `a kernel of kind ${kernel.kind} has no core`,
  );
  const form = CONVOLUTION_FORMS.indexOf(core.op.native.core as (typeof CONVOLUTION_FORMS)[number]);
  const shapes = [inputOf(core, 0).shape, inputOf(core, 1).shape, core.shape];
  const [x, w] =
    [
      [0, 1],
      [2, 1],
      [0, 2],
    ][form]?.map((i) => shapes[i] ?? []) ?? [];
  const geometry = geometryOf(x ?? [], w ?? [], core.attributes);
  const epilogue = new Evaluator(kernel, core.shape);
  for (const node of kernel.cores) epilogue.set(node, epilogue.vm.round(epilogue.vm.loadRowBuffer(0), node.dtype));
  evaluateAll(epilogue, kernel.epilogue, kernel.writes, kernel.cores);
  return [
    form,
    geometry.batch,
    geometry.groups,
    geometry.channels,
    geometry.outputs,
    ...axes(geometry),
    ...[0, 1].flatMap((i) => image(kernel, core, i)),
    ...domainWords(core.shape),
    ...epilogue.vm.words(),
  ];
}

/** One row of pixels, over which a convolution along one axis runs. */
const SINGLE: readonly Word[] = [1, 1, 1, 1, 1, 0, 0];

function axes({ axes, input, before, after, output }: ConvolutionGeometry): readonly Word[] {
  const words = axes.flatMap(({ size, stride, dilation }, i) => [
    extent(input, i),
    extent(output, i),
    size,
    stride,
    dilation,
    extent(before, i),
    extent(after, i),
  ]);
  return axes.length === 1 ? [...SINGLE, ...words] : words;
}

/** An operand's memory; columns are neighbours. */
function image(kernel: Kernel, core: Node, i: number): readonly Word[] {
  const { operand, format } = packedOperand(kernel, core, i);
  const { shape, strides } = operand.view;
  const last = shape.length - 1;
  invariant(shape[last] === 1 || strides[last] === 1, () => `operand ${i} of ${describe(core)} has rows with gaps`);
  const rows = shape.length === 4 ? extent(strides, 2) : 0;
  return [
    dtypeCode(operand.buffer.dtype),
    dtypeCode(format),
    ...reference(operand),
    extent(strides, 0),
    extent(strides, 1),
    rows,
  ];
}
