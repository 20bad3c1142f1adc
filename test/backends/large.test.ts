/** Tensors and an arena beyond 4 GiB: sizes and offsets are 64-bit integers. Skipped, visibly, where memory is short. */
import { describe, expect, it } from "vitest";
import { availableMemory } from "../../src/backends/memory.ts";
import { compile, type Tensor, useDevice, Variable } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";

/** Elements of bfloat16 that take 128 KiB more than 2³² bytes. */
const SIZE = 2 ** 31 + 2 ** 16;
const NEEDED = 12e9;

const isLarge = availableMemory(0) >= NEEDED;
if (!isLarge) console.log(`skipped: tensors beyond 4 GiB — they need ${NEEDED / 1e9} GB of free memory`);

describe.runIf(isLarge && DEVICES.includes("cpu"))("tensors beyond 4 GiB", () => {
  it("are written, read and summed past byte 2³², in bindings and in the arena", { timeout: 600_000 }, async () => {
    useDevice("cpu");
    const w = new Variable("w", [2, SIZE / 2], "bfloat16");
    const step = compile(() => {
      // The whole is stored in the arena: its transpose is read in another order than it is made.
      const made = w.read().add(1);
      w.assign(made);
      return {
        tail: tailOf(made),
        rows: made
          .transpose()
          .slice(0, SIZE / 2 - 8, 8)
          .mul(2),
      };
    });
    const first = await step();
    expect([...(await first.tail.data())]).toEqual(new Array(8).fill(1));
    expect([...(await first.rows.data())]).toEqual(new Array(16).fill(2));
    expect([...(await tailOf(w.read()).data()), ...(await w.read().slice(1, 0, 4).data())]).toEqual(
      new Array(16).fill(1),
    );
    expect(await w.read().slice(0, 1, 1).cast("float32").sum().item()).toBe(SIZE / 2);
    expect(step.plan().byteLength).toBeGreaterThan(2 ** 32);
    await expect(w.bytes()).rejects.toThrow(/does not fit into one array of bytes|RangeError/);
  });
});

/** The last eight elements, which lie beyond byte 2³². */
const tailOf = (x: Tensor): Tensor =>
  x
    .slice(0, 1, 1)
    .slice(1, SIZE / 2 - 8, 8)
    .reshape([8]);
