/** `binade doctor`: what this machine can do, what is missing, and how to get it. */
import { availableParallelism, cpus, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { buildAddon } from "../../backends/cpu/build.ts";
import { loadAddon } from "../../backends/cpu/loader.ts";
import { BinadeError } from "../../errors.ts";
import { DTYPES, FORMATS } from "../../formats/index.ts";
import { formatBytes } from "../format.ts";

interface Diagnosis {
  readonly node: string;
  readonly platform: string;
  readonly processor: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly native: { readonly path: string; readonly isa: string; readonly supported: readonly string[]; readonly threads: number } | { readonly reason: string; readonly remedy: string };
  readonly float16Array: boolean;
  readonly formats: readonly string[];
}

export function doctorCommand(): Command {
  return new Command("doctor")
    .description("Say what this machine can do: native kernels, instruction sets, formats, and what is missing.")
    .option("--build", "compile the native kernels for this machine", false)
    .option("--json", "print one JSON object", false)
    .action(async (options: { build: boolean; json: boolean }) => {
      if (options.build) await build();
      const diagnosis = diagnose();
      process.stdout.write(options.json ? `${JSON.stringify(diagnosis)}\n` : render(diagnosis));
      if ("reason" in diagnosis.native) process.exitCode = 1;
    });
}

async function build(): Promise<void> {
  const root = fileURLToPath(new URL("../../..", import.meta.url));
  const result = await buildAddon({ root, onUnit: (line) => process.stderr.write(`${line}\n`) });
  if (result.kind === "noCompiler" || result.kind === "failed") {
    throw new BinadeError("device.unavailable", `native kernels: ${result.reason}; ${result.remedy}`);
  }
}

function diagnose(): Diagnosis {
  const loaded = loadAddon();
  return {
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    native:
      loaded.addon === null
        ? { reason: loaded.reason, remedy: loaded.remedy }
        : { path: loaded.path, isa: loaded.addon.isa(), supported: loaded.addon.supportedIsas(), threads: loaded.addon.threads() },
    float16Array: "Float16Array" in globalThis,
    formats: DTYPES.map((d) => FORMATS[d].short),
  };
}

const BF16: Readonly<Record<string, string>> = {
  avx512bf16: "bf16 products in hardware; fp16 is storage, computed in float32",
};

function render({ node, platform, processor, cores, memoryBytes, native, float16Array, formats }: Diagnosis): string {
  const lines = [
    ["node", node],
    ["platform", platform],
    ["processor", `${processor}, ${cores} cores, ${formatBytes(memoryBytes)}`],
    ...("reason" in native
      ? [["native", `missing: ${native.reason}; ${native.remedy}. Until then everything runs on the reference backend, hundreds of times slower`]]
      : [
          ["native", `${native.isa} (also ${native.supported.filter((isa) => isa !== native.isa).join(", ")}), ${native.threads} threads`],
          ["16 bits", BF16[native.isa] ?? "storage: bf16 and fp16 are computed in float32; half the memory, float32's speed"],
        ]),
    ["Float16Array", float16Array ? "in this runtime" : "not in this runtime: 16-bit data is Uint16Array bits"],
    ["formats", formats.join(" ")],
  ];
  return `${lines.map(([name, text]) => `${(name ?? "").padEnd(13)}${text}`).join("\n")}\n`;
}
