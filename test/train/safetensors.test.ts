/** The safetensors codec: known bytes, round trips, and a tensor map or one sentence for every file. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BinadeError } from "../../src/errors.ts";
import { byteSize, DTYPES, FORMATS } from "../../src/formats/table.ts";
import { decodeSafetensors, encodeSafetensors, type SavedTensor } from "../../src/train/safetensors.ts";

const FILE = "model.safetensors";

function join(chunks: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(chunks));
}

/** A file with this header text and data, whatever they say. */
function file(header: string | Uint8Array, data: Uint8Array | number = 0, claimedLength?: number): Uint8Array {
  const text = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(claimedLength ?? text.length), true);
  return join([length, text, typeof data === "number" ? new Uint8Array(data) : data]);
}

function failure(bytes: Uint8Array): BinadeError {
  try {
    decodeSafetensors(bytes, FILE);
  } catch (error) {
    if (error instanceof BinadeError) return error;
    throw error;
  }
  throw new Error("expected decodeSafetensors to throw");
}

const dtypes = fc.constantFrom(...DTYPES);
const savedTensor: fc.Arbitrary<SavedTensor> = fc
  .tuple(dtypes, fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }))
  .chain(([dtype, shape]) => {
    const length = shape.reduce((product, size) => product * size, byteSize(dtype));
    return fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => ({ dtype, shape, bytes }));
  });
const name = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.constantFrom("__proto__", "constructor", "0", "10", 'a"b\\', "层.重み"),
);
const tensorMap = fc.array(fc.tuple(name, savedTensor), { maxLength: 6 }).map((rows) => new Map(rows));
const text = fc.string({ unit: "grapheme" });
const metadata = fc.dictionary(fc.oneof(text, fc.constant("step")), text, { noNullPrototype: true });

describe("encodeSafetensors", () => {
  it("writes the documented bytes", () => {
    const tensors = new Map<string, SavedTensor>([
      ["half", { dtype: "bfloat16", shape: [1], bytes: new Uint8Array([0x80, 0x3f]) }],
      ["one", { dtype: "float32", shape: [], bytes: new Uint8Array([0, 0, 0x80, 0x3f]) }],
    ]);
    const json =
      '{"__metadata__":{"step":"7"},"one":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"half":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]}}';
    const padded = json.padEnd(Math.ceil(json.length / 8) * 8, " ");
    const expected = file(padded, new Uint8Array([0, 0, 0x80, 0x3f, 0x80, 0x3f]));
    expect(join(encodeSafetensors(tensors, { step: "7" }))).toEqual(expected);
  });

  it("passes the data on without a copy, and the same file for any order of the map", () => {
    const a: SavedTensor = { dtype: "uint8", shape: [3], bytes: new Uint8Array([1, 2, 3]) };
    const b: SavedTensor = { dtype: "int64", shape: [1], bytes: new Uint8Array(8).fill(9) };
    const chunks = encodeSafetensors(
      new Map([
        ["a", a],
        ["b", b],
      ]),
      {},
    );
    expect(chunks[1]).toBe(b.bytes);
    expect(chunks[2]).toBe(a.bytes);
    expect(
      encodeSafetensors(
        new Map([
          ["b", b],
          ["a", a],
        ]),
        {},
      ),
    ).toEqual(chunks);
  });

  it("aligns every tensor to its element size", () => {
    fc.assert(
      fc.property(tensorMap, metadata, (tensors, meta) => {
        const bytes = join(encodeSafetensors(tensors, meta));
        for (const tensor of decodeSafetensors(bytes, FILE).tensors.values()) {
          expect((tensor.bytes.byteOffset - bytes.byteOffset) % byteSize(tensor.dtype)).toBe(0);
        }
      }),
    );
  });

  it.each([
    ["too few bytes", "w", { dtype: "float32", shape: [2], bytes: new Uint8Array(4) }, "shape.mismatch"],
    ["a negative size", "w", { dtype: "float32", shape: [-1], bytes: new Uint8Array(4) }, "shape.mismatch"],
    ["a fraction", "w", { dtype: "uint8", shape: [1.5], bytes: new Uint8Array(1) }, "shape.mismatch"],
    ["the reserved name", "__metadata__", { dtype: "uint8", shape: [0], bytes: new Uint8Array() }, "option.invalid"],
  ] as const)("refuses %s", (_, key, tensor, code) => {
    expect(() => encodeSafetensors(new Map([[key, tensor]]), {})).toThrow(expect.objectContaining({ code }));
  });
});

