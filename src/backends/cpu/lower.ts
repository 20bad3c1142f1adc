/** Kernels → native kernels in words: one function per kind. */

import { operandDomain } from "../../compile/cluster.ts";
import type { Kernel, Operand, Program } from "../../compile/program.ts";
import { BinadeError, invariant } from "../../errors.ts";
import { byteSize } from "../../formats/index.ts";
import { describe, type Node } from "../../ir/graph.ts";
import { listOf, numberOf } from "../../ops/define.ts";
import { contiguousView, extent, isContiguous, rowMajor, type Shape, sameView, sizeOf } from "../../ops/shape.ts";
import { ABI_VERSION, COMBINES, KERNELS, ROW_CORES } from "./abi.ts";
import { Evaluator, evaluateAll, inputOf, oldestFirst, packedOperand } from "./evaluator.ts";
import { channelWords } from "./lower-channel.ts";
import { convolution } from "./lower-convolution.ts";
import { planeWords } from "./plane.ts";
import { VmBuilder } from "./vm.ts";
import { domainWords, dtypeCode, floatBits, reference, toWords, type Word } from "./words.ts";

/** The words of a program, and for every native kernel the position of the kernel that it belongs to. */
export interface Lowered {
  readonly words: BigInt64Array;
  readonly kernelOf: readonly number[];
}

export function lowerProgram(program: Program): Lowered {
  const kernels: { code: Word; payload: readonly Word[] }[] = [];
  const kernelOf: number[] = [];
  let commitFrom = 0;
  program.kernels.forEach((kernel, i) => {
    if (i === program.commitFrom) commitFrom = kernels.length;
    for (const native of lowerKernel(kernel)) {
      kernels.push({ code: KERNELS.indexOf(native.kind), payload: native.payload });
      kernelOf.push(i);
    }
  });
  if (program.commitFrom >= program.kernels.length) commitFrom = kernels.length;
  const body = kernels.flatMap(({ code, payload }) => [code, payload.length, ...payload]);
  return {
    words: toWords([
      ABI_VERSION,
      program.arenaByteLength,
      program.bindings.length,
      kernels.length,
      commitFrom,
      ...body,
    ]),
    kernelOf,
  };
}

interface NativeKernel {
  readonly kind: (typeof KERNELS)[number];
  readonly payload: readonly Word[];
}

function lowerKernel(kernel: Kernel): readonly NativeKernel[] {
  // Kernels over nothing write nothing, but indices into nothing are still faults.
  if (kernel.kind !== "index" && kernel.writes.every(({ node }) => sizeOf(node.shape) === 0)) return [];
  switch (kernel.kind) {
    case "pointwise":
      return [{ kind: "pointwise", payload: pointwise(kernel) }];
    case "reduce":
      return [{ kind: "reduce", payload: reduce(kernel) }];
    case "magnitudes":
      return [{ kind: "magnitudes", payload: magnitudes(kernel) }];
    case "row":
      return [{ kind: "row", payload: row(kernel) }];
    case "contraction":
      return [{ kind: "matmul", payload: contraction(kernel) }];
    case "placement":
      return placement(kernel);
    case "index":
      return [index(kernel)];
    case "plane":
      return [{ kind: "plane", payload: planeWords(kernel) }];
    case "channelStatistic":
    case "channelMap":
      return [{ kind: "channel", payload: channelWords(kernel) }];
    case "convolution":
      return [{ kind: "convolution", payload: convolution(kernel) }];
    case "attention":
    case "attentionBackward":
      return [{ kind: kernel.kind, payload: attention(kernel) }];
  }
}

function pointwise(kernel: Kernel): readonly Word[] {
  const evaluator = new Evaluator(kernel, kernel.domain);
  evaluateAll(evaluator, kernel.epilogue, kernel.writes);
  return [...domainWords(evaluator.vm.domain), ...evaluator.vm.words()];
}

function coreOf(kernel: Kernel): Node {
  const [core] = kernel.cores;
  invariant(core !== undefined, () => `a kernel of kind ${kernel.kind} has no core`);
  return core;
}

