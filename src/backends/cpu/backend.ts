/** The cpu backend: hands lowered programs to the native addon, one call per run. */
import type { Capabilities, Program } from "../../compile/program.ts";
import { BinadeError } from "../../errors.ts";
import { DTYPES } from "../../formats/index.ts";
import { type Backend, type Executable, HostBackend, hostMemory } from "../backend.ts";
import { CHANNEL_MAPS, CHANNEL_STATISTICS, CONVOLUTION_FORMS, MAX_RANK, PLANE_CORES, ROW_CORES } from "./abi.ts";
import { type Addon, loadAddon } from "./loader.ts";
import { lowerProgram } from "./lower.ts";

/** The backend, or why it cannot be had and what to do. */
export type CpuResult = { readonly backend: Backend } | { readonly reason: string; readonly remedy: string };

export interface CpuOptions {
  /** Worker threads, 1…1024. Default: what the machine offers. Results do not depend on it. */
  readonly threads?: number;
}

/** Loads the addon; never throws for its absence. */
export function openCpu({ threads }: CpuOptions): CpuResult {
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 1024)) {
    throw new BinadeError("value.range", `threads: expected an integer from 1 to 1024, got ${threads}`);
  }
  const loaded = loadAddon();
  if (loaded.addon === null) return { reason: loaded.reason, remedy: loaded.remedy };
  if (threads !== undefined) loaded.addon.setThreads(threads);
  return { backend: new CpuBackend(loaded.addon) };
}

const CAPABILITIES: Capabilities = {
  // A reduction may add an axis of extent 1 to those of its operand.
  maxRank: MAX_RANK - 1,
  dtypes: new Set(DTYPES.filter((d) => d !== "float64" && d !== "int64")),
  cores: new Set([
    ...ROW_CORES.map((core) => `row:${core}`),
    ...PLANE_CORES.map((core) => `plane:${core}`),
    ...CHANNEL_STATISTICS.map((core) => `channelStatistic:${core}`),
    ...CHANNEL_MAPS.map((core) => `channelMap:${core}`),
    "attention:attention",
    "attentionBackward:attentionBackward",
    ...CONVOLUTION_FORMS.map((form) => `convolution:${form}`),
  ]),
  fuse: true,
};

export class CpuBackend extends HostBackend {
  override readonly kind = "cpu";
  override readonly capabilities: Capabilities = CAPABILITIES;
  readonly #addon: Addon;

  constructor(addon: Addon) {
    super();
    this.#addon = addon;
  }

  override get description(): string {
    const threads = this.#addon.threads();
    return `cpu: ${this.#addon.isa()}, ${threads} thread${threads === 1 ? "" : "s"}`;
  }

  /** The instruction set in use. */
  get isa(): string {
    return this.#addon.isa();
  }

  override get threads(): number {
    return this.#addon.threads();
  }

  override prepare(program: Program): Executable {
    const { words, kernelOf } = lowerProgram(program);
    const handle = this.#addon.createProgram(words);
    return {
      run: async (bindings) => {
        const fault = await this.#addon.run(handle, bindings.map(hostMemory));
        return fault === null ? null : { ...fault, kernel: kernelOf[fault.kernel] ?? 0 };
      },
      release: () => undefined,
    };
  }
}
