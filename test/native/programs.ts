/** Small programs that several tests of the addon share. */
import { type DType, FORMATS } from "../../src/formats/index.ts";
import { bitsOf, domainWords, kernelWords, pointwise, reduce, refWords, row, type Vm, vmWords } from "./words.ts";

/** target[i] = source[i] + 1. */
export function addOne(
  n: number,
  dtype: DType,
  source: number,
  target: number,
  targetOffset = 0,
  sourceOffset = 0,
): number[] {
  return pointwise([n], {
    registers: 2,
    loads: [{ reg: 0, view: { binding: source, dtype, strides: [1], byteOffset: sourceOffset } }],
    code: [
      ["constant", 1, 0, 0, 0, bitsOf(1)],
      ["add", 0, 0, 1],
    ],
    stores: [{ reg: 0, view: { binding: target, dtype, strides: [1], byteOffset: targetOffset } }],
  });
}

/** x[i] *= 2. */
export function double(n: number, binding: number): number[] {
  const view = { binding, dtype: "float32", strides: [1] } as const;
  return pointwise([n], {
    registers: 1,
    loads: [{ reg: 0, view }],
    code: [["add", 0, 0, 0]],
    stores: [{ reg: 0, view }],
  });
}

/** binding `out` [i] = binding 1 [binding `index` [i]], float32. */
export const gather = (rows: number, indices: number, index: number, out: number): number[] =>
  kernelWords("gather", [
    1,
    rows,
    indices,
    1,
    4,
    ...refWords(1),
    FORMATS.int32.code,
    ...refWords(index),
    ...refWords(out),
  ]);

export interface Matmul {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly dtype: DType;
  readonly bindings: readonly [a: number, b: number];
  readonly aStrides: readonly [row: number, column: number];
  readonly bStrides: readonly [row: number, column: number];
  readonly aOffsets: readonly number[];
  readonly bOffsets: readonly number[];
  readonly epilogue: Vm;
}

export function matmul(p: Matmul): number[] {
  const code = FORMATS[p.dtype].code;
  const operand = (binding: number, strides: readonly number[]): number[] => [
    code,
    code,
    ...refWords(binding),
    ...strides,
  ];
  return kernelWords("matmul", [
    ...[p.batch, p.m, p.n, p.k],
    ...operand(p.bindings[0], p.aStrides),
    ...operand(p.bindings[1], p.bStrides),
    ...p.aOffsets,
    ...p.bOffsets,
    ...domainWords([p.batch, p.m, p.n]),
    ...vmWords(p.epilogue),
  ]);
}

/** Bindings of one attention, all (1, 6, 2, 4) float32 contiguous: q k v out, logSumExp (1, 2, 6), g dq dk dv. */
export function attention(first: number, backward: boolean): number[] {
  const heads = (binding: number): number[] => [FORMATS.float32.code, ...refWords(binding), 48, 8, 4];
  const views = Array.from({ length: 4 }, (_, i) => heads(first + i)).flat();
  const cotangents = Array.from({ length: 4 }, (_, i) => heads(first + 5 + i)).flat();
  return kernelWords(backward ? "attentionBackward" : "attention", [
    ...[1, 6, 6, 2, 4, bitsOf(0.5), 1],
    ...views,
    ...refWords(first + 4),
    ...(backward ? cotangents : []),
  ]);
}

/** Maxima of pairs of the 4 rows of 6 of binding `from`, with their taps nowhere: (2, 3) at the start of `to`. */
function maxima(from: number, to: number): number[] {
  const axis = (input: number, output: number): number[] => [
    ...[input, output, 2],
    ...Array.from({ length: 2 * output }, (_, i) => i),
    ...Array.from({ length: 2 * output }, () => bitsOf(1)),
    ...Array.from({ length: output }, () => bitsOf(1)),
  ];
  const absent = [-1, -1, 0];
  const array = (binding: number): number[] => [FORMATS.float32.code, ...refWords(binding)];
  return kernelWords("plane", [2, 1, ...axis(4, 2), ...axis(6, 3), ...array(from), ...absent, ...array(to), ...absent]);
}

