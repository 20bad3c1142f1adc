/** Reading of test/fixtures: JSON, and the safetensors container. */
import { readFileSync } from "node:fs";
import { decodeSafetensors, type SavedTensor } from "../../src/train/safetensors.ts";

const at = (name: string): URL => new URL(`../fixtures/${name}`, import.meta.url);

/** A tensor in a JSON fixture. */
export interface Recorded {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

/** A JSON fixture; the caller states its layout. */
export const readJson = <T>(name: string): T => JSON.parse(readFileSync(at(name), "utf8")) as T;

export const readTensors = (name: string): ReadonlyMap<string, SavedTensor> =>
  decodeSafetensors(new Uint8Array(readFileSync(at(name))), name).tensors;

/** The elements of a saved float32 tensor. */
export const floatsOf = ({ bytes }: SavedTensor): Float32Array => new Float32Array(bytes.slice().buffer);
