/** The safetensors file format: named tensors as raw bytes behind a JSON header; strict in both directions. */

import { BinadeError } from "../errors.ts";
import { byteSize, DTYPES, type DType, FORMATS } from "../formats/table.ts";

/** One tensor as it lies in a file: row-major, little-endian, `bytes.length` = product of `shape` × element size. */
export type SavedTensor = { readonly dtype: DType; readonly shape: readonly number[]; readonly bytes: Uint8Array };

/** What a file holds. The tensors stand in the order of their data. */
export type SafetensorsFile = {
  readonly tensors: ReadonlyMap<string, SavedTensor>;
  readonly metadata: Readonly<Record<string, string>>;
};

type Entry = { readonly name: string; readonly begin: number; readonly end: number; readonly tensor: SavedTensor };

// The layout, the reserved key and the limit are those of https://github.com/huggingface/safetensors#format.
const METADATA_KEY = "__metadata__";
const MAX_HEADER_BYTES = 100_000_000;
const LENGTH_BYTES = 8;

const DTYPE_BY_NAME: ReadonlyMap<string, DType> = new Map(DTYPES.map((dtype) => [FORMATS[dtype].safetensors, dtype]));

/**
 * Encodes tensors as the chunks of a safetensors file, to be written one after the other.
 *
 * The first chunk is the header; every other chunk is a tensor's own `bytes`, not a copy. Tensors are laid out by
 * falling element size, then by name, and the header is padded to 8 bytes: every tensor begins at a multiple of its
 * element size, and equal tensors give equal files.
 *
 * @throws BinadeError `shape.mismatch` if bytes and shape disagree; `option.invalid` for a tensor named `__metadata__`.
 * @example
 * await writeFileAtomic("model.safetensors", encodeSafetensors(tensors, { step: "200" }));
 */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, SavedTensor>,
  metadata: Readonly<Record<string, string>>,
): Uint8Array[] {
  const ordered = [...tensors].sort(
    ([a, x], [b, y]) => byteSize(y.dtype) - byteSize(x.dtype) || (a < b ? -1 : a > b ? 1 : 0),
  );
  // Built as text, not as an object: objects reorder integer-like keys and treat "__proto__" specially.
  const fields = [`${JSON.stringify(METADATA_KEY)}:${JSON.stringify(metadata)}`];
  let offset = 0;
  for (const [name, tensor] of ordered) {
    checkSaved(name, tensor);
    const end = offset + tensor.bytes.length;
    const row = { dtype: FORMATS[tensor.dtype].safetensors, shape: tensor.shape, data_offsets: [offset, end] };
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(row)}`);
    offset = end;
  }
  return [encodeHeader(`{${fields.join(",")}}`), ...ordered.map(([, tensor]) => tensor.bytes)];
}

/**
 * Decodes a safetensors file. Every tensor's `bytes` is a view into `bytes`, not a copy; files of other writers may
 * place it at any offset, so copy it before viewing it as wider elements.
 *
 * @param name The file's name, for error sentences.
 * @throws BinadeError `checkpoint.corrupt` for anything but a complete, well-formed file in Binade's dtypes.
 */
export function decodeSafetensors(bytes: Uint8Array, name: string): SafetensorsFile {
  const { header, dataBegin } = readHeader(bytes, name);
  const data = bytes.subarray(dataBegin);
  let metadata: Readonly<Record<string, string>> = {};
  const entries: Entry[] = [];
  for (const [key, value] of Object.entries(header)) {
    if (key === METADATA_KEY) metadata = readMetadata(value, name);
    else entries.push(readEntry(key, value, data, name));
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkCoverage(entries, data.length, name);
  return { tensors: new Map(entries.map((entry) => [entry.name, entry.tensor])), metadata };
}

function corrupt(name: string, problem: string, cause?: unknown): BinadeError {
  const message = `${name}: not a complete safetensors file: ${problem}; copy the file again or load an earlier checkpoint`;
  return new BinadeError("checkpoint.corrupt", message, cause === undefined ? {} : { cause });
}

function checkSaved(name: string, tensor: SavedTensor): void {
  if (name === METADATA_KEY) {
    const message = `encodeSafetensors: the name ${METADATA_KEY} is reserved by the file format; rename the tensor`;
    throw new BinadeError("option.invalid", message);
  }
  const expected = byteLengthOf(tensor.dtype, tensor.shape);
  if (expected !== tensor.bytes.length) {
    const needs = expected === undefined ? "is not a list of sizes" : `needs ${expected} bytes`;
    const message = `encodeSafetensors: tensor ${quote(name)}: ${tensor.dtype} [${tensor.shape.join(", ")}] ${needs}, got ${tensor.bytes.length} bytes; pass the whole row-major storage`;
    throw new BinadeError("shape.mismatch", message);
  }
}

function encodeHeader(json: string): Uint8Array {
  const text = new TextEncoder().encode(json);
  const paddedLength = Math.ceil(text.length / 8) * 8;
  if (paddedLength > MAX_HEADER_BYTES) {
    const message = `encodeSafetensors: the header would take ${paddedLength} bytes, at most ${MAX_HEADER_BYTES} are allowed; store less metadata`;
    throw new BinadeError("value.range", message);
  }
  const header = new Uint8Array(LENGTH_BYTES + paddedLength).fill(0x20);
  const view = new DataView(header.buffer);
  view.setUint32(0, paddedLength, true);
  view.setUint32(4, 0, true);
  header.set(text, LENGTH_BYTES);
  return header;
}

function readHeader(bytes: Uint8Array, name: string): { header: Record<string, unknown>; dataBegin: number } {
  if (bytes.length < LENGTH_BYTES) {
    throw corrupt(name, `it has ${bytes.length} bytes, the header's length alone takes ${LENGTH_BYTES}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, LENGTH_BYTES);
  // Exact up to 2^53; anything above is far beyond the limit anyway.
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (length > MAX_HEADER_BYTES)
    throw corrupt(name, `its header claims ${length} bytes, at most ${MAX_HEADER_BYTES} are allowed`);
  if (length > bytes.length - LENGTH_BYTES) {
    throw corrupt(name, `its header claims ${length} bytes, only ${bytes.length - LENGTH_BYTES} follow`);
  }
  const dataBegin = LENGTH_BYTES + length;
  const header = parseJson(bytes.subarray(LENGTH_BYTES, dataBegin), name);
  if (!isRecord(header)) throw corrupt(name, "its header is not a JSON object");
  return { header, dataBegin };
}