/** Kept axes first, then reduced ones; at least one of each, of extent 1 where the reduction has none. */
function reduce(kernel: Kernel): readonly Word[] {
  const core = coreOf(kernel);
  const axes = listOf(core.attributes, "axes");
  const from = inputOf(core, 0).shape;
  const kept = from.map((_, i) => i).filter((i) => !axes.includes(i));
  const lead = kept.length > 0 ? 0 : 1;
  const natural = [...(lead === 0 ? [] : [1]), ...from, ...(axes.length > 0 ? [] : [1])];
  const order = [...(lead === 0 ? kept : [0]), ...(axes.length > 0 ? axes.map((a) => a + lead) : [natural.length - 1])];
  const prologue = new Evaluator(kernel, natural, order);
  for (const node of oldestFirst(kernel.prologue)) prologue.evaluate(node);
  kernel.cores.forEach((node, i) => prologue.vm.storeRowBuffer(prologue.value(inputOf(node, 0)), i));
  for (const write of kernel.writes) if (kernel.prologue.has(write.node)) prologue.store(write);
  const epilogue = new Evaluator(kernel, kernel.domain.length === 0 ? [1] : kernel.domain);
  kernel.cores.forEach((node, i) => epilogue.set(node, epilogue.vm.round(epilogue.vm.loadRowBuffer(i), node.dtype)));
  evaluateAll(epilogue, kernel.epilogue, kernel.writes, kernel.cores);
  const keptRank = Math.max(1, kept.length);
  const lastIsReduced = order[order.length - 1] === natural.length - 1;
  return [
    ...domainWords(prologue.vm.domain),
    keptRank,
    lastIsReduced ? 0 : 1,
    kernel.cores.length,
    ...kernel.cores.map(combineCode),
    ...prologue.vm.words(),
    ...epilogue.vm.words(),
  ];
}

function combineCode(core: Node): Word {
  const { op } = core;
  invariant(op.kind === "reduce", () => `${describe(core)} is not a reduction`);
  const dtype = inputOf(core, 0).dtype;
  const integer = dtype === "int32" || dtype === "uint32";
  if (integer && op.combine !== "sum") {
    throw new BinadeError(
      "dtype.unsupported",
      `${op.name}: the cpu device reduces ${dtype} by sums only; cast to float32 (exact up to 2^24)`,
    );
  }
  return COMBINES.indexOf(integer ? "sumInt" : op.combine);
}

function magnitudes(kernel: Kernel): readonly Word[] {
  const core = coreOf(kernel);
  const counts = kernel.writes.find(({ node }) => node === core);
  invariant(counts !== undefined, () => `${describe(core)} is not stored`);
  const prologue = new Evaluator(kernel, inputOf(core, 0).shape);
  evaluateAll(prologue, kernel.prologue, kernel.writes);
  prologue.vm.storeRowBuffer(prologue.value(inputOf(core, 0)), 0);
  return [...domainWords(prologue.vm.domain), ...prologue.vm.words(), ...reference(counts.operand)];
}

/** Parameters that are float32 bits, by core. */
const FLOAT_PARAMETERS: Readonly<Record<string, readonly number[]>> = {
  normalize: [0],
  attention: [0],
  attentionBackward: [0],
};

function parametersOf(core: Node): readonly Word[] {
  const { op, attributes } = core;
  if (op.kind !== "composite" || op.native === undefined) return [];
  const floats = FLOAT_PARAMETERS[op.native.core] ?? [];
  return (op.native.parameters?.(attributes) ?? []).map((v, i) => (floats.includes(i) ? floatBits(v) : v));
}

const nativeOf = (core: Node): { core: string; result: number } => {
  const { op } = core;
  invariant(op.kind === "composite" && op.native !== undefined, () => `${describe(core)} has no native core`);
  return op.native;
};

