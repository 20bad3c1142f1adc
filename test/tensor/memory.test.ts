/** Memory of a device: what nobody holds any more is given back, after failures too. */
import v8 from "node:v8";
import vm from "node:vm";
import { beforeAll, describe, expect, it } from "vitest";
import { compile, defaultDevice, type Tensor, tensor, useDevice, Variable } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

v8.setFlagsFromString("--expose-gc");
const collect: unknown = vm.runInNewContext("gc");

/** Buffers and bytes held once the collector has seen everything. */
async function held(): Promise<{ readonly buffers: number; readonly byteLength: number }> {
  for (let i = 0; i < 6; i++) {
    if (typeof collect === "function") collect();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return defaultDevice().live;
}

/** A few buffers may be held by what ran last. */
const SLACK = 8;
const ROUNDS = 100;

describe.each(DEVICES)("memory on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  const LOOPS: Readonly<Record<string, () => (i: number) => Promise<unknown>>> = {
    "computed tensors": () => {
      const w = new Variable("w", [100], "float32");
      return async () => {
        const y = tensor(new Float32Array(1000)).exp().sum();
        w.assign(w.read().add(y));
        await y.data();
      };
    },
    "results of compiled functions": () => {
      const w = new Variable("w", [1000], "float32");
      const step = compile((x: Tensor) => {
        w.assign(w.read().add(x));
        return { sum: w.read().sum(), twice: w.read().mul(2) };
      });
      return () => step(tensor(new Float32Array(1000)));
    },
    "computations that fail, and what was built on them": () => {
      const table = tensor([[1, 2]]);
      return async (i) => {
        const bad = table.gather(tensor(Int32Array.of(5 + i)));
        const outcomes = await Promise.allSettled([bad.data(), bad.mul(2).data()]);
        if (outcomes.some(({ status }) => status !== "rejected")) throw new Error("it did not fail");
      };
    },
  };

  it.each(Object.entries(LOOPS))("%s", async (_, make) => {
    const round = make();
    await round(0);
    const before = await held();
    for (let i = 1; i <= ROUNDS; i++) await round(i);
    expect((await held()).buffers - before.buffers).toBeLessThan(SLACK);
  });

  it("a program that is kept does not keep the tensors that it first ran on", async () => {
    const before = await held();
    const large = async (): Promise<number> => tensor(new Float32Array(50_000)).square().mul(3).sum().item();
    await large();
    expect((await held()).byteLength - before.byteLength).toBeLessThan(50_000);
  });
});
