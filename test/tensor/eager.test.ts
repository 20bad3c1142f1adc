/** Values outside of compiled functions: old values of variables, loading, and results that belong to no device. */
import { beforeAll, describe, expect, it } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/backend.ts";
import { arange, Device, full, tensor, useDevice, Variable } from "../../src/index.ts";

beforeAll(() => {
  useDevice("reference");
});

describe("variables", () => {
  it("the value read before an assignment is the old one, also afterwards", async () => {
    const v = new Variable("v", [1], "float32", Float32Array.of(3));
    const before = v.read();
    v.assign(before.add(1));
    expect(await before.item()).toBe(3);
    expect(await v.read().item()).toBe(4);
    expect(await before.mul(2).item()).toBe(6);
  });

  it("loading replaces pending assignments, and what was computed from the old value stays as it was", async () => {
    const v = new Variable("v", [1], "float32", Float32Array.of(3));
    const doubled = v.read().mul(2);
    expect(await doubled.item()).toBe(6);
    v.assign(tensor([100]));
    await v.load(new Uint8Array(Float32Array.of(5).buffer));
    expect(await v.read().item()).toBe(5);
    expect(await v.read().mul(2).item()).toBe(10);
    expect(await doubled.item()).toBe(6);
  });
});

describe("literals", () => {
  it("computed on one device can be used on another", async () => {
    const other = new Device(new ReferenceBackend());
    const table = () =>
      arange(3)
        .cast("float32")
        .add(full([3], 1));
    expect([...(await table().data())]).toEqual([1, 2, 3]);
    expect([
      ...(await table()
        .mul(tensor([2, 2, 2], { device: other }))
        .data()),
    ]).toEqual([2, 4, 6]);
  });
});
