/** Shorter spellings of pointwise programs: which are found, what is left out, and what stays. */
import { describe, expect, it } from "vitest";
import { OPCODES, type Opcode } from "../../src/backends/cpu/abi.ts";
import { shorten } from "../../src/backends/cpu/idioms.ts";
import { VmBuilder } from "../../src/backends/cpu/vm.ts";
import { dtypeCode, floatBits } from "../../src/backends/cpu/words.ts";
import type { DType } from "../../src/formats/index.ts";
import { ELEMENTWISE } from "../../src/ops/elementwise.ts";
import { c, E, fold, slot } from "../../src/ops/expr.ts";

type Line = readonly [Opcode, number, readonly number[], number?];

/** The program's instructions as "opcode operands", for stores of these registers and dtypes. */
function shortened(lines: readonly Line[], stored: readonly (readonly [number, DType])[]): readonly string[] {
  const code = shorten({
    instructions: lines.map(([opcode, dst, args, imm = 0]) => ({ opcode, dst, args, imm })),
    stores: stored.map(([register, dtype]) => ({ register, words: [0, dtypeCode(dtype)] })),
  });
  return [
    ...code.instructions.map(({ opcode, args }) => [opcode, ...args].join(" ")),
    ...code.stores.map(({ register }) => `store ${register}`),
  ];
}

const HALF = floatBits(0.5);

describe("shorter spellings", () => {
  it.each<[string, readonly Line[], readonly (readonly [number, DType])[], readonly string[]]>([
    [
      "a literal factor",
      [
        ["constant", 1, [], HALF],
        ["mul", 2, [1, 0]],
      ],
      [[2, "float32"]],
      ["mulConstant 0", "store 2"],
    ],
    [
      "a literal difference",
      [
        ["constant", 1, [], HALF],
        ["sub", 2, [0, 1]],
      ],
      [[2, "float32"]],
      ["addConstant 0", "store 2"],
    ],
    [
      "a difference from a literal stays",
      [
        ["constant", 1, [], HALF],
        ["sub", 2, [1, 0]],
      ],
      [[2, "float32"]],
      ["constant", "sub 1 0", "store 2"],
    ],
    [
      "a product that is also read stays",
      [
        ["mul", 2, [0, 1]],
        ["add", 3, [2, 0]],
      ],
      [
        [2, "float32"],
        [3, "float32"],
      ],
      ["mul 0 1", "productSum 0 1 0", "store 2", "store 3"],
    ],
    [
      "a rounding that only stores read",
      [
        ["add", 1, [0, 0]],
        ["roundBfloat16", 2, [1]],
      ],
      [[2, "bfloat16"]],
      ["add 0 0", "store 1"],
    ],
    [
      "a rounding that is read stays",
      [
        ["roundBfloat16", 1, [0]],
        ["add", 2, [1, 1]],
      ],
      [
        [1, "bfloat16"],
        [2, "float32"],
      ],
      ["roundBfloat16 0", "add 1 1", "store 0", "store 2"],
    ],
    [
      "a rounding to another format stays",
      [["roundBfloat16", 1, [0]]],
      [[1, "float16"]],
      ["roundBfloat16 0", "store 1"],
    ],
  ])("%s", (_, lines, stored, expected) => {
    expect(shortened(lines, stored)).toEqual(expected);
  });

  it("GELU and its gradient together are six instructions, with one error function", () => {
    const [x, g] = [slot("x"), slot("g")];
    const bell = E.mul(x, E.mul(c(0.4), E.exp(E.mul(c(-0.5), E.mul(x, x)))));
    const distribution = E.mul(c(0.5), E.add(c(1), E.erf(E.mul(x, c(Math.SQRT1_2)))));
    const vm = new VmBuilder([8]);
    const slots = { x: vm.loadRowBuffer(0), g: vm.loadRowBuffer(1) };
    const dialect = vm.dialect(["float32"]);
    for (const [i, e] of [ELEMENTWISE.gelu.value, E.mul(g, E.add(distribution, bell))].entries())
      vm.storeRowBuffer(fold(e, dialect, slots), i);
    const words = vm.words().map(Number);
    // registers, 2 loads of two words, then the instructions, six words each.
    const count = words[6] ?? 0;
    const names = Object.keys(OPCODES);
    const opcodes = Array.from({ length: count }, (_, i) => names[words[7 + 6 * i] ?? 0]);
    expect(opcodes).toEqual(["erfPlusOne", "scaledProduct", "gaussian", "scaledProduct", "scaledSum", "mul"]);
  });
});
