/** Norms of channels → words: (outer, channels, inner) from the axes, arrays, and results or an epilogue. */
import type { Kernel, Operand } from "../../compile/program.ts";
import { invariant } from "../../errors.ts";
import { describe } from "../../ir/graph.ts";
import { channelLayout } from "../../ops/channel-norm.ts";
import { numberOf } from "../../ops/define.ts";
import { isContiguous } from "../../ops/shape.ts";
import { CHANNEL_CORES } from "./abi.ts";
import { Evaluator, evaluateAll, inputOf } from "./evaluator.ts";
import { domainWords, dtypeCode, floatBits, reference, type Word } from "./words.ts";

const ABSENT: readonly Word[] = [-1, -1, 0];

const arrayWords = (operand: Operand | undefined): readonly Word[] =>
  operand === undefined ? ABSENT : [dtypeCode(operand.buffer.dtype), ...reference(operand)];

/** The words of a kernel over channels: see `channel` in abi.ts. */
export function channelWords(kernel: Kernel): readonly Word[] {
  const [core] = kernel.cores;
  invariant(
    core?.op.kind === "composite" && core.op.native !== undefined,
    () => `a kernel of kind ${kernel.kind} has no core`,
  );
  const { attributes } = core;
  const { outer, channels, inner } = channelLayout(inputOf(core, 0).shape, attributes);
  const inputs = core.inputs.map((node) => {
    const operand = kernel.reads.get(node);
    invariant(operand !== undefined && isContiguous(operand.view), () => `${describe(core)} reads strided channels`);
    return operand;
  });
  const head = [
    CHANNEL_CORES.indexOf(core.op.native.core as (typeof CHANNEL_CORES)[number]),
    outer,
    channels,
    inner,
    floatBits("eps" in attributes ? numberOf(attributes, "eps") : 0),
    ...inputs.flatMap(arrayWords),
  ];
  if (kernel.kind === "channelStatistic") {
    const results = [0, 1].map(
      (result) =>
        kernel.writes.find(({ node }) => node.op.kind === "composite" && node.op.native?.result === result)?.operand,
    );
    return [...head, ...results.flatMap(arrayWords)];
  }
  const epilogue = new Evaluator(kernel, core.shape);
  epilogue.set(core, epilogue.vm.round(epilogue.vm.loadRowBuffer(0), core.dtype));
  evaluateAll(epilogue, kernel.epilogue, kernel.writes, kernel.cores);
  return [...head, ...domainWords(core.shape), ...epilogue.vm.words()];
}
