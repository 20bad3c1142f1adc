/** Reading pictures from files: every format, and every way in which one can be broken, in one sentence that names the file. */
import { chmodSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { beforeEach, describe, expect, it } from "vitest";
import type { BinadeError } from "../../src/errors.ts";
import { loadDecoder } from "../../src/train/picture-decoder.ts";
import { readPictures } from "../../src/train/pictures.ts";
import { cifar, idx, put, putMnist } from "../support/pictures.ts";
import { refusal, temporaryFolder } from "./tiny.ts";

let folder = "";
const at = (...names: string[]): string => join(folder, ...names);
beforeEach(() => {
  folder = temporaryFolder();
});

/** One sentence with a fix, that names `part`. */
function expectSentence({ message }: BinadeError, part: string): void {
  expect(message).toContain(part);
  expect(message).not.toContain("\n");
  expect(message).toMatch(/[;:] \w/);
}

describe("IDX", () => {
  it.each([false, true])("reads MNIST's files, compressed: %s", async (gzip) => {
    const set = await readPictures([putMnist(folder, { gzip })]);
    expect(set.training).toMatchObject({ channels: 1, height: 4, width: 5 });
    expect(set.training.classes).toEqual(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    expect([...set.training.labels]).toEqual(Array.from({ length: 20 }, (_, i) => i % 10));
    expect([...set.training.pixels.subarray(0, 3)]).toEqual([0, 13, 26]);
    expect(set.heldOut.labels).toHaveLength(10);
    expect(set).toMatchObject({ byteLength: 600, mayFlip: false, skipped: [] });
  });

  it("has one digest however it is stored and named", async () => {
    const plain = await readPictures([putMnist(at("plain"))]);
    const { sha256 } = await readPictures([putMnist(at("zipped"), { gzip: true })]);
    expect(sha256).toBe(plain.sha256);
    const names = [
      "train-labels-idx1-ubyte",
      "train-images-idx3-ubyte",
      "t10k-images-idx3-ubyte",
      "t10k-labels-idx1-ubyte",
    ];
    const files = await readPictures(names.map((name) => at("plain", name)));
    expect(files).toMatchObject({ sha256, name: "train-labels-idx1-ubyte and 3 more" });
    const others = await readPictures([putMnist(at("others"), { training: 21 })]);
    expect(others.sha256).not.toBe(sha256);
  });

  it("holds out a tenth of each class where there is no test set", async () => {
    const set = await readPictures([putMnist(folder, { training: 40, heldOut: 0 })]);
    expect([...set.heldOut.labels].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(set.training.labels).toHaveLength(30);
  });

  const IMAGES = "train-images-idx3-ubyte";
  const LABELS = "train-labels-idx1-ubyte";
  it.each([
    [
      "truncated pictures",
      IMAGES,
      idx([20, 4, 5], new Uint8Array(399)),
      "data.corrupt",
      /20 × 4 × 5 = 400 bytes.* got 399/,
    ],
    ["pictures that go on", IMAGES, idx([20, 4, 5], new Uint8Array(401)), "data.corrupt", /got 401/],
    [
      "a cut header",
      IMAGES,
      idx([20, 4, 5], new Uint8Array()).subarray(0, 9),
      "data.corrupt",
      /header of 16 bytes.* got 9 bytes/,
    ],
    ["an empty file", IMAGES, new Uint8Array(), "data.corrupt", /got an empty file/],
    [
      "another file",
      IMAGES,
      Buffer.from("<html>not found</html>"),
      "data.corrupt",
      /begins with 00 00 08 03, got 3c 68 74 6d/,
    ],
    [
      "floats",
      IMAGES,
      Buffer.concat([Uint8Array.of(0, 0, 13, 3), new Uint8Array(412)]),
      "data.corrupt",
      /got 00 00 0d 03/,
    ],
    ["labels as pictures", LABELS, idx([20, 1, 1], new Uint8Array(20)), "data.corrupt", /expected IDX labels/],
    ["too few labels", LABELS, idx([19], new Uint8Array(19)), "data.mixed", /20 pictures of 4 × 5 and 19 labels/],
    ["no pictures", IMAGES, idx([0, 4, 5], new Uint8Array()), "data.short", /got 0 pictures/],
    [
      "test pictures of another size",
      "t10k-images-idx3-ubyte",
      idx([10, 5, 4], new Uint8Array(200)),
      "data.mixed",
      /expected pictures of 4 × 5 .* got 5 × 4/,
    ],
    [
      "compressed pictures that are cut off",
      IMAGES,
      gzipSync(idx([20, 4, 5], new Uint8Array(399))),
      "data.corrupt",
      /got 399/,
    ],
    [
      "compressed pictures that go on",
      IMAGES,
      gzipSync(idx([20, 4, 5], new Uint8Array(2 ** 24))),
      "data.corrupt",
      /expected 20 × 4 × 5 = 400 bytes behind the header, got more; fetch/,
    ],
    [
      "compressed pictures beyond memory",
      IMAGES,
      gzipSync(idx([2 ** 31, 2 ** 10, 2 ** 10], new Uint8Array(4))),
      "memory.insufficient",
      /train-images-idx3-ubyte: .* 2251799813685264 bytes .*; fetch the file again, or use fewer of them/,
    ],
    [
      "compressed text",
      IMAGES,
      gzipSync("no pictures at all, but a text"),
      "data.corrupt",
      /expected IDX grey pictures/,
    ],
    ["a broken gzip", IMAGES, gzipSync(new Uint8Array(500)).subarray(0, 12), "data.corrupt", /a whole gzip file/],
  ] as const)("refuses %s", async (_, name, bytes, code, message) => {
    putMnist(folder);
    writeFileSync(at(name), bytes);
    const error = await refusal(readPictures([folder]));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expectSentence(error, name);
  });

  it("refuses pictures without labels, and two sets in one folder", async () => {
    put(at("train-images-idx3-ubyte"), idx([1, 1, 1], new Uint8Array(1)));
    const alone = await refusal(readPictures([folder]));
    expect(alone.code).toBe("file.missing");
    expectSentence(alone, "train-labels-idx1-ubyte");
    put(at("emnist-train-images-idx3-ubyte"), idx([1, 1, 1], new Uint8Array(1)));
    expect((await refusal(readPictures([folder]))).code).toBe("data.mixed");
  });
});

describe("CIFAR", () => {
  it("reads CIFAR-10 with its names", async () => {
    put(at("data_batch_1.bin"), cifar([[3], [1]]));
    put(at("data_batch_2.bin"), cifar([[9]]));
    put(at("test_batch.bin"), cifar([[0], [2]]));
    const names = "airplane automobile bird cat deer dog frog horse ship truck".split(" ");
    put(at("batches.meta.txt"), `${names.join("\n")}\n\n`);
    const set = await readPictures([folder]);
    expect(set.training).toMatchObject({ channels: 3, height: 32, width: 32, classes: names });
    expect([...set.training.labels]).toEqual([3, 1, 9]);
    expect([0, 3071, 3072, 6144].map((i) => set.training.pixels[i])).toEqual([1, 1, 11, 1]);
    expect([...set.heldOut.labels]).toEqual([0, 2]);
    expect(set.mayFlip).toBe(true);
  });

  it("reads the fine labels of CIFAR-100", async () => {
    put(
      at("train.bin"),
      cifar([
        [19, 99],
        [1, 5],
      ]),
    );
    put(at("test.bin"), cifar([[0, 7]]));
    const set = await readPictures([folder]);
    expect([...set.training.labels, ...set.heldOut.labels]).toEqual([99, 5, 7]);
    expect(set.training.classes).toHaveLength(100);
  });

  it.each([
    [
      "a truncated file",
      "data_batch_1.bin",
      cifar([[1]]).subarray(1),
      "data.corrupt",
      /records of 3073 bytes, got 3072/,
    ],
    ["an empty file", "data_batch_1.bin", new Uint8Array(), "data.corrupt", /got 0 bytes/],
    [
      "a label out of range",
      "data_batch_1.bin",
      cifar([[1], [10]]),
      "index.outOfRange",
      /record 1 is 10, CIFAR-10 has 0 to 9/,
    ],
    ["names of other classes", "batches.meta.txt", "cat\ndog\n", "data.corrupt", /names of 10 classes.* got 2/],
  ] as const)("refuses %s", async (_, name, bytes, code, message) => {
    put(at("data_batch_1.bin"), cifar([[1], [1]]));
    put(at(name), bytes);
    const error = await refusal(readPictures([folder]));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expectSentence(error, name);
  });
});

describe("sets of several formats", () => {
  it.each([
    ["IDX and CIFAR-10", ["train-images-idx3-ubyte", "data_batch_1.bin"]],
    ["CIFAR-10 and CIFAR-100", ["data_batch_1.bin", "test_batch.bin", "train.bin"]],
  ])("%s in one folder are refused, and may be named apart", async (names, files) => {
    putMnist(folder, { heldOut: 0 });
    const records = Array.from({ length: 20 }, (_, i) => [i % 2]);
    for (const file of files.filter((name) => name.endsWith(".bin"))) put(at(file), cifar(records));
    if (!files.includes("train-images-idx3-ubyte")) rmSync(at("train-images-idx3-ubyte"));
    const error = await refusal(readPictures([folder]));
    expect(error.code).toBe("data.mixed");
    expect(error.message).toContain(`got ${names}`);
    expectSentence(error, folder);
    expect((await readPictures([at("data_batch_1.bin")])).training.channels).toBe(3);
  });

  it("says which folders were left out beside files", async () => {
    putMnist(folder);
    put(at("scans", "a.png"), "");
    const { skipped } = await readPictures([folder]);
    expect(skipped).toEqual([{ path: at("scans"), reason: "beside the files of a set" }]);
  });

  it("knows what only CIFAR's test files are, and names the folder that has too little to hold out", async () => {
    put(at("test_batch.bin"), cifar([[1]]));
    expect((await refusal(readPictures([folder]))).message).toMatch(
      /holds out: add the files to train on, data_batch_1/,
    );
    put(at("data_batch_1.bin"), cifar([[1]]));
    rmSync(at("test_batch.bin"));
    const error = await refusal(readPictures([folder]));
    expect(error.code).toBe("data.short");
    expect(error.message).toMatch(/two pictures of a class, one to train on and one to hold out, got 1 of 10 classes/);
    expectSentence(error, folder);
  });
});

const sharp = await import("sharp").then(
  (module) => module.default,
  () => null,
);

/** A good file. */
const PNG: Uint8Array =
  (await sharp?.({ create: { width: 6, height: 5, channels: 3, background: "#123456" } })
    .png()
    .toBuffer()) ?? Buffer.of();

const IDAT = Buffer.from(PNG).indexOf("IDAT");

/** Pictures need an encoder; the rest of the suite does not. */
describe.skipIf(sharp === null)("picture folders (skipped without the package sharp: run npm ci)", () => {
  /** A file whose pixels all are `color`. */
  async function paint(path: string, color: string, change: { width?: number; height?: number; grey?: boolean } = {}) {
    if (sharp === null) return;
    const { width = 6, height = 5, grey = false } = change;
    const picture = sharp({ create: { width, height, channels: 4, background: color } });
    // "#rrggbbaa" has a fourth channel.
    if (color.length < 9) picture.removeAlpha().toColourspace(grey ? "b-w" : "srgb");
    put(path, await (path.endsWith(".png") ? picture.png() : picture.jpeg({ quality: 100 })).toBuffer());
  }

  async function cats(root = folder): Promise<void> {
    await paint(join(root, "cat", "2.PNG".toLowerCase()), "#ff8000");
    await paint(join(root, "cat", "1.jpg"), "#808080");
    await paint(join(root, "dog", "deep", "3.jpeg"), "#0000ff");
    await paint(join(root, "dog", "4.png"), "#00ff0080");
  }

  it("reads a folder per class, ordered by name, whole pictures as planes", async () => {
    await cats();
    put(at("cat", "notes.txt"), "");
    put(at("readme.md"), "");
    put(at(".DS_Store"), "");
    const { training, heldOut, skipped, mayFlip } = await readPictures([folder], { heldOut: 0.5 });
    expect(training).toMatchObject({ channels: 3, height: 5, width: 6, classes: ["cat", "dog"] });
    expect([...training.labels, ...heldOut.labels]).toEqual([0, 1, 0, 1]);
    const colors = [training, heldOut].flatMap(({ pixels }) =>
      [0, 90].map((i) => [0, 30, 60].map((c) => pixels[i + c] ?? -1)),
    );
    const wanted = [
      [128, 128, 128],
      [255, 128, 0],
      [0, 0, 255],
      [0, 128, 0],
    ];
    // JPEG is not exact: within 3 of 255.
    const isNear = (want: readonly number[]) => (got: readonly number[]) =>
      got.every((v, c) => Math.abs(v - (want[c] ?? 0)) <= 3);
    for (const want of wanted) expect(colors.some(isNear(want)), `${want} in ${colors.join("; ")}`).toBe(true);
    expect(skipped).toEqual([
      { path: at("readme.md"), reason: "not in a class folder" },
      { path: at("cat", "notes.txt"), reason: "not PNG or JPEG" },
    ]);
    expect(mayFlip).toBe(true);
  });

  it("takes the split of folders that are called so", async () => {
    await cats(at("train"));
    await paint(at("val", "dog", "1.png"), "#ffffff");
    await paint(at("Test", "cat", "1.png"), "#ffffff");
    mkdirSync(at("train", ".hidden"));
    const set = await readPictures([folder]);
    expect([...set.training.labels]).toEqual([0, 0, 1, 1]);
    expect([...set.heldOut.labels]).toEqual([0]);
  });

  it("scales and cuts to a size that is asked for", async () => {
    await cats();
    await paint(at("dog", "wide.png"), "#00ff00", { width: 40, height: 20 });
    const { training } = await readPictures([folder], { size: 8 });
    expect(training).toMatchObject({ height: 8, width: 8 });
  });

  it("reads grey pictures as one channel, also of 16 bits", async () => {
    for (const name of ["a", "b"]) {
      await paint(at(name, "1.png"), "#808080", { grey: true });
      put(
        at(name, "2.png"),
        (await sharp?.(new Uint16Array(30).fill(32896), { raw: { width: 6, height: 5, channels: 1 } })
          .toColourspace("grey16")
          .png()
          .toBuffer()) ?? "",
      );
    }
    const { training, heldOut } = await readPictures([folder]);
    expect(training.channels).toBe(1);
    expect(new Set([...training.pixels, ...heldOut.pixels])).toEqual(new Set([128]));
  });

  it.each([
    [
      "another size",
      () => paint(at("dog", "9.png"), "#fff", { width: 7 }),
      "data.mixed",
      /expected 5 × 6 in colour as .*, got 5 × 7/,
      "9.png",
    ],
    [
      "grey among colours",
      () => paint(at("dog", "9.png"), "#fff", { grey: true }),
      "data.mixed",
      /in colour as .* in grey/,
      "9.png",
    ],
    [
      "a truncated PNG",
      () => put(at("dog", "9.png"), PNG.subarray(0, PNG.length - 20)),
      "data.corrupt",
      /could not decode/,
      "9.png",
    ],
    [
      "a damaged PNG",
      () =>
        put(
          at("dog", "9.png"),
          PNG.map((b, i) => (i > IDAT + 4 && i < IDAT + 8 ? b ^ 255 : b)),
        ),
      "data.corrupt",
      /could not decode/,
      "9.png",
    ],
    ["text called PNG", () => put(at("dog", "9.png"), "hello"), "data.corrupt", /unsupported image format/, "9.png"],
    ["an empty file", () => put(at("dog", "9.jpg"), ""), "data.corrupt", /could not decode/, "9.jpg"],
    [
      "a drawing called PNG",
      () => put(at("dog", "9.png"), '<svg xmlns="http://www.w3.org/2000/svg" width="6" height="5"/>'),
      "data.corrupt",
      /it is svg/,
      "9.png",
    ],
    ["a class without pictures", () => mkdirSync(at("horse")), "data.short", /of the class horse, found none/, "horse"],
    [
      "a strange class to test on",
      async () => {
        await cats(at("train"));
        await paint(at("test", "cow", "1.png"), "#fff");
        await paint(at("test", "cat", "1.png"), "#fff");
      },
      "data.mixed",
      /has no folder cow/,
      "cow",
    ],
  ] as const)("refuses %s", async (_, spoil, code, message, name) => {
    await cats();
    await spoil();
    const error = await refusal(readPictures([folder]));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expectSentence(error, name);
  });

  it("refuses one class only", async () => {
    await paint(at("cat", "1.png"), "#fff");
    expect(await refusal(readPictures([folder]))).toMatchObject({
      code: "data.short",
      message: expect.stringContaining("two classes"),
    });
  });

  it("refuses a file that may not be read", async ({ skip }) => {
    skip(process.getuid?.() === 0, "root may read everything; run the tests as another user");
    await cats();
    chmodSync(at("dog", "4.png"), 0);
    expect((await refusal(readPictures([folder]))).code).toBe("file.unreadable");
  });
});

/** What is made at the path "x", and the refusal. */
type Refused = readonly [name: string, make: () => unknown, code: string, message: RegExp];

describe("a folder", () => {
  it.each<Refused>([
    ["that is empty", () => mkdirSync(at("x")), "data.short", /the folder is empty/],
    ["of text", () => put(at("x", "a.txt"), ""), "data.unknown", /found a\.txt; name another/],
    [
      "of pictures without classes",
      () => {
        put(at("x", "a.png"), "");
        put(at("x", "b.jpg"), "");
      },
      "data.unknown",
      /one folder per class/,
    ],
    ["with an archive", () => put(at("x", "cifar-10-binary.tar.gz"), ""), "data.unknown", /unpack the archive/],
    ["of CIFAR for Python", () => put(at("x", "data_batch_1"), ""), "data.unknown", /fetch the binary version/],
    ["that is not there", () => undefined, "file.missing", /found nothing/],
  ])("%s is refused", async (_, make, code, message) => {
    make();
    const error = await refusal(readPictures([at("x")]));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expectSentence(error, at("x"));
  });

  it("and another are refused, and so is a size for files that have one", async () => {
    putMnist(folder);
    expect((await refusal(readPictures([folder, folder]))).code).toBe("option.invalid");
    expect((await refusal(readPictures([folder], { size: 8 }))).code).toBe("option.invalid");
  });

  it("of PNG files without the decoder says what to install", async () => {
    put(at("cat", "1.png"), "");
    put(at("dog", "1.png"), "");
    const error = await refusal(
      readPictures([folder], { decoder: () => loadDecoder("binade-decoder-that-is-not-there") }),
    );
    expect(error.code).toBe("package.missing");
    expect(error.message).toContain("run npm install binade-decoder-that-is-not-there");
  });
});
