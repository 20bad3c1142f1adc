/** The workloads by the names under which `binade bench` knows them. */
import { BinadeError } from "../errors.ts";
import type { Precision, PresetName } from "../train/presets.ts";
import { convWorkloads } from "./conv.ts";
import { attentionWorkloads, matmulWorkloads, rowWorkloads } from "./kernels.ts";
import { gptWorkload, mlpWorkload, resnet20Workload } from "./steps.ts";
import type { Workload } from "./workload.ts";

interface Suite {
  /** For the help. */
  readonly summary: string;
  /** Whether its workloads differ by precision; else they are float32. */
  readonly hasPrecision: boolean;
  workloads(precision: Precision, preset: PresetName): readonly Workload[];
}

export const SUITES = {
  matmul: {
    summary: "products of 256, 512 and 1024 cubed, as NN, NT and TN (T: that operand is transposed)",
    hasPrecision: true,
    workloads: matmulWorkloads,
  },
  conv: {
    summary: "3 x 3 layers of ResNet-20, batch 64: forward, gradients of input and weight",
    hasPrecision: true,
    workloads: convWorkloads,
  },
  attention: {
    summary: "causal attention, 8 x 256 tokens, 6 heads of 64, without and with gradients",
    hasPrecision: true,
    workloads: attentionWorkloads,
  },
  rows: {
    summary: "layer norm, softmax, column sums, counts of magnitudes and AdamW in float32, which memory bounds",
    hasPrecision: false,
    workloads: rowWorkloads,
  },
  gpt: {
    summary: "training step of a GPT of --preset: AdamW, clipping; loss scaling in fp16-mixed",
    hasPrecision: true,
    workloads: (precision, preset) => [gptWorkload(preset, precision)],
  },
  resnet20: {
    summary: "training step of ResNet-20 on 32 x 32 pictures, batch 64, SGD with momentum",
    hasPrecision: true,
    workloads: (precision) => [resnet20Workload(precision)],
  },
  mlp: {
    summary: "training step of an MLP 784-512-10, batch 128, SGD",
    hasPrecision: true,
    workloads: (precision) => [mlpWorkload(precision)],
  },
} as const satisfies Readonly<Record<string, Suite>>;

/** The size of the GPT where none is named. */
export const DEFAULT_PRESET: PresetName = "s";

export type SuiteName = keyof typeof SUITES;
export const SUITE_NAMES = Object.keys(SUITES) as readonly SuiteName[];

/** The workloads of some suites, in the order of `SUITES`, each in every precision that it has. */
export function workloadsOf(
  names: readonly SuiteName[],
  precisions: readonly Precision[],
  preset: PresetName = DEFAULT_PRESET,
): readonly Workload[] {
  return SUITE_NAMES.filter((name) => names.includes(name)).flatMap((name) => {
    const suite: Suite = SUITES[name];
    const wanted: readonly Precision[] = suite.hasPrecision ? precisions : ["fp32"];
    return wanted.flatMap((precision) => suite.workloads(precision, preset));
  });
}

/** One workload of a suite: the only one, or that of the name. */
export function workloadOf(
  suite: SuiteName,
  precision: Precision,
  preset: PresetName = DEFAULT_PRESET,
  name?: string,
): Workload {
  const found = workloadsOf([suite], [precision], preset).find((workload) => workload.name === (name ?? workload.name));
  if (found === undefined) throw new BinadeError("internal", `internal: ${suite} has no workload ${name}`);
  return found;
}