function parseJson(bytes: Uint8Array, name: string): unknown {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    throw corrupt(name, "its header is not JSON", error);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw corrupt(name, `its header has the key ${quote(duplicate)} twice`);
  return value;
}

/**
 * The first key that occurs twice in one object of `json`, which must be valid JSON; `JSON.parse` keeps the last one
 * silently.
 */
function findDuplicateKey(json: string): string | undefined {
  const openObjects: Set<string>[] = [];
  for (let at = 0; at < json.length; at++) {
    const character = json[at];
    if (character === "{") openObjects.push(new Set());
    else if (character === "}") openObjects.pop();
    else if (character === '"') {
      const begin = at;
      at = closingQuote(json, begin);
      // A colon can follow a string only if the string is a key.
      let next = at + 1;
      while (/\s/.test(json[next] ?? "")) next++;
      if (json[next] !== ":") continue;
      const key = String(JSON.parse(json.slice(begin, at + 1)));
      const keys = openObjects.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return undefined;
}

/** Position of the quote that ends the string which begins at `begin`. */
function closingQuote(json: string, begin: number): number {
  let at = begin + 1;
  while (json[at] !== '"') at += json[at] === "\\" ? 2 : 1;
  return at;
}

function readMetadata(value: unknown, name: string): Readonly<Record<string, string>> {
  if (!isRecord(value)) throw corrupt(name, `${METADATA_KEY} is not an object`);
  const entries = Object.entries(value).map(([key, text]): [string, string] => {
    if (typeof text !== "string") throw corrupt(name, `${METADATA_KEY}.${key} is not a string`);
    return [key, text];
  });
  return Object.fromEntries(entries);
}

function readEntry(key: string, value: unknown, data: Uint8Array, name: string): Entry {
  const subject = `tensor ${quote(key)}`;
  if (!isRecord(value)) throw corrupt(name, `${subject} is not described by an object`);
  const dtype = typeof value.dtype === "string" ? DTYPE_BY_NAME.get(value.dtype) : undefined;
  if (dtype === undefined) {
    const known = [...DTYPE_BY_NAME.keys()].join(", ");
    throw corrupt(name, `${subject} has dtype ${quote(value.dtype)}, expected one of ${known}`);
  }
  const shape = value.shape;
  const byteLength = isSizes(shape) ? byteLengthOf(dtype, shape) : undefined;
  if (!isSizes(shape) || byteLength === undefined) {
    throw corrupt(name, `${subject} has shape ${quote(shape)}, expected a list of sizes`);
  }
  const offsets = value.data_offsets;
  const [begin, end] = isSizes(offsets) && offsets.length === 2 ? offsets : [];
  if (begin === undefined || end === undefined || begin > end || end > data.length) {
    throw corrupt(
      name,
      `${subject} has data offsets ${quote(offsets)}, expected two within the ${data.length} bytes of data`,
    );
  }
  if (end - begin !== byteLength) {
    throw corrupt(
      name,
      `${subject}: ${dtype} [${shape.join(", ")}] needs ${byteLength} bytes, its offsets give ${end - begin}`,
    );
  }
  return { name: key, begin, end, tensor: { dtype, shape, bytes: data.subarray(begin, end) } };
}

/**
 * `entries` ascend by offset. They must tile the data exactly: a hole could hide anything, an overlap aliases two
 * tensors.
 */
function checkCoverage(entries: readonly Entry[], dataLength: number, name: string): void {
  let covered = 0;
  for (const entry of entries) {
    if (entry.begin < covered) throw corrupt(name, `tensor ${quote(entry.name)} overlaps the one before it`);
    if (entry.begin > covered)
      throw corrupt(name, `${entry.begin - covered} bytes before tensor ${quote(entry.name)} belong to no tensor`);
    covered = entry.end;
  }
  if (covered !== dataLength) throw corrupt(name, `${dataLength - covered} bytes at its end belong to no tensor`);
}

/** Bytes of a tensor, or nothing where `shape` is not a list of sizes or the product leaves the safe integers. */
function byteLengthOf(dtype: DType, shape: readonly number[]): number | undefined {
  if (!isSizes(shape)) return undefined;
  let byteLength: number = byteSize(dtype);
  for (const size of shape) {
    byteLength *= size;
    if (!Number.isSafeInteger(byteLength)) return undefined;
  }
  return byteLength;
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value of a header for an error sentence, in one line of bounded length. */
function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
