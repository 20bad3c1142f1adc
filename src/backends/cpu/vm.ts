/** Pointwise expressions → instructions of the native engine: one virtual register per value, then a linear scan over physical ones. */
import type { Operand } from "../../compile/program.ts";
import { type DType, isFloat } from "../../formats/index.ts";
import { type Dialect, FN, type Fn } from "../../ops/expr.ts";
import type { View } from "../../ops/shape.ts";
import { MAX_REGISTERS, OPCODES, type Opcode } from "./abi.ts";
import { type Code, shorten } from "./idioms.ts";
import { floatBits, viewWords, type Word } from "./words.ts";

/** A virtual register. */
export type Register = number & { readonly __register?: true };

interface Load {
  readonly register: Register;
  readonly words: readonly Word[];
}

export interface Instruction {
  readonly opcode: Opcode;
  readonly dst: Register;
  readonly args: readonly Register[];
  readonly imm: number;
  /** Position of the load that addresses a random key. */
  readonly key?: number;
}

export interface Store {
  readonly register: Register;
  readonly words: readonly Word[];
}

const ROUND: Partial<Record<DType, Opcode>> = {
  float16: "roundFloat16",
  bfloat16: "roundBfloat16",
  float8_e4m3fn: "roundFloat8E4m3fn",
  float8_e5m2: "roundFloat8E5m2",
};

/** Integers that are float lanes: their least and greatest values. */
const SMALL_INTEGERS: Partial<Record<DType, readonly [number, number]>> = {
  uint8: [0, 255],
  int16: [-(2 ** 15), 2 ** 15 - 1],
};

/** Integer spellings; comparisons that are missing swap their operands. */
const SIGNED: Partial<Record<Fn, Opcode>> = {
  add: "addInt",
  sub: "subInt",
  mul: "mulInt",
  neg: "negInt",
  min: "minInt",
  max: "maxInt",
  eq: "eqInt",
  ne: "neInt",
  lt: "ltInt",
  le: "leInt",
  select: "select",
};
const UNSIGNED: Partial<Record<Fn, Opcode>> = { ...SIGNED, min: "minUint", max: "maxUint", lt: "ltUint", le: "leUint" };
const SWAPPED: Partial<Record<Fn, Fn>> = { gt: "lt", ge: "le" };

/** Builds one `vm` section over a domain. */
export class VmBuilder {
  readonly domain: readonly number[];
  readonly #loads: Load[] = [];
  readonly #instructions: Instruction[] = [];
  readonly #stores: Store[] = [];
  readonly #known = new Map<string, Register>();
  #registers = 0;

  constructor(domain: readonly number[]) {
    this.domain = domain;
  }