describe("decodeSafetensors", () => {
  it.each(DTYPES)("reads %s under its name in the format", (dtype) => {
    const size = byteSize(dtype);
    const header = `{"x":{"dtype":"${FORMATS[dtype].safetensors}","shape":[1],"data_offsets":[0,${size}]}}`;
    const data = new Uint8Array(size).fill(1);
    const { tensors, metadata: none } = decodeSafetensors(file(header, data), FILE);
    expect(tensors.get("x")).toEqual({ dtype, shape: [1], bytes: data });
    expect(none).toEqual({});
  });

  it("gives back what was encoded, as views", () => {
    fc.assert(
      fc.property(tensorMap, metadata, (tensors, meta) => {
        const bytes = join(encodeSafetensors(tensors, meta));
        const decoded = decodeSafetensors(bytes, FILE);
        expect(new Map([...decoded.tensors].sort())).toEqual(new Map([...tensors].sort()));
        expect(decoded.metadata).toEqual(meta);
        for (const tensor of decoded.tensors.values()) expect(tensor.bytes.buffer).toBe(bytes.buffer);
      }),
    );
  });

  it("reads from the middle of a buffer", () => {
    const tensors = new Map<string, SavedTensor>([
      ["x", { dtype: "uint8", shape: [2], bytes: new Uint8Array([5, 6]) }],
    ]);
    const shifted = join([new Uint8Array(3), ...encodeSafetensors(tensors, {})]).subarray(3);
    expect(decodeSafetensors(shifted, FILE).tensors).toEqual(tensors);
  });

  const x = (fields: string): string => `{"x":{${fields}}}`;
  const u8 = (begin: number, end: number): string =>
    `{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]}`;
  it.each<[problem: string, bytes: Uint8Array, says: RegExp]>([
    ["an empty file", new Uint8Array(), /it has 0 bytes/],
    ["a header beyond the end", file("{}", 0, 3), /claims 3 bytes, only 2 follow/],
    ["a header above the limit", file("{}", 0, 100_000_001), /at most 100000000/],
    ["a header length above 2^53", file("{}", 0, 2 ** 63), /at most 100000000/],
    ["an empty header", file(""), /not JSON/],
    ["a header that is not JSON", file("{'x':1}"), /not JSON/],
    ["a header that is not UTF-8", file(new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), /not JSON/],
    ["a byte order mark", file("\ufeff{}"), /not JSON/],
    ["a header that is a list", file("[]"), /not a JSON object/],
    ["a header that is null", file("null"), /not a JSON object/],
    ["the same tensor twice", file(`{"x":${u8(0, 1)},"x":${u8(1, 2)}}`, 2), /key "x" twice/],
    ["the same tensor twice, escaped", file(`{"x":${u8(0, 1)},"\\u0078" : ${u8(1, 2)}}`, 2), /key "x" twice/],
    ["a field twice", file(x('"dtype":"U8","dtype":"BOOL","shape":[1],"data_offsets":[0,1]'), 1), /"dtype" twice/],
    ["metadata that is a list", file('{"__metadata__":["a"]}'), /__metadata__ is not an object/],
    ["metadata that is a number", file('{"__metadata__":{"a":1}}'), /__metadata__.a is not a string/],
    ["a tensor that is null", file('{"x":null}'), /"x" is not described/],
    ["an unknown dtype", file(x('"dtype":"C64","shape":[1],"data_offsets":[0,8]'), 8), /dtype "C64", expected one of/],
    ["a missing dtype", file(x('"shape":[1],"data_offsets":[0,1]'), 1), /dtype nothing/],
    ["an inherited dtype", file(x('"dtype":"constructor","shape":[1],"data_offsets":[0,1]'), 1), /"constructor"/],
    ["a missing shape", file(x('"dtype":"U8","data_offsets":[0,1]'), 1), /shape nothing/],
    ["a negative size", file(x('"dtype":"U8","shape":[-1],"data_offsets":[0,1]'), 1), /shape \[-1\]/],
    [
      "a huge shape",
      file(x('"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]')),
      /expected a list of/,
    ],
    ["missing offsets", file(x('"dtype":"U8","shape":[1]'), 1), /offsets nothing/],
    ["three offsets", file(x('"dtype":"U8","shape":[1],"data_offsets":[0,1,1]'), 1), /offsets \[0,1,1\]/],
    ["offsets backwards", file(x('"dtype":"U8","shape":[1],"data_offsets":[1,0]'), 1), /offsets \[1,0\]/],
    ["offsets beyond the data", file(x('"dtype":"U8","shape":[2],"data_offsets":[0,2]'), 1), /within the 1 bytes/],
    ["the wrong size", file(x('"dtype":"F32","shape":[2],"data_offsets":[0,4]'), 4), /float32 \[2\] needs 8 bytes/],
    ["overlapping tensors", file(`{"x":${u8(0, 2)},"y":${u8(1, 3)}}`, 3), /"y" overlaps/],
    ["the same data twice", file(`{"x":${u8(0, 2)},"y":${u8(0, 2)}}`, 2), /"y" overlaps/],
    ["a hole", file(`{"x":${u8(0, 1)},"y":${u8(2, 3)}}`, 3), /1 bytes before tensor "y"/],
    ["a hole at the start", file(`{"x":${u8(1, 2)}}`, 2), /1 bytes before tensor "x"/],
    ["bytes after the last tensor", file(`{"x":${u8(0, 1)}}`, 3), /2 bytes at its end/],
    ["data without tensors", file("{}", 1), /1 bytes at its end/],
  ])("refuses %s", (_, bytes, says) => {
    const error = failure(bytes);
    expect(error.code).toBe("checkpoint.corrupt");
    expect(error.message).toMatch(says);
    expect(error.message).toMatch(/^model\.safetensors: .*copy the file again or load an earlier checkpoint$/);
  });

  it("takes a long string in the header without recursion", () => {
    const note = 'a\\"\\\\'.repeat(200_000);
    const { metadata: meta } = decodeSafetensors(file(`{"__metadata__":{"note":"${note}"}}`), FILE);
    expect(meta.note?.length).toBe(600_000);
  });
});

