/** Atomic writes: all or nothing under every failure of every file-system call, injected and real. */

import { randomUUID } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { open, realpath, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { BinadeError } from "../../src/errors.ts";
import { type AtomicFileSystem, makeFolders, writeFileAtomic } from "../../src/train/atomic.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "binade-atomic-"));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

const chunks = (...texts: string[]): Uint8Array[] => texts.map((text) => new TextEncoder().encode(text));
const read = (name: string): string => readFileSync(join(folder, name), "utf8");
const failed = (code: string): Error => Object.assign(new Error(`injected ${code}`), { code });

async function refusal(write: Promise<void>): Promise<BinadeError> {
  return await write.then(
    () => expect.unreachable("the write should have failed"),
    (error: BinadeError) => error,
  );
}

type Call =
  | "open"
  | "write"
  | "secondWrite"
  | "sync"
  | "close"
  | "rename"
  | "folderOpen"
  | "folderSync"
  | "folderClose";

/** The real file system, except that `failing` fails with `code`; `log` gets the order of the calls. */
function broken(failing: Call | undefined, code = "EIO", log: string[] = []): AtomicFileSystem {
  const step = (call: Call): void => {
    log.push(call);
    if (call === failing) throw failed(code);
  };
  return {
    async open(path, flags) {
      const isFolder = flags === "r";
      step(isFolder ? "folderOpen" : "open");
      const file = await open(path, flags);
      let writes = 0;
      return {
        async writeFile(chunk) {
          // Half of it first: a full disk takes what still fits.
          await file.writeFile(chunk.subarray(0, chunk.length / 2));
          step(writes++ === 0 ? "write" : "secondWrite");
          await file.writeFile(chunk.subarray(chunk.length / 2));
        },
        async sync() {
          step(isFolder ? "folderSync" : "sync");
          await file.sync();
        },
        async close() {
          await file.close();
          step(isFolder ? "folderClose" : "close");
        },
      };
    },
    async rename(from, to) {
      step("rename");
      await rename(from, to);
    },
    realpath: (path) => realpath(path),
    remove: (path) => rm(path, { force: true }),
  };
}

describe("writeFileAtomic", () => {
  it("makes a file from its chunks and leaves nothing else behind", async () => {
    await writeFileAtomic(join(folder, "model"), chunks("ab", "", "cd"));
    expect(read("model")).toBe("abcd");
    expect(readdirSync(folder)).toEqual(["model"]);
  });

  it("replaces a file, by none of its bytes if there are none", async () => {
    writeFileSync(join(folder, "model"), "before");
    await writeFileAtomic(join(folder, "model"), []);
    expect(read("model")).toBe("");
  });

  it("flushes the content before the new name, and the folder after it", async () => {
    const log: string[] = [];
    await writeFileAtomic(join(folder, "model"), chunks("a", "b"), broken(undefined, "", log));
    const order = [
      "open",
      "write",
      "secondWrite",
      "sync",
      "close",
      "rename",
      "folderOpen",
      "folderSync",
      "folderClose",
    ];
    expect(log).toEqual(order);
  });

  it("writes concurrently to one path without mixing", async () => {
    const texts = Array.from({ length: 8 }, (_, index) => String(index).repeat(1000));
    await Promise.all(texts.map((text) => writeFileAtomic(join(folder, "model"), chunks(text))));
    expect(texts).toContain(read("model"));
    expect(readdirSync(folder)).toEqual(["model"]);
  });

  it("writes through a symbolic link", async () => {
    mkdirSync(join(folder, "disk"));
    writeFileSync(join(folder, "disk", "model"), "before");
    symlinkSync(join(folder, "disk", "model"), join(folder, "latest"));
    await writeFileAtomic(join(folder, "latest"), chunks("after"));
    expect(read("disk/model")).toBe("after");
  });
});

describe("a failure", () => {
  const calls: Call[] = ["open", "write", "secondWrite", "sync", "close", "rename"];
  const codes = ["ENOSPC", "EACCES", "EROFS", "EIO", "EDQUOT", "ESOMETHING"];
  it.each(
    calls.flatMap((call) => codes.map((code) => [call, code] as const)),
  )("of %s with %s leaves what was there, and no temporary file", async (call, code) => {
    writeFileSync(join(folder, "model"), "before");
    for (const name of ["model", "fresh"]) {
      const path = join(folder, name);
      const error = await refusal(writeFileAtomic(path, chunks("after", "wards"), broken(call, code)));
      expect(error).toMatchObject({ name: "BinadeError", code: "file.write", cause: { code } });
      expect(error.message.startsWith(`${path}: could not be written: `)).toBe(true);
    }
    expect(read("model")).toBe("before");
    expect(readdirSync(folder)).toEqual(["model"]);
  });

  it.each([
    ["ENOSPC", /no space left on the device; free some space/],
    ["EACCES", /permission denied; make its folder writable/],
    ["EROFS", /file system is read-only; choose a path on a writable disk/],
    ["ESOMETHING", /injected ESOMETHING; choose another path/],
  ])("with %s says why and what to do", async (code, says) => {
    const error = await refusal(writeFileAtomic(join(folder, "model"), chunks("a"), broken("write", code)));
    expect(error.message).toMatch(says);
  });

  it("of the chunks themselves is cleaned up as well", async () => {
    const source = function* (): Generator<Uint8Array> {
      yield new Uint8Array(4);
      throw new Error("no more");
    };
    expect((await refusal(writeFileAtomic(join(folder, "model"), source()))).message).toMatch(/no more/);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("to remove the temporary file does not hide the first failure", async () => {
    const fileSystem = { ...broken("sync", "ENOSPC"), remove: () => Promise.reject(failed("EACCES")) };
    const error = await refusal(writeFileAtomic(join(folder, "model"), chunks("a"), fileSystem));
    expect(error.message).toMatch(/no space left/);
  });

  it("to open, or to flush where that is not supported, of the folder is tolerated; a device error is not", async () => {
    const path = join(folder, "model");
    await writeFileAtomic(path, chunks("1"), broken("folderOpen", "EISDIR"));
    await writeFileAtomic(path, chunks("2"), broken("folderSync", "EINVAL"));
    expect(read("model")).toBe("2");
    const error = await refusal(writeFileAtomic(path, chunks("3"), broken("folderSync", "EIO")));
    expect(error.message).toMatch(/was written, but its folder could not be flushed/);
    expect(read("model")).toBe("3");
  });
});

describe("the real file system", () => {
  it("names a missing folder", async () => {
    const error = await refusal(writeFileAtomic(join(folder, "no", "model"), chunks("a")));
    expect(error.message).toMatch(/its folder does not exist; create the folder first/);
    expect(existsSync(join(folder, "no"))).toBe(false);
  });

  it("refuses a folder in the place of the file, and a file in the place of the folder", async () => {
    mkdirSync(join(folder, "taken", "inside"), { recursive: true });
    writeFileSync(join(folder, "file"), "x");
    expect((await refusal(writeFileAtomic(join(folder, "taken"), chunks("a")))).code).toBe("file.write");
    const error = await refusal(writeFileAtomic(join(folder, "file", "model"), chunks("a")));
    expect(error.message).toMatch(/a part of the path is a file/);
    expect(readdirSync(folder).sort()).toEqual(["file", "taken"]);
  });

  it("refuses a folder without write permission", async (context) => {
    // The administrator may write everywhere.
    context.skip(
      process.platform === "win32" || process.getuid?.() === 0,
      "root may read and write everything; run the tests as another user",
    );
    chmodSync(folder, 0o500);
    const error = await refusal(writeFileAtomic(join(folder, "model"), chunks("a")));
    chmodSync(folder, 0o700);
    expect(error.message).toMatch(/permission denied/);
  });

  it("refuses a name that is too long", async () => {
    const error = await refusal(writeFileAtomic(join(folder, randomUUID().repeat(20)), chunks("a")));
    expect(error.message).toMatch(/name is too long/);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("makeFolders", () => {
  it("makes all that are missing, and keeps what is there", async () => {
    const deep = join(folder, "a", "b", "c");
    await makeFolders(deep);
    writeFileSync(join(deep, "kept"), "x");
    await makeFolders(deep);
    expect(readdirSync(deep)).toEqual(["kept"]);
    await expect(makeFolders(join(deep, "kept"))).rejects.toMatchObject({ code: "EEXIST" });
    await expect(makeFolders(join(deep, "kept", "d"))).rejects.toMatchObject({ code: "ENOTDIR" });
  });

  it.skipIf(!existsSync("/proc/self"))(
    "ends where the file system says that a parent which is there is missing",
    async () => {
      await expect(makeFolders("/proc/binade/run")).rejects.toMatchObject({ code: "ENOENT" });
    },
  );
});
