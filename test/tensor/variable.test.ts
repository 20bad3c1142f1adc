/** Variables and host numbers: assignments, what was read before them, mistakes. */
import { beforeAll, describe, expect, it } from "vitest";
import { tensor } from "../../src/tensor/create.ts";
import { useDevice } from "../../src/tensor/devices.ts";
import { gradients } from "../../src/tensor/gradients.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { HostNumber, Variable } from "../../src/tensor/variable.ts";
import { DEVICES } from "../support/devices.ts";
import { expectError } from "../support/errors.ts";

const list = async (x: Tensor): Promise<number[]> => [...(await x.data())];

describe.each(DEVICES)("variables on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });
  const make = (...values: number[]): Variable =>
    new Variable("v", [values.length], "float32", Float32Array.from(values));

  it("read what was assigned last, and commit together", async () => {
    const [u, v] = [make(1, 2), make(3, 4)];
    u.assign(u.read().add(v.read()));
    v.assign(u.read().mul(2));
    expect(await list(v.read())).toEqual([8, 12]);
    expect(await list(u.read())).toEqual([4, 6]);
    expect([...new Float32Array((await u.bytes()).slice().buffer)]).toEqual([4, 6]);
  });

  it("hold pending assignments in their bytes, too", async () => {
    const v = make(1);
    v.assign(v.read().add(41));
    expect([...new Float32Array((await v.bytes()).slice().buffer)]).toEqual([42]);
  });

  it("take an assignment a thousand times without a read", async () => {
    const v = make(0);
    for (let i = 0; i < 1000; i++) v.assign(v.read().add(1));
    expect(await list(v.read())).toEqual([1000]);
  });

  it("show values from before loading as before, and after it as loaded", async () => {
    const v = make(1, 2);
    const old = v.read().mul(2);
    expect(await list(old)).toEqual([2, 4]);
    await v.load(new Uint8Array(Float32Array.of(5, 6).buffer));
    expect(await list(v.read().mul(2))).toEqual([10, 12]);
    expect(await list(old)).toEqual([2, 4]);
    await expectError(
      () => v.load(new Uint8Array(4)),
      "checkpoint.mismatch",
      /^variable v: float32 \[2\] needs 8 bytes, got 4/,
    );
  });

  it("say that a value from before an assignment is gone", async () => {
    const v = make(1);
    const old = v.read().exp();
    v.assign(v.read().add(1));
    await v.bytes();
    await expectError(() => old.data(), "tensor.disposed", /variable assigned since/);
  });

  it("refuse other shapes, dtypes and sizes", async () => {
    const v = make(1, 2);
    await expectError(
      () => v.assign(tensor([1])),
      "shape.mismatch",
      /^variable v: expected float32 \[2\], got float32 \[1\]/,
    );
    await expectError(() => v.assign(tensor([1, 2]).cast("bfloat16")), "shape.mismatch", /got bfloat16 \[2\]; cast/);
    await expectError(
      () => new Variable("w", [3], "float32", Float32Array.of(1)),
      "shape.mismatch",
      /^variable w: float32 \[3\] needs 12 bytes, got 4/,
    );
  });

  it("start as zeros", async () => expect(await list(new Variable("z", [2], "float16").read())).toEqual([0, 0]));

  it("name those on which a loss does not depend", async () => {
    const [used, unused] = [make(1), new Variable("idle", [1], "float32")];
    await expectError(
      () => gradients(used.read().sum(), [used, unused]),
      "gradient.missing",
      /does not depend on idle/,
    );
    expect([...gradients(used.read().sum(), [used, unused], { allowUnused: true }).keys()]).toEqual([used]);
  });

  it("host numbers show each value to what is built after it", async () => {
    const rate = new HostNumber("rate", 2);
    const doubled = rate.read().mul(2);
    expect(await doubled.item()).toBe(4);
    rate.value = 5;
    expect(await rate.read().mul(2).item()).toBe(10);
    expect(await doubled.item()).toBe(4);
  });
});