  #once(key: string, make: () => Register): Register {
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const register = make();
    this.#known.set(key, register);
    return register;
  }

  /** Loads an operand through a view whose axes are the domain's. */
  load(operand: Operand, view: View): Register {
    const words = viewWords(operand, view);
    return this.#once(`load ${words.join()}`, () => this.#load([0, ...words]));
  }

  loadRowBuffer(index: number): Register {
    return this.#once(`row ${index}`, () => this.#load([1 + index]));
  }

  #load(words: readonly Word[]): Register {
    const register = this.#registers++;
    this.#loads.push({ register, words });
    return register;
  }

  emit(opcode: Opcode, args: readonly Register[], imm = 0): Register {
    return this.#once(`${opcode} ${args.join()} ${imm}`, () => {
      const dst = this.#registers++;
      this.#instructions.push({ opcode, dst, args, imm });
      return dst;
    });
  }

  random(key: Operand, stream: number): Register {
    const words = [0, ...viewWords(key, { ...key.view, strides: this.domain.map(() => 0) })];
    const index = this.#loads.push({ register: this.#registers++, words }) - 1;
    const dst = this.#registers++;
    this.#instructions.push({ opcode: "random", dst, args: [], imm: stream, key: index });
    return dst;
  }

  constant(value: number, dtype: DType): Register {
    const integer = dtype === "int32" || dtype === "uint32";
    return this.emit("constant", [], integer ? value >>> 0 : floatBits(value));
  }

  /** `register` as a value of `dtype`: narrower floats round, everything else stands. */
  round(register: Register, dtype: DType): Register {
    const opcode = ROUND[dtype];
    return opcode === undefined ? register : this.emit(opcode, [register]);
  }

  /** The conversion of a cast: what `formats/codec.ts` `round` does to a value of `from`. */
  convert(x: Register, from: DType, to: DType): Register {
    if (from === to) return x;
    const signed = (value: number): Register => this.constant(value, "int32");
    if (to === "bool")
      return from === "int32" || from === "uint32"
        ? this.emit("neInt", [x, signed(0)])
        : this.emit("ne", [x, this.constant(0, "float32")]);
    if (from === "int32" && to === "uint32") return this.emit("maxInt", [x, signed(0)]);
    if (from === "uint32" && to === "int32") return this.emit("minUint", [x, signed(0x7fffffff)]);
    if (to === "int32") return this.emit("toInt32", [x]);
    if (to === "uint32") return this.emit("toUint32", [x]);
    const range = SMALL_INTEGERS[to];
    if (range !== undefined) {
      const [low, high] = range.map(signed) as [Register, Register];
      const whole =
        from === "int32" ? x : from === "uint32" ? this.emit("minUint", [x, high]) : this.emit("toInt32", [x]);
      return this.emit("fromInt32", [this.emit("minInt", [this.emit("maxInt", [whole, low]), high])]);
    }
    const float = from === "int32" ? this.emit("fromInt32", [x]) : from === "uint32" ? this.emit("fromUint32", [x]) : x;
    return this.round(float, to);
  }

  /** The scalar primitives over registers, computing on operands of these dtypes. */
  dialect(dtypes: readonly DType[]): Dialect<Register> {
    const data = dtypes.filter((d) => d !== "bool");
    const integer = !data.some((d) => isFloat(d)) && data.find((d) => d === "int32" || d === "uint32");
    const table = integer === "int32" ? SIGNED : integer === "uint32" ? UNSIGNED : null;
    const spell =
      (fn: Fn) =>
      (...args: Register[]): Register => {
        const swapped = table === null ? undefined : SWAPPED[fn];
        const opcode = table === null ? fn : table[swapped ?? fn];
        if (opcode === undefined) throw new Error(`internal: ${fn} has no integer opcode`);
        return this.emit(opcode, swapped === undefined ? args : [...args].reverse());
      };
    const fn = Object.fromEntries(Object.keys(FN).map((name) => [name, spell(name as Fn)])) as Dialect<Register>["fn"];
    return { lit: (v) => this.constant(v, integer || "float32"), fn };
  }

  store(register: Register, operand: Operand, view: View): void {
    this.#stores.push({ register, words: [0, ...viewWords(operand, view)] });
  }

  storeRowBuffer(register: Register, index: number): void {
    this.#stores.push({ register, words: [1 + index] });
  }

  /** The section's words. */
  words(): readonly Word[] {
    const code = shorten({ instructions: this.#instructions, stores: this.#stores });
    const hoisted = this.#allocate(code, this.#invariants(code));
    // Computing what is the same in every block once per task costs a register for good.
    const { physical, count } = hoisted.count <= MAX_REGISTERS ? hoisted : this.#allocate(code, new Set());
    const at = (r: Register | undefined): Word => (r === undefined ? 0 : (physical.get(r) ?? 0));
    return [
      Math.max(1, count),
      this.#loads.length,
      ...this.#loads.flatMap(({ register, words }) => [at(register), ...words]),
      code.instructions.length,
      ...code.instructions.flatMap(({ opcode, dst, args: [a, b, c], imm, key }) => [
        OPCODES[opcode],
        at(dst),
        key ?? at(a),
        at(b),
        at(c),
        imm,
      ]),
      code.stores.length,
      ...code.stores.flatMap(({ register, words }) => [at(register), ...words]),
    ];
  }

  /** Registers that hold the same lanes in every block: the engine computes them once per task if nothing else writes them. */
  #invariants({ instructions }: Code): ReadonlySet<Register> {
    const fixed = new Set<Register>();
    for (const { register, words } of this.#loads) {
      const inMemory = words[0] === 0;
      if (inMemory && words.slice(4).every((stride) => stride === 0)) fixed.add(register);
    }
    for (const { opcode, dst, args, key } of instructions) {
      if (opcode !== "position" && key === undefined && args.every((r) => fixed.has(r))) fixed.add(dst);
    }
    return fixed;
  }

  /** Linear scan: loads are live from the start, every other register from its instruction, each until its last use; those of `fixed` for good. */
  #allocate(
    { instructions, stores }: Code,
    fixed: ReadonlySet<Register>,
  ): { physical: ReadonlyMap<Register, number>; count: number } {
    const lastUse = new Map<Register, number>();
    instructions.forEach(({ args }, i) => {
      for (const r of args) lastUse.set(r, i);
    });
    for (const { register } of stores) lastUse.set(register, instructions.length);
    const physical = new Map<Register, number>();
    const free: number[] = [];
    let count = 0;
    const take = (r: Register): void => {
      physical.set(r, (fixed.has(r) ? undefined : free.pop()) ?? count++);
    };
    for (const { register } of this.#loads) take(register);
    instructions.forEach(({ dst, args }, i) => {
      for (const r of new Set(args)) if (lastUse.get(r) === i && !fixed.has(r)) free.push(physical.get(r) ?? 0);
      take(dst);
      if (!lastUse.has(dst) && !fixed.has(dst)) free.push(physical.get(dst) ?? 0);
    });
    return { physical, count };
  }
}
