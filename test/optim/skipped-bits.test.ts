/** A skipped step keeps every bit pattern, also those that only a file can bring: signalling NaNs and any payload. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  compile,
  GradScaler,
  gradients,
  gradientsFrom,
  mapGradients,
  nn,
  optim,
  readOutcome,
  type StepOutcome,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { bytesOf } from "../support/variables.ts";

/**
 * Bytes of a variable: patterns of 16 bits, of either sign in turns, from bfloat16's infinity and NaNs on and around to the numbers
 * before them, so that 256 elements hold all NaNs, and 2^16 everything. For float32 the upper half, with a lower one that makes
 * signalling NaNs of 0x7f80 and 0xff80.
 */
function everyPattern({ byteLength, dtype }: Variable): Uint8Array {
  const patterns = Uint32Array.from({ length: 2 ** 16 }, (_, i) => ((i & 1) << 15) | ((0x7f80 + (i >> 1)) & 0x7fff));
  const bytes =
    dtype === "float32"
      ? new Uint8Array(patterns.map((high) => ((high << 16) | 1) >>> 0).buffer)
      : new Uint8Array(Uint16Array.from(patterns).buffer);
  return Uint8Array.from({ length: byteLength }, (_, i) => bytes[i % bytes.length] as number);
}

/** Fills all that holds numbers; counters of integers stay. */
async function fill(variables: readonly Variable[]): Promise<void> {
  const isNumber = ({ dtype }: Variable): boolean => dtype !== "int32" && dtype !== "uint32";
  for (const variable of variables.filter(isNumber)) await variable.load(everyPattern(variable));
}

/** That a step which must skip moves nothing of these variables, twice in a row. */
async function expectNothingMoves(variables: readonly Variable[], step: () => StepOutcome | Promise<StepOutcome>) {
  await fill(variables);
  const before = await bytesOf(variables);
  for (let i = 0; i < 2; i++) {
    expect((await readOutcome(await step())).applied).toBe(false);
    const after = await bytesOf(variables);
    expect(after.filter((bytes, k) => bytes !== before[k]).map((bytes) => bytes.split(" ")[0])).toEqual([]);
  }
}

const FORMS = [
  ["none", "float16"],
  ["none", "bfloat16"],
  ["float32", "float16"],
  ["float32", "bfloat16"],
  ["split", "bfloat16"],
  ["stochastic", "bfloat16"],
  ["kahan", "float16"],
  ["kahan", "bfloat16"],
] as const;
type Steppable = Parameters<GradScaler["step"]>[0];
const OPTIMIZERS = ["SGD", "Adam", "AdamW", "Lion", "Adafactor", "Muon"] as const;
const STATES = ["float32", "bfloat16", "int8-blockwise"] as const;

describe.each(DEVICES)("bits that a skipped step keeps on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  const nan = (shape: readonly number[]): Tensor => {
    const size = shape.reduce((a, b) => a * b, 1);
    return tensor(new Float32Array(size).fill(Number.NaN), { shape });
  };
  /** A step of one optimizer over one parameter, compiled or not. */
  const stepOf = (w: Variable, optimizer: Steppable, compiled: boolean): (() => Promise<StepOutcome>) => {
    const scaler = new GradScaler({ enabled: false });
    const run = (g: Tensor): StepOutcome => {
      const outcome = scaler.step(optimizer, gradientsFrom([[w, g]]));
      scaler.update();
      return outcome;
    };
    const step = compiled ? compile(run) : run;
    return async () => step(nan(w.shape));
  };

  const forms = FORMS.flatMap(([form, dtype]) => [true, false].map((compiled) => [form, dtype, compiled] as const));
  it.each(forms)("all patterns of weights: %s over %s, compiled: %s", async (masterWeights, dtype, compiled) => {
    const w = new Variable("w", [257, 256], dtype);
    const optimizer = new optim.AdamW([w], { lr: 1e-3, masterWeights });
    await expectNothingMoves([w, ...optimizer.namedState().values()], stepOf(w, optimizer, compiled));
  });

  it.each(
    OPTIMIZERS.flatMap((name) => STATES.map((state) => [name, state] as const)),
  )("NaNs of every upper payload in float32 weights and in the state: %s with %s", async (name, stateDType) => {
    const w = new Variable("w", [64, 64], "float32");
    const options = { lr: 1e-3, stateDType, ...(name === "SGD" ? { momentum: 0.9 } : {}) };
    const optimizer = new optim[name]([w], options);
    await expectNothingMoves([w, ...optimizer.namedState().values()], stepOf(w, optimizer, true));
  });

  it.each([true, false])("of tables that are looked up, statistics and averages: compiled %s", async (compiled) => {
    const table = new nn.Embedding(33, 8, { seed: 1 });
    const norm = new nn.BatchNorm1d(8);
    const model = new nn.Sequential(norm, new nn.Linear(8, 2, { seed: 2 })).to("bfloat16");
    const parameters = [...table.to("bfloat16").parameters(), ...model.parameters()];
    const optimizer = new optim.AdamW(parameters, { masterWeights: "split" });
    const average = new optim.WeightAverage(parameters);
    const scaler = new GradScaler();
    const run = (rows: Tensor, poison: Tensor): StepOutcome => {
      const loss = model.forward(table.forward(rows)).cast("float32").square().mean();
      const poisoned = mapGradients(gradients(scaler.scale(loss), parameters), (g) => g.add(poison));
      const outcome = scaler.step(optimizer, poisoned);
      average.update(outcome);
      scaler.update();
      return outcome;
    };
    const step = compiled ? compile(run) : run;
    const rows = tensor(Int32Array.of(1, 5, 5, 32));
    await expectNothingMoves(
      [...parameters, ...norm.buffers(), ...optimizer.namedState().values(), ...average.namedState().values()],
      () => step(rows, tensor(Number.POSITIVE_INFINITY)),
    );
  });
});
