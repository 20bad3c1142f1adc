/** `binade doctor`: what this machine can do, what is missing, and how to get it. */
import { availableParallelism, cpus, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { buildAddon } from "../../backends/cpu/build.ts";
import { loadAddon } from "../../backends/cpu/loader.ts";
import { BinadeError } from "../../errors.ts";
import { DTYPES, FORMATS } from "../../formats/index.ts";
import type { CommandContext } from "../command-line.ts";
import { formatBytes } from "../format.ts";
import type { OutputStream } from "../render.ts";

/** Exit status where the native kernels are missing. */
const MISSING = 1;

interface Diagnosis {
  readonly node: string;
  readonly platform: string;
  readonly processor: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly native:
    | { readonly path: string; readonly isa: string; readonly supported: readonly string[]; readonly threads: number }
    | { readonly reason: string; readonly remedy: string };
  readonly float16Array: boolean;
  readonly formats: readonly string[];
}

export function doctorCommand(context: CommandContext): Command {
  return new Command("doctor")
    .description("Say what this machine can do: native kernels, instruction sets, formats, and what is missing.")
    .option("--build", "compile the native kernels for this machine first (needs a C++17 compiler)")
    .option("--json", "print one JSON object; sizes in bytes")
    .addHelpText("after", "\nExit status: 0 with native kernels, 1 without.")
    .action(async (options: { readonly build?: true; readonly json?: true }) => {
      if (options.build === true) await build(context.stderr);
      const diagnosis = diagnose();
      context.stdout.write(options.json === true ? `${JSON.stringify(diagnosis)}\n` : render(diagnosis));
      if ("reason" in diagnosis.native) context.status = MISSING;
    });
}

async function build(stderr: OutputStream): Promise<void> {
  const root = fileURLToPath(new URL("../../..", import.meta.url));
  const result = await buildAddon({ root, onUnit: (line) => stderr.write(`${line}\n`) });
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
        : {
            path: loaded.path,
            isa: loaded.addon.isa(),
            supported: loaded.addon.supportedIsas(),
            threads: loaded.addon.threads(),
          },
    float16Array: "Float16Array" in globalThis,
    formats: DTYPES.map((d) => FORMATS[d].short),
  };
}

const BF16: Readonly<Record<string, string>> = {
  avx512bf16: "bf16 products in hardware; fp16 is storage, computed in float32",
};

function render(diagnosis: Diagnosis): string {
  const { node, platform, processor, cores, memoryBytes, float16Array, formats } = diagnosis;
  const lines: readonly (readonly [name: string, text: string])[] = [
    ["node", node],
    ["platform", platform],
    ["processor", `${processor}, ${cores} ${cores === 1 ? "core" : "cores"}, ${formatBytes(memoryBytes)}`],
    ...nativeLines(diagnosis.native),
    ["Float16Array", float16Array ? "in this runtime" : "not in this runtime: 16-bit data is Uint16Array bits"],
    ["formats", formats.join(" ")],
  ];
  return `${lines.map(([name, text]) => `${name.padEnd(13)}${text}`).join("\n")}\n`;
}

function nativeLines(native: Diagnosis["native"]): (readonly [name: string, text: string])[] {
  if ("reason" in native) {
    const meanwhile = "Until then everything runs on the reference backend, hundreds of times slower";
    return [["native", `missing: ${native.reason}; ${native.remedy}. ${meanwhile}`]];
  }
  const others = native.supported.filter((isa) => isa !== native.isa);
  const also = others.length > 0 ? ` (also ${others.join(", ")})` : "";
  return [
    ["native", `${native.isa}${also}, ${native.threads} ${native.threads === 1 ? "thread" : "threads"}`],
    ["16 bits", BF16[native.isa] ?? "storage: bf16 and fp16 are computed in float32; half the memory, float32's speed"],
  ];
}