describe("damage", () => {
  const sample = join(
    encodeSafetensors(
      new Map<string, SavedTensor>([
        ["blocks.0.weight", { dtype: "float32", shape: [2, 3], bytes: new Uint8Array(24).fill(1) }],
        ["blocks.0.bias", { dtype: "float16", shape: [3], bytes: new Uint8Array(6).fill(2) }],
        ["empty", { dtype: "int64", shape: [0, 5], bytes: new Uint8Array() }],
        ["flag", { dtype: "bool", shape: [], bytes: new Uint8Array([1]) }],
      ]),
      { format: "binade", step: "12" },
    ),
  );

  it("is found at every truncation", () => {
    for (let length = 0; length < sample.length; length++) {
      expect(failure(sample.subarray(0, length)).code).toBe("checkpoint.corrupt");
    }
  });

  it("of one byte never gives anything but tensors or a BinadeError, at every byte", () => {
    const damaged = sample.slice();
    for (let at = 0; at < sample.length; at++) {
      for (let value = 0; value < 256; value += 7) {
        damaged[at] = value;
        expectTensorsOrSentence(damaged);
      }
      damaged[at] = sample[at] ?? 0;
    }
  });

  it("of several bytes, and noise, never give anything but tensors or a BinadeError", () => {
    const flips = fc.array(fc.tuple(fc.nat(sample.length - 1), fc.nat(255)), { minLength: 2, maxLength: 12 });
    fc.assert(
      fc.property(flips, (changes) => {
        const damaged = sample.slice();
        for (const [at, value] of changes) damaged[at] = value;
        expectTensorsOrSentence(damaged);
      }),
      { numRuns: 2000 },
    );
    fc.assert(fc.property(fc.json(), fc.uint8Array(), (json, data) => expectTensorsOrSentence(file(json, data))));
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => expectTensorsOrSentence(noise)));
  });
});

/** Whatever is accepted must be consistent in itself. */
function expectTensorsOrSentence(bytes: Uint8Array): void {
  try {
    for (const { dtype, shape, bytes: data } of decodeSafetensors(bytes, FILE).tensors.values()) {
      const needed = shape.reduce((product, size) => product * size, byteSize(dtype));
      if (needed !== data.length) throw new Error(`${dtype} [${shape}] with ${data.length} bytes was accepted`);
    }
  } catch (error) {
    if (!(error instanceof BinadeError) || error.code !== "checkpoint.corrupt") throw error;
  }
}
