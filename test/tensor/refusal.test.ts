/** More memory than the machine has is refused before a byte is allocated; how much it has is read from system and control groups. */
import { describe, expect, it } from "vitest";
import { availableMemory } from "../../src/backends/memory.ts";
import { ReferenceBackend } from "../../src/backends/reference/backend.ts";
import {
  BinadeError,
  compile,
  Device,
  gradients,
  MemoryError,
  optim,
  type Tensor,
  tensor,
  useDevice,
  Variable,
  zeros,
} from "../../src/index.ts";

const MEBI = 2 ** 20;

/** A machine that has this many bytes in all. */
class Small extends ReferenceBackend {
  readonly #total: number;
  constructor(total: number) {
    super();
    this.#total = total;
  }
  override availableMemory(held: number): number {
    return this.#total - held;
  }
}

async function refusal(body: () => Promise<unknown>): Promise<BinadeError> {
  try {
    await body();
  } catch (error) {
    if (error instanceof BinadeError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("a run that the machine has no memory for", () => {
  it("is refused with the plan, and nothing is allocated: a compiled step", async () => {
    const tight = new Device(new Small(40 * MEBI));
    const error = await refusal(async () => {
      const w = new Variable("w", [4096, 4096], "float32", undefined, tight);
      const state = new optim.AdamW([w]);
      const run = compile((s: Tensor) => {
        const loss = w.read().mul(s).square().sum();
        state.apply(gradients(loss, [w]));
        return loss;
      });
      await run(tensor(1, { device: tight }));
    });
    expect(error).toMatchObject({ code: "memory.insufficient", availableBytes: 40 * MEBI - 4 });
    expect(error).toBeInstanceOf(MemoryError);
    expect(error.message).toMatch(/needs \d+\.\d MB more, and the machine has 41\.9 MB left/);
    expect(error.message).toMatch(/optimizer state 134\.2 MB, parameters 67\.1 MB/);
    expect(error.message).toMatch(/nothing was allocated; use a smaller batch/);
    expect(tight.live.byteLength).toBeLessThanOrEqual(4);
  });

  it("is refused where values are computed one by one, too", async () => {
    const device = new Device(new Small(80 * MEBI));
    const x = tensor([0], { device });
    const error = await refusal(() => x.broadcastTo([32, MEBI]).exp().sum({ axes: 0 }).exp().data());
    expect(error.code).toBe("memory.insufficient");
    expect(error.message).toMatch(/workspace 134\.2 MB|outputs/);
    expect(device.live.byteLength).toBe(4);
  });

  it("is refused where no device could count its intermediates", async () => {
    const x = zeros([2 ** 22, 2 ** 22]);
    const error = await refusal(async () => compile((a: Tensor) => a.exp().matmul(a.exp()).sum()).plan(x));
    expect(error.code).toBe("memory.insufficient");
    expect(error.message).toMatch(/intermediates of \d+ bytes were asked for, expected at most 17592186044416 on any/);
  });

  it("is refused where a single tensor is too large", async () => {
    const device = new Device(new Small(32 * MEBI));
    const error = await refusal(async () => tensor(new Uint8Array(100 * MEBI), { device }));
    expect(error.message).toMatch(/a tensor of 104857600 bytes was asked for, and the machine has 33554432 left/);
  });

  it("is counted together with small allocations that were not looked into", async () => {
    const device = new Device(new Small(32 * MEBI));
    const held: Tensor[] = [];
    const error = await refusal(async () => {
      for (let i = 0; i < 8; i++) held.push(tensor(new Uint8Array(16 * MEBI), { device }));
    });
    expect(error.code).toBe("memory.insufficient");
    expect(held.length).toBeLessThan(5);
  });

  it("does not stand in the way of a plan", () => {
    useDevice("null");
    const w = new Variable("w", [2 ** 20, 2 ** 20], "float32");
    const step = compile((x: Tensor) => x.matmul(w.read()).sum());
    expect(step.plan(zeros([1, 2 ** 20])).resident.inputs).toBe(4 * 2 ** 20);
    expect(step.plan(zeros([1, 2 ** 20])).resident.buffers).toBe(4 * 2 ** 40);
  });
});

describe("available memory", () => {
  const files =
    (texts: Readonly<Record<string, string>>) =>
    (path: string): string | null =>
      texts[path] ?? null;
  const MACHINE = {
    "/proc/meminfo": "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable:    6000 kB\n",
    "/proc/self/status": "Name:\tnode\nVmRSS:\t     100 kB\n",
  };

  it("is what the system offers, less what was allocated and not touched yet", () => {
    expect(availableMemory(0, files(MACHINE))).toBe(6000 * 1024);
    expect(availableMemory(300 * 1024, files(MACHINE))).toBe(5800 * 1024);
    expect(availableMemory(10 ** 9, files(MACHINE))).toBe(0);
  });

  it("is no more than any control group allows, caches counted as free (version 2)", () => {
    const texts = {
      ...MACHINE,
      "/proc/self/cgroup": "0::/outer/inner\n",
      "/sys/fs/cgroup/outer/inner/memory.max": "max\n",
      "/sys/fs/cgroup/outer/memory.max": "5000000\n",
      "/sys/fs/cgroup/outer/memory.current": "4000000\n",
      "/sys/fs/cgroup/outer/memory.stat": "anon 1\ninactive_file 500000\n",
    };
    expect(availableMemory(0, files(texts))).toBe(1_500_000);
  });

  it("is no more than any control group allows (version 1, and a container's own root)", () => {
    const texts = {
      ...MACHINE,
      "/proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/abc\n",
      "/sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
      "/sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000\n",
      "/sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    };
    expect(availableMemory(0, files(texts))).toBe(2_000_000);
  });

  it("is known on this machine", () => {
    expect(availableMemory(0)).toBeGreaterThan(2 ** 20);
  });
});
