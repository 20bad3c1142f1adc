/** What a refusal must say. */
import { expect } from "vitest";
import { BinadeError } from "../../src/index.ts";

/** `act` throws a BinadeError of this code, whose sentence contains all parts. */
export function expectRefusal(act: () => unknown, code: string, parts: readonly string[]): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof BinadeError)) throw error;
    expect(error.code, error.message).toBe(code);
    for (const part of parts) expect(error.message).toContain(part);
    return;
  }
  throw new Error("nothing was thrown");
}
