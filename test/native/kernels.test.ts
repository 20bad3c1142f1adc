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
/** The kernels that a test links with. */
const PROGRAMS = [
  ["convert", []],
  ["gemm", ["gemm"]],
  ["attention", ["attention", "attention_backward"]],
] as const;

const folder = mkdtempSync(join(tmpdir(), "binade-kernels-"));
afterAll(() => rmSync(folder, { recursive: true }));

const FLAGS = ["-O2", "-std=c++17", "-ffp-contract=off", "-w", "-pthread"];

/** Compiles `sources`, links them with `linked` objects and runs the program, which fails if it finds a fault. */
function runTest(
  isa: string,
  name: string,
  sources: readonly string[],
  linked: readonly string[],
  flags: readonly string[],
): void {
  const [command = "c++", ...first] = compiler ?? [];
  const program = join(folder, name);
  const include = ["native/src", "native/include", "native/src/kernels"].map((path) => `-I${join(root, path)}`);
  const forIsa = [...FLAGS, `-DBINADE_ISA=${isa}`, ...(X64_ISAS[isa] ?? []), ...flags];
  const paths = [...sources.map((path) => join(root, path)), ...linked];
  execFileSync(command, [...first, ...forIsa, ...include, ...paths, "-o", program]);
  execFileSync(program, { encoding: "utf8" });
}

describe.each(isas)("kernels on %s", (isa) => {
  for (const [name, kernels] of PROGRAMS) {
    it(`${name}_test.cc finds no fault`, ({ skip }) => {
      if (compiler === null) return skip("no C++ compiler; install one");
      const linked = [...kernels.map((kernel) => `${kernel}.${isa}.o`), "pool.o"].map((file) => join(objects, file));
      skip(!linked.every(existsSync), "no compiled kernels; run npm run build:native");
      runTest(isa, `${name}.${isa}`, [`native/test/${name}_test.cc`], linked, []);
    });
  }
});

it("attention_test.cc finds no fault on pairs of bfloat16 without dot-product instructions", ({ skip }) => {
  if (compiler === null) return skip("no C++ compiler; install one");
  const sources = ["native/test/attention_test.cc", "native/src/pool.cc"];
  for (const kernel of ["attention", "attention_backward"]) sources.push(`native/src/kernels/${kernel}.cc`);
  runTest("portable", "attention.pairs", sources, [], ["-DBINADE_PAIRS=1"]);
});
