/** Builds programs for the native executor word by word, in the layout of abi.ts, without the compiler. */
import { ABI_VERSION, COMBINES, KERNELS, OPCODES, type Opcode, ROW_CORES } from "../../src/backends/cpu/abi.ts";
import { type Addon, loadAddon } from "../../src/backends/cpu/loader.ts";
import { type DType, FORMATS } from "../../src/formats/index.ts";

const loaded = loadAddon();

/** Why tests of the addon cannot run here; undefined where they can. */
export const skipReason: string | undefined = loaded.addon === null ? `${loaded.reason}; ${loaded.remedy}` : undefined;

/** The addon; only called where `skipReason` is undefined. */
export function addon(): Addon {
  if (loaded.addon === null) throw new Error(loaded.reason);
  return loaded.addon;
}

export const isas: readonly string[] = loaded.addon === null ? ["none"] : loaded.addon.supportedIsas();

export interface View {
  readonly binding: number;
  readonly dtype: DType;
  readonly strides: readonly number[];
  readonly byteOffset?: number;
}

/** A load or store of register `reg`: of a view, or of row buffer `buffer`. */
export type Access = { readonly reg: number; readonly view: View } | { readonly reg: number; readonly buffer: number };

export interface Vm {
  readonly registers: number;
  readonly loads: readonly Access[];
  readonly code: readonly (readonly [Opcode, ...number[]])[];
  readonly stores: readonly Access[];
}

export const refWords = (binding: number, byteOffset = 0): number[] => [binding, byteOffset];

const viewWords = (view: View): number[] => [
  FORMATS[view.dtype].code,
  ...refWords(view.binding, view.byteOffset),
  ...view.strides,
];

const accessWords = (access: Access): number[] =>
  "view" in access ? [access.reg, 0, ...viewWords(access.view)] : [access.reg, 1 + access.buffer];

/** Instructions are [opcode, dst, a, b, c, imm], missing operands 0. */
export function vmWords(vm: Vm): number[] {
  const code = vm.code.flatMap(([opcode, dst = 0, a = 0, b = 0, c = 0, imm = 0]) => [
    OPCODES[opcode],
    dst,
    a,
    b,
    c,
    imm,
  ]);
  return [
    vm.registers,
    vm.loads.length,
    ...vm.loads.flatMap(accessWords),
    vm.code.length,
    ...code,
    vm.stores.length,
    ...vm.stores.flatMap(accessWords),
  ];
}

export const domainWords = (extents: readonly number[]): number[] => [extents.length, ...extents];

export function kernelWords(name: (typeof KERNELS)[number], payload: readonly number[]): number[] {
  return [KERNELS.indexOf(name), payload.length, ...payload];
}

export const pointwise = (extents: readonly number[], vm: Vm): number[] =>
  kernelWords("pointwise", [...domainWords(extents), ...vmWords(vm)]);

export interface Reduction {
  readonly extents: readonly number[];
  readonly keptRank: number;
  readonly vectorAxis: 0 | 1;
  readonly combines: readonly (typeof COMBINES)[number][];
  readonly prologue: Vm;
  readonly epilogue: Vm;
}

export function reduce(r: Reduction): number[] {
  const combines = r.combines.map((combine) => COMBINES.indexOf(combine));
  return kernelWords("reduce", [
    ...domainWords(r.extents),
    ...[r.keptRank, r.vectorAxis, combines.length, ...combines],
    ...vmWords(r.prologue),
    ...vmWords(r.epilogue),
  ]);
}

export interface RowKernel {
  readonly extents: readonly number[];
  readonly core: (typeof ROW_CORES)[number];
  readonly parameters: readonly number[];
  readonly inputs: number;
  readonly outputs: number;
  readonly prologue: Vm;
  readonly epilogue: Vm;
}

export const row = (r: RowKernel): number[] =>
  kernelWords("row", [
    ...domainWords(r.extents),
    ...[ROW_CORES.indexOf(r.core), r.parameters.length, ...r.parameters, r.inputs, r.outputs],
    ...vmWords(r.prologue),
    ...vmWords(r.epilogue),
  ]);

export interface Header {
  readonly bindings: number;
  readonly arenaByteLength?: number;
  readonly firstCommit?: number;
}

export function programWords(kernels: readonly (readonly number[])[], header: Header): BigInt64Array {
  const { bindings, arenaByteLength = 0, firstCommit = kernels.length } = header;
  const words = [ABI_VERSION, arenaByteLength, bindings, kernels.length, firstCommit, ...kernels.flat()];
  return BigInt64Array.from(words, BigInt);
}

/** Decodes and runs a program on `bindings` once. */
export function runKernels(
  kernels: readonly (readonly number[])[],
  bindings: readonly ArrayBufferView[],
  header: Partial<Header> = {},
): ReturnType<Addon["runSync"]> {
  const words = programWords(kernels, { bindings: bindings.length, ...header });
  return addon().runSync(addon().createProgram(words), bindings);
}

/** Row-major strides of `extents`. */
export function stridesOf(extents: readonly number[]): number[] {
  let stride = 1;
  return extents
    .map((_, axis) => extents[extents.length - 1 - axis] ?? 1)
    .map((extent) => {
      const own = stride;
      stride *= extent;
      return own;
    })
    .reverse();
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** The bits of a float32 value. */
export function bitsOf(value: number): number {
  scratchFloat[0] = value;
  return scratchBits[0] ?? 0;
}

/** Element `i` of an array that has one. */
export function at(values: ArrayLike<number>, i: number): number {
  const value = values[i];
  if (value === undefined) throw new Error(`no element ${i} among ${values.length}`);
  return value;
}

/** A fixed stream of uint32 numbers (xorshift32). */
export function randomWords(count: number, seed = 1): Uint32Array {
  const words = new Uint32Array(count);
  let x = seed;
  for (let i = 0; i < count; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    words[i] = x;
  }
  return words;
}

/** Floats in [-1, 1). */
export const randomFloats = (count: number, seed = 1): Float32Array =>
  Float32Array.from(randomWords(count, seed), (word) => word / 2 ** 31 - 1);

/** Float32 patterns: every sign and exponent with several mantissas, random ones, and the special values. */
export function sweep(count: number): Float32Array {
  const special = [0, -0, 1, -1, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 0.5, 1.5, 2.5, -0.5];
  const edges = Array.from({ length: 512 }, (_, high) =>
    [0, 1, 0x400000, 0x7fffff].map((low) => ((high << 23) | low) >>> 0),
  );
  const bits = Uint32Array.from([...special.map(bitsOf), ...edges.flat(), ...randomWords(count)]);
  return new Float32Array(bits.buffer);
}

/** Index of the first lane whose bits differ, NaNs being equal; -1: none. */
export function firstDifference(actual: Float32Array, expected: Float32Array): number {
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length);
  const b = new Uint32Array(expected.buffer, expected.byteOffset, expected.length);
  return a.findIndex((bits, i) => bits !== b[i] && !(Number.isNaN(actual[i]) && Number.isNaN(expected[i])));
}

/** Whether two arrays hold the same bytes. Far faster than a deep comparison of large arrays. */
export function sameBytes(a: ArrayBufferView, b: ArrayBufferView): boolean {
  const bytes = (view: ArrayBufferView): Buffer => Buffer.from(view.buffer, view.byteOffset, view.byteLength);
  return bytes(a).equals(bytes(b));
}