/** Moments of the 4 channels of binding `from` as (2, 4, 3), and (x − mean) · … of it by its own first numbers: both into `to`. */
function channels(from: number, to: number): number[][] {
  const array = (binding: number, byteOffset = 0): number[] => [FORMATS.float32.code, binding, byteOffset];
  const extents = [2, 4, 3, bitsOf(1)];
  const store: Vm = { ...identity(to, [12, 3, 1]), loads: [{ reg: 0, buffer: 0 }] };
  const numbers = Array.from({ length: 4 }, () => array(from)).flat();
  return [
    kernelWords("channel", [0, ...extents, ...array(from), ...array(to), ...array(to, 16)]),
    kernelWords("channel", [2, ...extents, ...array(from), ...numbers, 3, 2, 4, 3, ...vmWords(store)]),
  ];
}

const flat = (binding: number, strides: readonly number[]) => ({ binding, dtype: "float32", strides }) as const;
const identity = (binding: number, strides: readonly number[]): Vm => ({
  registers: 1,
  loads: [{ reg: 0, buffer: 0 }],
  code: [],
  stores: [{ reg: 0, view: flat(binding, strides) }],
});

const counted: Vm = {
  registers: 1,
  loads: [{ reg: 0, view: flat(1, [6, 1]) }],
  code: [],
  stores: [{ reg: 0, buffer: 0 }],
};

/** One kernel of every kind, and bindings that it fits exactly. */
export function everyKernel(): { kernels: number[][]; bindings: ArrayBufferView[] } {
  const kernels = [
    pointwise([4, 6], {
      registers: 3,
      loads: [
        { reg: 0, view: flat(1, [6, 1]) },
        { reg: 1, view: { binding: 2, dtype: "uint32", strides: [0, 0] } },
      ],
      code: [
        ["random", 2, 1, 0, 0, 3],
        ["add", 0, 0, 2],
        ["exp", 0, 0],
      ],
      stores: [{ reg: 0, view: { binding: 0, dtype: "bfloat16", strides: [1, 4], byteOffset: 64 } }],
    }),
    reduce({
      extents: [4, 6],
      keptRank: 1,
      vectorAxis: 1,
      combines: ["sum", "argMax"],
      prologue: {
        registers: 1,
        loads: [{ reg: 0, view: flat(1, [1, 4]) }],
        code: [["mul", 0, 0, 0]],
        stores: [
          { reg: 0, buffer: 0 },
          { reg: 0, buffer: 1 },
        ],
      },
      epilogue: identity(3, [1]),
    }),
    row({
      extents: [4, 6],
      core: "softmax",
      parameters: [],
      inputs: 1,
      outputs: 1,
      prologue: { registers: 1, loads: [{ reg: 0, view: flat(1, [6, 1]) }], code: [], stores: [{ reg: 0, buffer: 0 }] },
      epilogue: { ...identity(0, [6, 1]), loads: [{ reg: 0, buffer: 1 }] },
    }),
    matmul({
      ...{ batch: 2, m: 2, n: 3, k: 2, dtype: "float32", bindings: [1, 1] },
      ...{ aStrides: [2, 1], bStrides: [3, 1], aOffsets: [0, 4], bOffsets: [0, 6] },
      epilogue: identity(0, [6, 3, 1]),
    }),
    gather(24, 4, 4, 3),
    kernelWords("scatterAdd", [1, 24, 4, 1, 1, ...refWords(3), FORMATS.int32.code, ...refWords(4), 1, ...refWords(5)]),
    kernelWords("magnitudes", [...domainWords([4, 6]), ...vmWords(counted), ...refWords(0, 2048)]),
    attention(6, false),
    attention(6, true),
    maxima(1, 5),
    ...channels(1, 5),
  ];
  const bindings = [
    Float32Array.from({ length: 24 }, (_, i) => Math.sin(i)),
    Uint32Array.of(1, 2, 3, 4),
    new Float32Array(4),
    Int32Array.of(1, 0, 23, 1),
    new Float32Array(24),
    ...Array.from({ length: 9 }, (_, i) => new Float32Array(i === 4 ? 12 : 48).fill(i / 8)),
  ];
  return { kernels, bindings };
}
