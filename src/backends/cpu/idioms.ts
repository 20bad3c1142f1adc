/** Shorter spellings of a pointwise program, with the same bits: literals inside instructions, common pairs as one, roundings left to stores. */
import type { Opcode } from "./abi.ts";
import type { Instruction, Register, Store } from "./vm.ts";
import { dtypeCode, floatBits } from "./words.ts";

/** A program in single assignment: every register is written by one load or one instruction. */
export interface Code {
  readonly instructions: readonly Instruction[];
  readonly stores: readonly Store[];
}

const ONE = floatBits(1);
const SIGN = 0x80000000;

const ROUNDED: Partial<Record<Opcode, number>> = {
  roundFloat16: dtypeCode("float16"),
  roundBfloat16: dtypeCode("bfloat16"),
  roundFloat8E4m3fn: dtypeCode("float8_e4m3fn"),
  roundFloat8E5m2: dtypeCode("float8_e5m2"),
};

/**
 * Rewrites instructions one by one, operands first; what nothing reads any more is left out. Every new instruction
 * rounds where the ones that it replaces did, and only operands of commutative ones change places.
 */
export function shorten({ instructions, stores }: Code): Code {
  const definitions = new Map<Register, Instruction>();
  const shorter = instructions.map((instruction) => {
    const result = spell(instruction, definitions);
    definitions.set(result.dst, result);
    return result;
  });
  // A store to 16 or 8 bits rounds by itself.
  const direct = stores.map((store) => {
    const definition = definitions.get(store.register);
    const [inMemory, dtype] = [store.words[0] === 0, store.words[1]];
    const [exact] = definition !== undefined && inMemory && ROUNDED[definition.opcode] === dtype ? definition.args : [];
    return exact === undefined ? store : { ...store, register: exact };
  });
  return { instructions: withoutUnread(shorter, direct), stores: direct };
}

type Definitions = ReadonlyMap<Register, Instruction>;

/** The instruction that yields operand `i`, if it is of this opcode. */
function operand(instruction: Instruction, i: number, opcode: Opcode, definitions: Definitions): Instruction | null {
  const register = instruction.args[i];
  const definition = register === undefined ? undefined : definitions.get(register);
  return definition?.opcode === opcode ? definition : null;
}

/** For the first operand of this opcode: its instruction, and the other operand. */
function either(instruction: Instruction, opcode: Opcode, definitions: Definitions): [Instruction, Register] | null {
  for (const i of [0, 1]) {
    const found = operand(instruction, i, opcode, definitions);
    const other = instruction.args[1 - i];
    if (found !== null && other !== undefined) return [found, other];
  }
  return null;
}

function spell(instruction: Instruction, definitions: Definitions): Instruction {
  const { opcode, dst, args } = instruction;
  const as = (name: Opcode, operands: readonly Register[], imm: number): Instruction => ({
    opcode: name,
    dst,
    args: operands,
    imm,
  });
  if (opcode === "mul") {
    const literal = either(instruction, "constant", definitions);
    if (literal !== null) return as("mulConstant", [literal[1]], literal[0].imm);
    const scaled = either(instruction, "mulConstant", definitions);
    if (scaled !== null) return as("scaledProduct", [...scaled[0].args, scaled[1]], scaled[0].imm);
  }
  if (opcode === "add") {
    const literal = either(instruction, "constant", definitions);
    if (literal !== null) return withLiteralAdded(dst, literal[1], literal[0].imm, definitions);
    const scaled = either(instruction, "mulConstant", definitions);
    if (scaled !== null) return as("scaledSum", [...scaled[0].args, scaled[1]], scaled[0].imm);
    const product = either(instruction, "mul", definitions);
    if (product !== null) return as("productSum", [...product[0].args, product[1]], 0);
  }
  if (opcode === "sub") {
    const literal = operand(instruction, 1, "constant", definitions);
    const [minuend] = args;
    if (literal !== null && minuend !== undefined)
      return withLiteralAdded(dst, minuend, (literal.imm ^ SIGN) >>> 0, definitions);
  }
  if (opcode === "exp") {
    const scaled = operand(instruction, 0, "mulConstant", definitions);
    const square = scaled === null ? null : operand(scaled, 0, "mul", definitions);
    const [x, again] = square?.args ?? [];
    if (scaled !== null && x !== undefined && x === again) return as("gaussian", [x], scaled.imm);
  }
  return instruction;
}

function withLiteralAdded(dst: Register, x: Register, imm: number, definitions: Definitions): Instruction {
  const sum: Instruction = { opcode: "addConstant", dst, args: [x], imm };
  const erf = imm === ONE ? operand(sum, 0, "erf", definitions) : null;
  const scaled = erf === null ? null : operand(erf, 0, "mulConstant", definitions);
  return scaled === null ? sum : { opcode: "erfPlusOne", dst, args: scaled.args, imm: scaled.imm };
}

function withoutUnread(instructions: readonly Instruction[], stores: readonly Store[]): readonly Instruction[] {
  const read = new Set(stores.map(({ register }) => register));
  const kept: Instruction[] = [];
  for (const instruction of [...instructions].reverse()) {
    if (!read.has(instruction.dst)) continue;
    for (const register of instruction.args) read.add(register);
    kept.push(instruction);
  }
  return kept.reverse();
}
