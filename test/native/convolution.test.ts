/** The C++ test of convolutions on the portable text, compiled from the sources as they are: what mutants of the kernels run. */
import { execFileSync } from "node:child_process";
import { it } from "vitest";
import { findCompiler } from "../../src/backends/cpu/build.ts";
import { compile, sourcesOf, testOf } from "./compiled.ts";

it("convolution_test.cc finds no fault in the sources", { timeout: 300_000 }, ({ skip }) => {
  const compiler = findCompiler();
  if (compiler === null) return skip("no C++ compiler; install one");
  const sources = [
    testOf("convolution"),
    ...sourcesOf(["convolution", "convolution_weight", "winograd", "winograd_weight"]),
  ];
  const program = compile(compiler, "convolution.sources", ["-O2", "-DBINADE_ISA=portable", ...sources]);
  execFileSync(program, { encoding: "utf8" });
});
