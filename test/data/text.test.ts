/** What counts as binary, how parts are joined, and what a corpus that is too short is told. */

import { describe, expect, it } from "vitest";
import { concatBytes, isBinary, requireWindow } from "../../src/data/text.ts";

describe("isBinary", () => {
  it.each([
    [0, true],
    [8191, true],
    [8192, false],
    [-1, false],
  ])("with a NUL byte at %i: %s", (at, expected) => {
    const bytes = new Uint8Array(9000).fill(65);
    if (at >= 0) bytes[at] = 0;
    expect(isBinary(bytes)).toBe(expected);
  });
});

describe("concatBytes", () => {
  it("joins in order, and passes a single part on", () => {
    const part = new Uint8Array([1, 2]);
    expect(concatBytes([part, new Uint8Array(), new Uint8Array([3])])).toEqual(new Uint8Array([1, 2, 3]));
    expect(concatBytes([part])).toBe(part);
    expect(concatBytes([])).toEqual(new Uint8Array());
  });
});

describe("requireWindow", () => {
  it("needs one byte more than the context", () => {
    expect(() => requireWindow("x.txt", 9, 8)).not.toThrow();
    expect(() => requireWindow("x.txt", 8, 8)).toThrow(
      /^x\.txt: one window of context 8 needs 9 bytes, got 8; name more/,
    );
    expect(() => requireWindow("x.txt", 0, 8)).toThrow(/needs 9 bytes, it is empty/);
  });
});
