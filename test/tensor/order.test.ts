/** Calls, assignments, loads, reads and disposals take effect in the order in which they are made, awaited or not. */
import { beforeAll, describe, expect, it } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/backend.ts";
import {
  compile,
  Device,
  HostNumber,
  RandomStream,
  type Tensor,
  tensor,
  useDevice,
  Variable,
} from "../../src/index.ts";
import { autocast } from "../../src/precision/autocast.ts";
import { DEVICES } from "../support/devices.ts";

const list = async (x: Tensor): Promise<number[]> => [...(await x.data())];
const counter = (value = 0): Variable => new Variable("w", [], "float32", Float32Array.of(value));
const bytesOf = (value: number): Uint8Array => new Uint8Array(Float32Array.of(value).buffer);
const numberOf = (bytes: Uint8Array): number | undefined => new Float32Array(bytes.slice().buffer)[0];
/** A step that adds its argument to `w` and returns the new value. */
const adding = (w: Variable) =>
  compile((x: Tensor) => {
    w.assign(w.read().add(x));
    return w.read();
  });

describe.each(DEVICES)("order on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("a call sees the host numbers of its moment", async () => {
    const rate = new HostNumber("rate", 0);
    const step = compile((x: Tensor) => x.mul(rate.read()));
    const calls = [1, 2, 3, 4].map((value) => {
      rate.value = value;
      return step(tensor(10));
    });
    expect(await Promise.all(calls.map(async (call) => (await call).item()))).toEqual([10, 20, 30, 40]);
  });

  it("an expression keeps the host number that it read", async () => {
    const rate = new HostNumber("rate", 2);
    const doubled = rate.read().mul(2);
    rate.value = 5;
    expect([await doubled.item(), await rate.read().item()]).toEqual([4, 5]);
  });

  it("reads after a call see its assignments, the first recording included", async () => {
    const w = counter();
    const step = adding(w);
    const first = step(tensor(1));
    expect(await w.read().item()).toBe(1);
    const second = step(tensor(1));
    expect(numberOf(await w.bytes())).toBe(2);
    expect([await (await first).item(), await (await second).item()]).toEqual([1, 2]);
  });

  it("assignments and loads after a call come after it", async () => {
    const w = counter();
    const step = adding(w);
    const first = step(tensor(1));
    w.assign(tensor(100));
    expect([await (await first).item(), await w.read().item()]).toEqual([1, 100]);
    const second = step(tensor(1));
    const loaded = w.load(bytesOf(50));
    const third = step(tensor(1));
    await loaded;
    expect([await (await second).item(), await (await third).item()]).toEqual([101, 51]);
  });

  it("what was read after an assignment is the variable's value, also once it is stored", async () => {
    const w = counter(1);
    w.assign(w.read().add(1));
    const [read, doubled] = [w.read(), w.read().mul(2)];
    expect(numberOf(await w.bytes())).toBe(2);
    expect([await doubled.item(), await read.item()]).toEqual([4, 2]);
    w.assign(tensor([1]).gather(tensor(9, { dtype: "int32" })));
    await expect(w.bytes()).rejects.toThrow(/index 9/);
    expect([await w.read().item(), await w.read().mul(3).item()]).toEqual([2, 6]);
  });

  it("loading comes after assignments that read the old value", async () => {
    const [w, u] = [counter(3), counter()];
    u.assign(w.read().mul(2));
    await w.load(bytesOf(10));
    expect([await u.read().item(), await w.read().item()]).toEqual([6, 10]);
  });

  it("a recording takes no assignment that someone else makes meanwhile", async () => {
    const [w, v] = [counter(), counter()];
    const big = new Variable("big", [40, 40], "float32");
    const step = adding(w);
    big.assign(big.read().matmul(big.read()));
    const first = step(tensor(1));
    for (let i = 0; i < 3; i++) await Promise.resolve();
    v.assign(v.read().add(1));
    await first;
    await step(tensor(1));
    expect([await v.read().item(), await w.read().item()]).toEqual([1, 2]);
  });

  it("a recording does not depend on the autocast region of the call", async () => {
    const step = compile((x: Tensor) => x.matmul(x));
    const calls: Promise<Tensor>[] = [];
    autocast("bfloat16", () => {
      calls.push(step(tensor([[1.001]])));
    });
    expect((await calls[0])?.dtype).toBe("float32");
  });

  it("a failed computation fails what was built on it, and nothing else", async () => {
    const w = counter(1);
    const bad = tensor([1, 2]).gather(tensor(Int32Array.of(7)));
    const [first, second] = [bad.data(), bad.mul(2).data()];
    w.assign(w.read().add(1));
    await expect(first).rejects.toThrow(/index 7 at position 0/);
    await expect(second).rejects.toThrow(/index 7 at position 0/);
    expect(await w.read().item()).toBe(2);
  });

  it("draws outside of a step can be read one after another, or not at all", async () => {
    const random = new RandomStream(1);
    const draws = [0, 1, 2].map(() => random.draw([3]));
    const seen = [];
    for (const draw of draws.toReversed()) seen.push(await list(draw));
    expect(new Set(seen.map(String)).size).toBe(3);
    expect(new Uint32Array((await random.state.bytes()).slice().buffer)[2]).toBe(3);
  });

  it("disposing frees one value, not the expression", async () => {
    const x = tensor([1, 2]);
    for (let i = 0; i < 3; i++) {
      using y = x.add(1);
      expect(await list(y)).toEqual([2, 3]);
    }
    const [a, b] = [x.mul(7), x.mul(7)];
    await a.data();
    a.dispose();
    expect(await list(b)).toEqual([7, 14]);
    await expect(a.data()).rejects.toMatchObject({ code: "tensor.disposed" });
  });

  it("disposing an argument after the call leaves the call alone", async () => {
    const step = compile((x: Tensor) => x.add(1));
    const x = tensor([1, 2]);
    const call = step(x);
    x.dispose();
    expect(await list(await call)).toEqual([2, 3]);
  });

  it("assignments wait on their own device", async () => {
    const other = new Device(new ReferenceBackend());
    const [here, there] = [counter(), new Variable("there", [], "float32", Float32Array.of(1), other)];
    here.assign(here.read().add(1));
    expect(await there.read().mul(2).item()).toBe(2);
    expect(await here.read().item()).toBe(1);
  });
});

describe.runIf(DEVICES.includes("cpu"))("what cannot be compiled", () => {
  const wide = (): Tensor => tensor(2, { dtype: "float64" }).mul(2);
  beforeAll(() => {
    useDevice("cpu");
  });

  it("leaves the variable as it was", async () => {
    const w = counter(3);
    w.assign(wide().cast("float32"));
    await expect(w.bytes()).rejects.toMatchObject({ code: "dtype.unsupported" });
    expect([await w.read().item(), numberOf(await w.bytes())]).toEqual([3, 3]);
  });

  it("takes no other assignment with it", async () => {
    const w = counter(3);
    w.assign(w.read().add(1));
    await expect(wide().data()).rejects.toMatchObject({ code: "dtype.unsupported" });
    expect(await w.read().item()).toBe(4);
  });
});
