/** What a mistake must answer. */
import { expect } from "vitest";
import { BinadeError, type ErrorCode } from "../../src/errors.ts";

/** Runs `body`, which must throw a BinadeError of this code with a sentence like this. */
export async function expectError(body: () => unknown, code: ErrorCode, sentence: RegExp): Promise<void> {
  try {
    await body();
  } catch (error) {
    if (!(error instanceof BinadeError)) throw error;
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(sentence)]);
    return;
  }
  throw new Error("nothing was thrown");
}
