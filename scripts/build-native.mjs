// Compiles the native addon into dist/native/. --verbose: one line per unit. --require: no compiler is an error.
import { importSource, ROOT } from "./import-source.mjs";

const verbose = process.argv.includes("--verbose");
const required = process.argv.includes("--require");

const { buildAddon } = await importSource("src/backends/cpu/build.ts");
const result = await buildAddon({ root: ROOT, onUnit: verbose ? (line) => console.log(line) : () => {} });

if (result.kind === "built" || result.kind === "current") {
  if (verbose) console.log(`${result.kind === "built" ? "wrote" : "up to date:"} ${result.path}`);
} else {
  const consequence =
    result.kind === "noCompiler" && !required ? " Without it Binade runs on the slow reference backend." : "";
  console.error(`${result.reason}; ${result.remedy}.${consequence}`);
  if (result.kind === "failed" || required) process.exitCode = 1;
}