function row(kernel: Kernel): readonly Word[] {
  const core = coreOf(kernel);
  const native = nativeOf(core);
  const domain = operandDomain(core);
  const prologue = new Evaluator(kernel, domain);
  for (const node of oldestFirst(kernel.prologue)) prologue.evaluate(node);
  core.inputs.forEach((input, i) => prologue.vm.storeRowBuffer(prologue.value(input), i));
  for (const write of kernel.writes) if (kernel.prologue.has(write.node)) prologue.store(write);
  const epilogue = new Evaluator(kernel, domain);
  for (const node of kernel.cores) {
    const register = epilogue.vm.loadRowBuffer(core.inputs.length + nativeOf(node).result);
    epilogue.set(node, epilogue.vm.round(register, node.dtype));
  }
  evaluateAll(epilogue, kernel.epilogue, kernel.writes, kernel.cores);
  const parameters = parametersOf(core);
  const outputs = native.core === "normalize" ? 2 : 1;
  return [
    ...domainWords(prologue.vm.domain),
    ROW_CORES.indexOf(native.core as (typeof ROW_CORES)[number]),
    parameters.length,
    ...parameters,
    core.inputs.length,
    outputs,
    ...prologue.vm.words(),
    ...epilogue.vm.words(),
  ];
}

function contraction(kernel: Kernel): readonly Word[] {
  const core = coreOf(kernel);
  const [m, n] = [extent(core.shape, core.shape.length - 2), extent(core.shape, core.shape.length - 1)];
  const k = extent(inputOf(core, 0).shape, core.shape.length - 1);
  const operands = [0, 1].map((i) => packedOperand(kernel, core, i));
  const batchShape = core.shape.slice(0, -2);
  const words = operands.flatMap(({ operand, format }) => {
    const { strides } = operand.view;
    return [
      dtypeCode(operand.buffer.dtype),
      dtypeCode(format),
      ...reference(operand),
      extent(strides, strides.length - 2),
      extent(strides, strides.length - 1),
    ];
  });
  const offsets = operands.flatMap(({ operand }) => batchOffsets(batchShape, operand.view.strides));
  const epilogue = new Evaluator(kernel, core.shape);
  epilogue.set(core, epilogue.vm.round(epilogue.vm.loadRowBuffer(0), core.dtype));
  evaluateAll(epilogue, kernel.epilogue, kernel.writes, kernel.cores);
  return [sizeOf(batchShape), m, n, k, ...words, ...offsets, ...domainWords(core.shape), ...epilogue.vm.words()];
}

function batchOffsets(batch: Shape, strides: readonly number[]): readonly Word[] {
  const rows = rowMajor(batch);
  return Array.from({ length: sizeOf(batch) }, (_, i) =>
    batch.reduce((sum, n, axis) => sum + (Math.floor(i / extent(rows, axis)) % n) * extent(strides, axis), 0),
  );
}

/**
 * A fill where boxes leave gaps, then one copy per operand that is not written in its place already; a movement that strides cannot
 * express is one copy.
 */
function placement(kernel: Kernel): readonly NativeKernel[] {
  const core = coreOf(kernel);
  const [write] = kernel.writes;
  invariant(write !== undefined, () => `${describe(core)} is not stored`);
  const { operand } = write;
  const { op } = core;
  if (op.kind !== "placement")
    return [copyInto(kernel, inputOf(core, 0), { ...operand, view: contiguousView(inputOf(core, 0).shape) })];
  const covered = core.inputs.reduce((sum, n) => sum + sizeOf(n.shape), 0) === sizeOf(core.shape);
  const starts = op.starts(core.inputs, core.attributes);
  const strides = rowMajor(core.shape);
  const copies = core.inputs.flatMap((input, i) => {
    if (sizeOf(input.shape) === 0) return [];
    const offset = (starts[i] ?? []).reduce((sum, s, axis) => sum + s * extent(strides, axis), 0);
    const to = { ...operand, view: { offset, shape: input.shape, strides } };
    const from = kernel.reads.get(input);
    return from !== undefined && isSamePlace(from, to) ? [] : [copyInto(kernel, input, to)];
  });
  return covered ? copies : [fillOf(core.shape, op.fill, operand), ...copies];
}

const isSamePlace = (a: Operand, b: Operand): boolean =>
  reference(a).join() === reference(b).join() && sameView(a.view, b.view);

