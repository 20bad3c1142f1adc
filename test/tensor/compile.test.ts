/** compile: replays, variables, order of calls, retraces, guards, mistakes. */
import { beforeAll, describe, expect, it, vi } from "vitest";
import { BinadeError, type ErrorCode } from "../../src/errors.ts";
import { compile, debug } from "../../src/tensor/compile.ts";
import { full, tensor, zeros } from "../../src/tensor/create.ts";
import { useDevice } from "../../src/tensor/devices.ts";
import { crossEntropy } from "../../src/tensor/functions.ts";
import { gradients } from "../../src/tensor/gradients.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { guarded } from "../../src/tensor/trace.ts";
import { HostNumber, Variable } from "../../src/tensor/variable.ts";
import { DEVICES } from "../support/devices.ts";

const list = async (x: Tensor): Promise<number[]> => [...(await x.data())];
const counter = (value = 0, name = "count"): Variable => new Variable(name, [], "float32", Float32Array.of(value));
const stored = async (v: Variable): Promise<number[]> => list(v.read());

async function caught(body: () => unknown): Promise<BinadeError> {
  try {
    await body();
  } catch (error) {
    if (error instanceof BinadeError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}
const expectError = async (body: () => unknown, code: ErrorCode, sentence: RegExp): Promise<void> => {
  const error = await caught(body);
  expect([error.code, error.message]).toEqual([code, expect.stringMatching(sentence)]);
};

class Holder {
  readonly x: Tensor;
  constructor(x: Tensor) {
    this.x = x;
  }
}

describe.each(DEVICES)("compile on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });

  it("replays with new arguments, far beyond the first steps", async () => {
    const step = compile((x: Tensor, y: Tensor) => ({
      sum: x.add(y),
      parts: [x.mul(2), y.neg()] as const,
      label: "fixed",
    }));
    for (let i = 0; i < 7; i++) {
      const { sum, parts, label } = await step(tensor([i, 1]), tensor([10, i]));
      expect([await list(sum), await list(parts[0]), await list(parts[1]), label]).toEqual([
        [i + 10, 1 + i],
        [2 * i, 2],
        [-10, -i],
        "fixed",
      ]);
    }
    expect(step.traces).toBe(1);
  });

  it("returns tensors of their own at every call, also for one value twice", async () => {
    const step = compile((x: Tensor) => ({ a: x.add(1), b: x.add(1), c: x }));
    const held = [await step(tensor([1])), await step(tensor([2])), await step(tensor([3]))];
    expect(
      await Promise.all(held.map(async ({ a, b, c }) => [...(await list(a)), ...(await list(b)), ...(await list(c))])),
    ).toEqual([
      [2, 2, 1],
      [3, 3, 2],
      [4, 4, 3],
    ]);
  });

  it("updates variables in place, together, and reads the new value after an assignment", async () => {
    const [u, v] = [counter(1, "u"), counter(10, "v")];
    const step = compile((x: Tensor) => {
      u.assign(v.read());
      v.assign(v.read().add(x));
      const after = u.read().add(v.read());
      return { after };
    });
    const seen: number[] = [];
    for (let i = 1; i <= 4; i++) seen.push(await (await step(tensor(i))).after.item());
    expect(seen).toEqual([21, 24, 29, 36]);
    expect([await stored(u), await stored(v)]).toEqual([[16], [20]]);
  });

  it("swaps variables", async () => {
    const [u, v] = [
      new Variable("u", [2], "float32", Float32Array.of(1, 2)),
      new Variable("v", [2], "float32", Float32Array.of(3, 4)),
    ];
    const swap = compile(() => {
      const old = u.read();
      u.assign(v.read());
      v.assign(old);
      return {};
    });
    await swap();
    expect([await stored(u), await stored(v)]).toEqual([
      [3, 4],
      [1, 2],
    ]);
    await swap();
    await swap();
    expect([await stored(u), await stored(v)]).toEqual([
      [3, 4],
      [1, 2],
    ]);
  });

  it("runs calls that were not awaited in the order in which they were made, recordings included", async () => {
    const total = counter();
    const [times, plus] = [
      compile((x: Tensor) => {
        total.assign(total.read().mul(x.sum()));
        return total.read();
      }),
      compile((x: Tensor) => {
        total.assign(total.read().add(x.sum()));
        return total.read();
      }),
    ];
    const calls = [
      plus(tensor([3])),
      times(tensor([2])),
      plus(
        tensor([4])
          .add(tensor([1]))
          .exp()
          .log()
          .round(),
      ),
      times(tensor([1, 2])),
      plus(tensor([1])),
      times(tensor([2])),
    ];
    expect(await Promise.all(calls.map(async (call) => (await call).item()))).toEqual([3, 6, 11, 33, 34, 68]);
    expect([times.traces, plus.traces]).toEqual([2, 1]);
  });

  it("records once for calls that start together", async () => {
    let runs = 0;
    const step = compile((x: Tensor) => {
      runs++;
      return x.mul(3);
    });
    const results = await Promise.all([1, 2, 3].map((n) => step(tensor([n]))));
    expect(await Promise.all(results.map(list))).toEqual([[3], [6], [9]]);
    expect([runs, step.traces]).toEqual([1, 1]);
  });

  it("records anew for other shapes, dtypes and guarded modes, and finds old recordings again", async () => {
    let training = true;
    const step = compile((x: Tensor) => (guarded(() => training) ? x.mul(2) : x));
    expect(await list(await step(tensor([1, 2])))).toEqual([2, 4]);
    expect(await list(await step(tensor([1, 2, 3])))).toEqual([2, 4, 6]);
    expect((await step(tensor([1, 2]).cast("bfloat16"))).dtype).toBe("bfloat16");
    expect(step.traces).toBe(3);
    training = false;
    expect(await list(await step(tensor([1, 2])))).toEqual([1, 2]);
    training = true;
    expect(await list(await step(tensor([5, 6])))).toEqual([10, 12]);
    expect(step.traces).toBe(4);
  });

  it("reads host numbers anew at every call, and captures plain numbers", async () => {
    const rate = new HostNumber("rate", 0.5);
    let plain = 1;
    const step = compile((x: Tensor) => x.mul(rate.read()).add(plain));
    expect(await list(await step(tensor([4])))).toEqual([3]);
    rate.value = 2;
    plain = 100;
    expect(await list(await step(tensor([4])))).toEqual([9]);
    expect(step.traces).toBe(1);
  });

  it("takes a variable's value as an argument while it overwrites that variable", async () => {
    const v = new Variable("v", [3], "float32", Float32Array.of(1, 2, 3));
    const step = compile((x: Tensor) => {
      v.assign(v.read().mul(10));
      return x.sub(v.read());
    });
    expect(await list(await step(v.read()))).toEqual([-9, -18, -27]);
    expect(await list(await step(v.read()))).toEqual([-90, -180, -270]);
    expect(await stored(v)).toEqual([100, 200, 300]);
  });

  it("computes lazy arguments and pending assignments first", async () => {
    const v = counter(1);
    const step = compile((x: Tensor) => x.add(v.read()));
    v.assign(v.read().add(1));
    expect(await (await step(tensor(10).mul(2))).item()).toBe(22);
    v.assign(v.read().mul(5));
    expect(await (await step(v.read()))?.item()).toBe(20);
  });

  it("changes nothing when an index is out of range, and goes on afterwards", async () => {
    const [seen, table] = [counter(), new Variable("table", [3, 2], "float32", Float32Array.of(1, 2, 3, 4, 5, 6))];
    const step = compile((rows: Tensor) => {
      seen.assign(seen.read().add(1));
      const picked = table.read().gather(rows);
      const grads = gradients(picked.sum(), [table]);
      for (const [v, g] of grads) v.assign(v.read().sub(g));
      return picked;
    });
    await expectError(
      () => step(tensor(Int32Array.of(0, 2, 3))),
      "index.outOfRange",
      /gather.*index 3 at position 2 is outside 0…2; nothing was changed/,
    );
    expect([await stored(seen), await stored(table)]).toEqual([[0], [1, 2, 3, 4, 5, 6]]);
    expect(await list(await step(tensor(Int32Array.of(2, 0, 2))))).toEqual([5, 6, 1, 2, 5, 6]);
    expect([await stored(seen), await stored(table)]).toEqual([[1], [0, 1, 3, 4, 3, 4]]);
  });

  it("names the offending label of a loss", async () => {
    const step = compile((logits: Tensor, labels: Tensor) => crossEntropy(logits, labels));
    await expectError(
      () => step(zeros([2, 5]), tensor(Int32Array.of(4, 5))),
      "index.outOfRange",
      /index 5 at position 1 is outside 0…4/,
    );
    await expectError(
      () => step(zeros([2, 5]), tensor(Int32Array.of(-1, 5))),
      "index.outOfRange",
      /index -1 at position 0/,
    );
    expect(await (await step(zeros([2, 5]), tensor(Int32Array.of(4, -100)))).item()).toBeCloseTo(Math.log(5), 6);
  });

  it("prints probes without changing the result", async () => {
    const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
    const step = compile((x: Tensor) => debug(x.add(1), "sum").mul(2));
    expect(await list(await step(tensor([1, 2])))).toEqual([4, 6]);
    expect(await list(await step(tensor([3, 4])))).toEqual([8, 10]);
    expect(log.mock.calls.map(([line]) => line)).toEqual(["sum: float32 [2] [2, 3]", "sum: float32 [2] [4, 5]"]);
    log.mockRestore();
  });

  it("refuses reads inside, promises, and compiled functions inside", async () => {
    const inner = compile((x: Tensor) => x);
    const v = counter(3);
    let read: Promise<unknown> = Promise.resolve();
    const reads = compile((x: Tensor) => {
      v.assign(v.read().add(1));
      read = caught(() => x.item());
      return x;
    });
    await reads(tensor(1)).catch(() => undefined);
    expect(await read).toMatchObject({
      code: "trace.read",
      message: expect.stringMatching(/^compile: a value was read inside/),
    });
    let nested: Promise<unknown> = Promise.resolve();
    await compile((x: Tensor) => {
      nested = caught(() => inner(x));
      return x;
    })(tensor(1));
    expect(await nested).toMatchObject({ code: "trace.read" });
    // @ts-expect-error: a step is recorded synchronously
    await expectError(() => compile(async (x: Tensor) => x)(tensor(1)), "trace.structure", /returned a promise/);
  });

  it.each([
    ["Map", (x: Tensor) => ({ grads: new Map([["w", x]]) })],
    ["Set", (x: Tensor) => [new Set([x])]],
    ["Holder", (x: Tensor) => new Holder(x)],
  ])("refuses tensors inside a %s: nobody would compute them", async (name, returned) => {
    const step = compile((x: Tensor) => returned(x.mul(2)));
    await expectError(
      () => step(tensor(1)),
      "trace.structure",
      new RegExp(`returned tensors inside ${name}, expected`),
    );
  });

  it("forgets the assignments of a recording that failed", async () => {
    const v = counter(3);
    const step = compile((fail: Tensor) => {
      v.assign(v.read().add(1));
      return fail.shape.length === 1 ? fail.reshape([7]) : fail;
    });
    await expectError(() => step(tensor([1])), "shape.mismatch", /^reshape: /);
    expect([await stored(v), step.traces]).toEqual([[3], 0]);
    await step(tensor(1));
    expect(await stored(v)).toEqual([4]);
  });

  it("trains like the same loop without compile, bit for bit", async () => {
    const make = (): Variable => new Variable("w", [3, 2], "float32", Float32Array.of(0.1, -0.2, 0.3, 0.4, -0.5, 0.6));
    const update = (w: Variable) => (x: Tensor, y: Tensor) => {
      const loss = crossEntropy(x.matmul(w.read().transpose()), y);
      for (const [v, g] of gradients(loss, [w])) v.assign(v.read().sub(g.mul(0.5)));
      return loss;
    };
    const [eager, compiled] = [make(), make()];
    const step = compile(update(compiled));
    for (let i = 0; i < 5; i++) {
      const [x, y] = [
        tensor([
          [1, i],
          [i, -1],
        ]),
        tensor(Int32Array.of(i % 3, 1)),
      ];
      const [p, q] = [await update(eager)(x, y).item(), await (await step(x, y)).item()];
      expect(p).toBe(q);
    }
    expect(await stored(eager)).toEqual(await stored(compiled));
  });

  it("keeps assignments that were made before a plan: they run once, and are no part of the recording", async () => {
    const [before, inside] = [new Variable("before", [], "float32"), new Variable("inside", [], "float32")];
    before.assign(full([], 5));
    inside.assign(full([], 3));
    const step = compile((x: Tensor) => {
      inside.assign(inside.read().add(1));
      return x.add(before.read());
    });
    step.plan(zeros([]));
    expect([await before.read().item(), await inside.read().item()]).toEqual([5, 3]);
    before.assign(full([], 7));
    expect(await (await step(zeros([]))).item()).toBe(7);
    expect([await before.read().item(), await inside.read().item()]).toEqual([7, 4]);
    expect(step.traces).toBe(1);
  });

  it("keeps them when the recording fails", async () => {
    const before = new Variable("before", [], "float32");
    before.assign(full([], 5));
    const step = compile((x: Tensor) => {
      before.assign(x);
      throw new TypeError("by the user");
    });
    expect(() => step.plan(zeros([]))).toThrow("by the user");
    expect(await before.read().item()).toBe(5);
  });

  it("plans one arena", async () => {
    const step = compile((x: Tensor) => x.exp().sum().add(x.matmul(x).sum()));
    expect(step.arenaByteLength).toBe(0);
    await step(zeros([8, 8]));
    expect(step.arenaByteLength % 64).toBe(0);
  });

  it("warns when shapes never repeat", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    const step = compile((x: Tensor) => x.neg());
    for (let n = 1; n <= 9; n++) await step(zeros([n]));
    expect(warn.mock.calls.map(([line]) => String(line))).toEqual([
      expect.stringContaining("recorded a function 9 times"),
    ]);
    warn.mockRestore();
  });
});
