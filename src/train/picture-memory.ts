/** Reading whole files of pictures, none of which may ask for more memory than the machine has. */
import { readFile } from "node:fs/promises";
import { availableMemory } from "../backends/memory.ts";
import { BinadeError } from "../errors.ts";
import { readError } from "./corpus.ts";

/** @throws BinadeError `file.missing` or `file.unreadable`. */
export async function readFileBytes(path: string): Promise<Uint8Array> {
  return readFile(path).catch((error: unknown) => {
    throw readError(path, error);
  });
}

/** @throws BinadeError `memory.insufficient`, with what to do, where `byteLength` bytes do not fit into this machine's memory. */
export function requireMemory(path: string, byteLength: number, remedy: string): void {
  const available = availableMemory(0);
  if (byteLength <= available) return;
  throw new BinadeError(
    "memory.insufficient",
    `${path}: pictures of its size take ${byteLength} bytes together, this machine has ${available} left; ${remedy}`,
  );
}
