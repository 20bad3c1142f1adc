/**
 * The C++ tests of loops, products, convolutions, attention, norms of channels, counts, GELU's epilogues and conversions on every instruction set: this
 * machine's with the objects of the last build, AVX-512 through an emulation of its intrinsics, arm64 through qemu.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "vitest";
import { findCompiler, X64_ISAS } from "../../src/backends/cpu/build.ts";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import { compile, root, sourcesOf, testOf } from "./compiled.ts";

const objects = join(root, `build/native/${process.platform}-${process.arch}`);
const compiler = findCompiler();
const isas = loadAddon().addon?.supportedIsas() ?? [];
/** Tests, and the kernels that each links with. */
const PROGRAMS = [
  ["pool", []],
  ["convert", []],
  ["gemm", ["gemm"]],
  ["attention", ["attention", "attention_backward"]],
  ["convolution", ["convolution", "convolution_weight", "winograd", "winograd_weight"]],
  ["channel", ["channel", "vm", "vm_memory", "vm_ops", "vm_random"]],
  ["magnitudes", ["magnitudes", "vm", "vm_memory", "vm_ops", "vm_random"]],
  ["gelu", ["vm", "vm_memory", "vm_ops", "vm_random"]],
] as const;
const SLOW_MS = 300_000;

describe.each(isas)("kernels on %s", (isa) => {
  for (const [name, kernels] of PROGRAMS) {
    it(`${name}_test.cc finds no fault`, ({ skip }) => {
      if (compiler === null) return skip("no C++ compiler; install one");
      const linked = [...kernels.map((kernel) => `${kernel}.${isa}.o`), "pool.o"].map((file) => join(objects, file));
      skip(!linked.every(existsSync), "no compiled kernels; run npm run build:native");
      const flags = ["-O2", `-DBINADE_ISA=${isa}`, ...(X64_ISAS[isa] ?? [])];
      execFileSync(compile(compiler, `${name}.${isa}`, [...flags, testOf(name), ...linked]), { encoding: "utf8" });
    });
  }
});

// The float32 kernels of avx512 and avx512bf16 are the same text, so one emulation covers both.
describe.skipIf(process.arch !== "x64" || isas.includes("avx512bf16"))("kernels on emulated avx512bf16", () => {
  for (const [name, kernels] of PROGRAMS) {
    it(`${name}_test.cc finds no fault`, { timeout: SLOW_MS }, ({ skip }) => {
      if (compiler === null) return skip("no C++ compiler; install one");
      skip(!isas.includes("avx2"), "the emulation of AVX-512 needs AVX2, which this machine lacks");
      const emulation = ["-include", join(root, "native/test/emulation/avx512.h"), "-DBINADE_EMULATES_PAIRS"];
      const flags = ["-O1", "-DBINADE_ISA=avx512bf16", ...(X64_ISAS.avx2 ?? []), ...emulation];
      const program = compile(compiler, `${name}.emulated`, [...flags, testOf(name), ...sourcesOf(kernels)]);
      execFileSync(program, { encoding: "utf8" });
    });
  }
});

/** One case in so many is checked under qemu, which is some thirty times slower than a processor. */
const QEMU_SHARE = "7";

describe.skipIf(process.arch === "arm64")("kernels on emulated arm64", () => {
  const answers = (program: string): boolean => spawnSync(program, ["--version"], { stdio: "ignore" }).status === 0;
  const ready = answers("aarch64-linux-gnu-g++") && answers("qemu-aarch64");
  for (const [name, kernels] of PROGRAMS.filter(([name]) => name !== "attention")) {
    it(`${name}_test.cc finds no fault`, { timeout: SLOW_MS }, ({ skip }) => {
      skip(!ready, "no arm64 compiler or no qemu; run node scripts/install-emulators.mjs");
      const flags = ["-O3", "-static", "-DBINADE_ISA=portable"];
      const sources = [testOf(name), ...sourcesOf(kernels)];
      const program = compile(["aarch64-linux-gnu-g++"], `${name}.arm64`, [...flags, ...sources]);
      execFileSync("qemu-aarch64", [program, QEMU_SHARE], { encoding: "utf8" });
    });
  }
});

it("attention_test.cc finds no fault on pairs of bfloat16 without dot-product instructions", ({ skip }) => {
  if (compiler === null) return skip("no C++ compiler; install one");
  const flags = ["-O2", "-DBINADE_ISA=portable", "-DBINADE_PAIRS=1"];
  const sources = [testOf("attention"), ...sourcesOf(["attention", "attention_backward"])];
  execFileSync(compile(compiler, "attention.pairs", [...flags, ...sources]), { encoding: "utf8" });
});
