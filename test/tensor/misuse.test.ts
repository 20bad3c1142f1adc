/** Whatever a function of the library is given, it answers with a typed error: no bare TypeError, and no word of internals. */
import { beforeAll, describe, expect, it } from "vitest";
import * as binade from "../../src/index.ts";
import { BinadeError, Tensor, tensor, useDevice } from "../../src/index.ts";

/** Given by other parts of the library only; and what would change the device of this test. */
const INTERNAL = new Set(["nn.AmaxHistory", "nn.Fp8", "optim.Optimizer", "BinadeError", "MemoryError", "useDevice"]);

const isClass = (value: unknown): boolean => /^class\b/.test(Function.prototype.toString.call(value));
type Call = (...args: readonly unknown[]) => unknown;

/** Every exported function and constructor, and every method of a tensor, by name. */
function calls(): readonly (readonly [string, Call])[] {
  const exports: readonly (readonly [string, unknown])[] = [
    ...Object.entries(binade),
    ...Object.entries(binade.nn).map(([name, value]) => [`nn.${name}`, value] as const),
    ...Object.entries(binade.optim).map(([name, value]) => [`optim.${name}`, value] as const),
  ];
  const functions = exports.flatMap(([name, value]) => {
    if (typeof value !== "function" || INTERNAL.has(name)) return [];
    const make = value as unknown as new (...args: readonly unknown[]) => unknown;
    return [[name, isClass(value) ? (...args: readonly unknown[]) => new make(...args) : (value as Call)] as const];
  });
  const methods = Object.getOwnPropertyNames(Tensor.prototype).flatMap((name) => {
    const method = Object.getOwnPropertyDescriptor(Tensor.prototype, name)?.value as Call | undefined;
    if (typeof method !== "function" || name === "constructor") return [];
    return [[`Tensor.${name}`, (...args: readonly unknown[]) => method.apply(tensor([[1, 2]]), [...args])] as const];
  });
  return [...functions, ...methods];
}

/** What JavaScript lets through where TypeScript would not. */
const wrong = (): readonly unknown[] => [
  ...[undefined, null, 3, -1, Number.NaN, "text", true, 5],
  ...[{}, { dtype: "nope" }, { parameters: 3 }, [], [1, 2], [[1], [2, 3]], [null], () => 1, new Date(), new Map()],
];

/** A bare error, as text; null for a value or a typed error. */
async function bareError(call: Call, args: readonly unknown[]): Promise<string | null> {
  try {
    await call(...args);
    return null;
  } catch (error) {
    if (error instanceof BinadeError && error.code !== "internal") return null;
    return `(${args.map((arg) => (arg instanceof Tensor ? "tensor" : String(JSON.stringify(arg)))).join(", ")}): ${error}`;
  }
}

describe("arguments of the wrong type", () => {
  beforeAll(() => {
    useDevice("reference");
  });
  it.each(calls())("%s", async (_, call) => {
    const x = tensor([[1, 2]]);
    const found: string[] = [];
    const attempt = async (...args: readonly unknown[]): Promise<void> => {
      const bare = await bareError(call, args);
      if (bare !== null) found.push(bare);
    };
    for (const first of wrong()) {
      await attempt(first);
      await attempt(x, first);
      for (const second of wrong()) {
        await attempt(first, second);
        await attempt(x, first, second);
      }
    }
    expect(found).toEqual([]);
  });
});
