/** The native build compiles what has changed, and nothing else: over a small tree of sources whose path has a space. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { buildAddon, findCompiler, X64_ISAS } from "../../src/backends/cpu/build.ts";

const folder = mkdtempSync(join(tmpdir(), "binade build#$-"));
afterAll(() => rmSync(folder, { recursive: true }));

const TREE: Readonly<Record<string, string>> = {
  "node_modules/node-api-headers/include/node_api.h": "",
  "native/include/both.h": "",
  "native/src/nested.h": "",
  "native/src/kernels/kernel.h": '#include "nested.h"\n',
  "native/src/kernels/kernel.cc": '#include "both.h"\n#include "kernels/kernel.h"\n',
  "native/src/plain.cc": '#include "both.h"\n',
};

const isas = process.arch === "x64" ? Object.keys(X64_ISAS) : ["portable"];
const KERNELS = isas.map((isa) => `kernel.${isa}.o`);
const objects = `build/native/${process.platform}-${process.arch}`;
const READY = findCompiler() !== null && process.platform !== "win32";

let trees = 0;
let root = "";
/** Writes `text` with a time seconds from now, so that the resolution of the file system's clock does not matter. */
function write(path: string, text: string, aheadS = 0): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
  const time = Date.now() / 1000 + aheadS;
  utimesSync(join(root, path), time, time);
}

async function build(): Promise<{ kind: string; compiled: string[] }> {
  const compiled: string[] = [];
  const { kind } = await buildAddon({ root, onUnit: (line) => compiled.push(line.split(" ")[0] ?? "") });
  return { kind, compiled: compiled.sort() };
}

describe.skipIf(!READY)("the native build", () => {
  beforeEach(async () => {
    root = join(folder, String(trees++));
    for (const [path, text] of Object.entries(TREE)) write(path, text, -10);
    expect(await build()).toEqual({ kind: "built", compiled: [...KERNELS, "plain.o"].sort() });
  });

  it("does nothing a second time", async () => {
    expect(await build()).toEqual({ kind: "current", compiled: [] });
  });

  it.each([
    ["native/src/kernels/kernel.cc", KERNELS],
    ["native/src/plain.cc", ["plain.o"]],
    ["native/include/both.h", [...KERNELS, "plain.o"]],
    ["native/src/nested.h", KERNELS],
  ])("compiles what includes %s, directly or not", async (path, expected) => {
    write(path, `${TREE[path]}// changed\n`, 10);
    expect(await build()).toEqual({ kind: "built", compiled: [...expected].sort() });
  });

  it("compiles a unit of which it does not know what it includes", async () => {
    rmSync(join(root, objects, "plain.d"));
    expect(await build()).toEqual({ kind: "built", compiled: ["plain.o"] });
    expect(await build()).toEqual({ kind: "current", compiled: [] });
  });

  it("compiles a unit of which a header is gone, and asks the source what it includes now", async () => {
    rmSync(join(root, "native/src/nested.h"));
    expect((await build()).kind).toBe("failed");
    write("native/src/kernels/kernel.h", "");
    expect(await build()).toEqual({ kind: "built", compiled: [...KERNELS].sort() });
    expect(readFileSync(join(root, objects, "kernel.portable.d"), "utf8")).not.toContain("nested.h");
  });
});
