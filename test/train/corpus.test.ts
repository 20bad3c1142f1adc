/** Reading corpora: order, what is left out, what is said, and where default text is found. */

import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readBytes } from "../../src/train/corpus.ts";
import { findDefaultCorpus } from "../../src/train/default-corpus.ts";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "binade-corpus-"));
});
afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

function write(files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
}
const at = (...names: string[]): string[] => names.map((name) => join(root, name));
const textOf = (corpus: { bytes: Uint8Array }): string => new TextDecoder().decode(corpus.bytes);

describe("readBytes", () => {
  it("reads a folder in the order of paths and lists what it leaves out", async () => {
    write({
      "b/1.txt": "d",
      "b.txt": "c",
      "a/z/x.md": "b",
      "a/A.txt": "a",
      "é.txt": "e",
      "b/2.bin": "x\0",
      ".git/c": "!",
    });
    symlinkSync(join(root, "a"), join(root, "loop"));
    symlinkSync(join(root, "gone"), join(root, "broken"));
    symlinkSync(join(root, "b.txt"), join(root, "zlink.txt"));
    const corpus = await readBytes([root]);
    expect(textOf(corpus)).toBe("abcdce");
    expect(corpus.files).toEqual(
      at("a/A.txt", "a/z/x.md", "b.txt", "b/1.txt", "zlink.txt", "é.txt").map((path) => ({ path, byteLength: 1 })),
    );
    expect(Object.fromEntries(corpus.skipped.map((skip) => [skip.path.slice(root.length + 1), skip.reason]))).toEqual({
      ".git": "dot folder",
      "b/2.bin": "binary",
      broken: "not a file",
      loop: "linked folder",
    });
    expect(corpus.sha256).toBe(createHash("sha256").update("abcdce").digest("hex"));
  });

  it("reads named files in the given order, binary or not, and none twice", async () => {
    write({ "one.txt": "1", two: "2\0", "more/three": "3" });
    const corpus = await readBytes(at("two", "more", "one.txt", "more/three"));
    expect(textOf(corpus)).toBe("2\x0031");
    expect(corpus.skipped).toEqual([{ path: join(root, "more/three"), reason: "named twice" }]);
    expect(corpus.name).toBe("two and 3 more");
    expect((await readBytes(at("two"), { name: "mine" })).name).toBe("mine");
  });

  it.each([
    ["a missing path", "nothing", "file.missing", /expected a file or a folder, found nothing; check the path/],
    ["a path through a file", "file/x", "file.missing", /found nothing/],
    ["an empty file", "empty", "data.short", /needs 9 bytes, it is empty/],
    ["a short file", "file", "data.short", /file: one window of context 8 needs 9 bytes, got 8/],
    ["an empty folder", "folder", "data.short", /it is empty/],
  ])("refuses %s", async (_, name, code, says) => {
    write({ empty: "", file: "12345678", "folder/.hidden/x": "123456789" });
    const failing = readBytes(at(name), { context: 8 });
    await expect(failing).rejects.toMatchObject({ code });
    await expect(failing).rejects.toThrow(says);
  });

  it("refuses no paths at all", async () => {
    await expect(readBytes([])).rejects.toMatchObject({ code: "data.short" });
  });

  it("names a file that may not be read", async (context) => {
    // The administrator may read everything.
    context.skip(
      process.platform === "win32" || process.getuid?.() === 0,
      "root may read and write everything; run the tests as another user",
    );
    write({ secret: "x" });
    chmodSync(join(root, "secret"), 0);
    await expect(readBytes([root])).rejects.toThrow(/secret: could not be read: permission denied/);
  });
});

describe("findDefaultCorpus", () => {
  const platform = `node_modules/@typescript/typescript-${process.platform}-${process.arch}`;
  const own = {
    "package/README.md": "R",
    "package/docs/b/a.md": "D",
    "package/docs/x.txt": "-",
    "package/dist/i.d.ts": "I",
  };
  const npm = {
    "node/lib/node_modules/npm/package.json": '{"version":"10.1.0"}',
    "node/lib/node_modules/npm/docs/a.md": "N",
  };
  const find = (context = 1): ReturnType<typeof findDefaultCorpus> =>
    findDefaultCorpus({
      context,
      from: join(root, "project"),
      execPath: join(root, "node", "bin", "node"),
      packageRoot: join(root, "package"),
    });
  const old = {
    "project/node_modules/typescript/package.json": '{"version": "5.9.2"}',
    "project/node_modules/typescript/lib/lib.es5.d.ts": "5",
    "project/node_modules/typescript/lib/lib.dom.d.ts": "d",
    "project/node_modules/typescript/lib/lib.webworker.d.ts": "w",
    "project/node_modules/typescript/lib/lib.webworker.iterable.d.ts": "w",
    "project/node_modules/typescript/lib/lib.d.ts": "-",
    "project/node_modules/typescript/lib/typescript.d.ts": "-",
  };

  it("takes the declarations of typescript, without those of workers, in order", async () => {
    write({ ...own, ...npm, ...old });
    const corpus = await find();
    expect(textOf(corpus)).toBe("d5");
    expect(corpus.name).toBe("TypeScript 5.9.2 declarations");
  });

  it("finds them in the package for the platform", async () => {
    write({ ...own, "project/node_modules/typescript/package.json": '{"version":"7.0.2"}' });
    write({
      [`project/${platform}/package.json`]: '{"version":"7.0.2"}',
      [`project/${platform}/lib/lib.es5.d.ts`]: "57",
    });
    const corpus = await find();
    expect(textOf(corpus)).toBe("57");
    expect(corpus.files).toEqual([{ path: join(root, "project", platform, "lib", "lib.es5.d.ts"), byteLength: 2 }]);
  });

  it("falls back to npm's documentation, then to this package's own", async () => {
    write(own);
    expect(textOf(await find())).toBe("RDI");
    write({ ...npm, "node/lib/node_modules/npm/README.md": "M" });
    const corpus = await find();
    expect(textOf(corpus)).toBe("MN");
    expect(corpus.name).toBe("npm 10.1.0 documentation");
  });

  it("passes over a place with less than one window, and says when none is left", async () => {
    write({ ...own, "node/lib/node_modules/npm/README.md": "M" });
    expect(textOf(await find(2))).toBe("RDI");
    await expect(find(3)).rejects.toMatchObject({ code: "file.missing", message: expect.stringContaining("4 bytes") });
  });

  it("finds real text on this machine, the same each time", async () => {
    const corpus = await findDefaultCorpus({ context: 256 });
    expect(corpus.bytes.length).toBeGreaterThan(256);
    expect((await findDefaultCorpus({ context: 256 })).sha256).toBe(corpus.sha256);
    expect(corpus.files.reduce((sum, file) => sum + file.byteLength, 0)).toBe(corpus.bytes.length);
  });
});
