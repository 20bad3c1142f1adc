/** Byte corpora as values: what counts as text, how files are joined, how long a corpus must be. Reads no files. */

import { BinadeError } from "../errors.ts";

/** A file is binary if a NUL byte stands among its first this many bytes (the rule of git and grep). */
export const BINARY_PROBE_BYTES = 8192;

/** Whether `bytes` is the beginning of a binary file: a NUL byte among the first 8 KiB. */
export function isBinary(bytes: Uint8Array): boolean {
  return bytes.subarray(0, BINARY_PROBE_BYTES).includes(0);
}

/** Joins `parts` in order, with nothing in between; a single part is returned as it is. */
export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  const [first] = parts;
  if (first !== undefined && parts.length === 1) return first;
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}

/**
 * Requires that one window of `context` tokens and their targets fits into `byteLength` bytes.
 *
 * @param subject What is too short, for the error sentence.
 * @throws BinadeError `data.short` with both lengths.
 */
export function requireWindow(subject: string, byteLength: number, context: number): void {
  if (byteLength > context) return;
  const found = byteLength === 0 ? "it is empty" : `got ${byteLength}`;
  const message = `${subject}: one window of context ${context} needs ${context + 1} bytes, ${found}; name more text or choose a smaller context`;
  throw new BinadeError("data.short", message);
}