function copyInto(kernel: Kernel, input: Node, to: Operand): NativeKernel {
  const evaluator = new Evaluator(kernel, input.shape);
  evaluator.store({ node: input, operand: to });
  return { kind: "pointwise", payload: [...domainWords(evaluator.vm.domain), ...evaluator.vm.words()] };
}

function fillOf(shape: Shape, value: number, to: Operand): NativeKernel {
  const size = sizeOf(shape);
  const vm = new VmBuilder([size]);
  vm.store(vm.constant(value, to.buffer.dtype), to, contiguousView([size]));
  return { kind: "pointwise", payload: [...domainWords([size]), ...vm.words()] };
}

function operandOf(kernel: Kernel, node: Node): Operand {
  const operand = kernel.reads.get(node);
  invariant(operand !== undefined, () => `${describe(node)} is not stored`);
  return operand;
}

function contiguous(kernel: Kernel, node: Node): Operand {
  const operand = operandOf(kernel, node);
  invariant(isContiguous(operand.view), () => `${describe(node)} is not contiguous`);
  return operand;
}

function index(kernel: Kernel): NativeKernel {
  const core = coreOf(kernel);
  const { op, attributes } = core;
  const [write] = kernel.writes;
  invariant(op.kind === "index" && write !== undefined, () => `${describe(core)} is not a stored lookup`);
  const [data, indices] = [inputOf(core, 0), inputOf(core, 1)];
  const gathers = op.direction === "gather";
  const table = gathers ? data.shape : core.shape;
  const axis = numberOf(attributes, "axis");
  const sizes = [
    sizeOf(table.slice(0, axis)),
    extent(table, axis),
    sizeOf(indices.shape),
    sizeOf(table.slice(axis + 1)),
  ];
  const indexWords = [dtypeCode(indices.dtype), ...reference(contiguous(kernel, indices))];
  const [from, to] = [reference(contiguous(kernel, data)), reference(write.operand)];
  if (gathers) return { kind: "gather", payload: [...sizes, byteSize(data.dtype), ...from, ...indexWords, ...to] };
  return {
    kind: "scatterAdd",
    payload: [...sizes, dtypeCode(data.dtype), ...from, ...indexWords, dtypeCode(core.dtype), ...to],
  };
}

const ABSENT_HEADS: readonly Word[] = [-1, 0, 0, 0, 0, 0];
const ABSENT: readonly Word[] = [-1, 0];

function heads(operand: Operand): readonly Word[] {
  const { strides } = operand.view;
  return [
    dtypeCode(operand.buffer.dtype),
    ...reference(operand),
    extent(strides, 0),
    extent(strides, 1),
    extent(strides, 2),
  ];
}

function attention(kernel: Kernel): readonly Word[] {
  const core = coreOf(kernel);
  const backward = kernel.kind === "attentionBackward";
  const from = backward ? 1 : 0;
  const [q, k, v] = [0, 1, 2].map((i) => inputOf(core, from + i)) as [Node, Node, Node];
  const written = (result: number): Operand | undefined =>
    kernel.writes.find((w) => nativeOf(w.node).result === result)?.operand;
  const [batch, queries, headCount, width] = q.shape;
  const sizes = [batch ?? 1, queries ?? 1, extent(k.shape, 1), headCount ?? 1, width ?? 1, ...parametersOf(core)];
  const inputs = [q, k, v].flatMap((node) => heads(operandOf(kernel, node)));
  if (!backward) {
    const [out, lse] = [written(0), written(1)];
    return [
      ...sizes,
      ...inputs,
      ...(out === undefined ? ABSENT_HEADS : heads(out)),
      ...(lse === undefined ? ABSENT : reference(lse)),
    ];
  }
  const [g, out, lse] = [0, 4, 5].map((i) => operandOf(kernel, inputOf(core, i))) as [Operand, Operand, Operand];
  const results = [0, 1, 2].map(written).flatMap((operand) => (operand === undefined ? ABSENT_HEADS : heads(operand)));
  return [...sizes, ...inputs, ...heads(out), ...reference(lse), ...heads(g), ...results];
}
