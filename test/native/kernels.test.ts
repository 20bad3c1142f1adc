/** The C++ tests of products, attention and conversions, linked with the objects of the last build, on this machine's instruction sets. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, it } from "vitest";
import { findCompiler, X64_ISAS } from "../../src/backends/cpu/build.ts";
import { loadAddon } from "../../src/backends/cpu/loader.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const objects = join(root, `build/native/${process.platform}-${process.arch}`);
const compiler = findCompiler();
const isas = loadAddon().addon?.supportedIsas() ?? [];
/** The kernel that a test links with. */
const PROGRAMS = [
  ["convert", []],
  ["gemm", ["gemm"]],
  ["attention", ["attention"]],
] as const;

const folder = mkdtempSync(join(tmpdir(), "binade-kernels-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe.each(isas)("kernels on %s", (isa) => {
  for (const [name, kernels] of PROGRAMS) {
    it(`${name}_test.cc finds no fault`, ({ skip }) => {
      if (compiler === null) return skip("no C++ compiler; install one");
      const linked = [...kernels.map((kernel) => `${kernel}.${isa}.o`), "pool.o"].map((file) => join(objects, file));
      skip(!linked.every(existsSync), "no compiled kernels; run npm run build:native");
      const [command = "c++", ...first] = compiler;
      const program = join(folder, `${name}.${isa}`);
      const flags = [
        "-O2",
        "-std=c++17",
        "-ffp-contract=off",
        "-w",
        "-pthread",
        `-DBINADE_ISA=${isa}`,
        ...(X64_ISAS[isa] ?? []),
      ];
      const include = ["native/src", "native/include", "native/src/kernels"].map((path) => `-I${join(root, path)}`);
      execFileSync(command, [
        ...first,
        ...flags,
        ...include,
        join(root, `native/test/${name}_test.cc`),
        ...linked,
        "-o",
        program,
      ]);
      execFileSync(program, { encoding: "utf8" });
    });
  }
});
