/** Programs as the addon takes them: malformed words, bindings, faults and commits, turns, threads, loading. */
import { spawnSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import { loadAddon } from "../../src/backends/cpu/loader.ts";
import * as programs from "./programs.ts";
import { addon, at, isas, programWords, randomWords, runKernels, skipReason } from "./words.ts";

const run = describe.skipIf(skipReason !== undefined);

run("malformed programs", () => {
  const { kernels, bindings } = programs.everyKernel();
  const words = programWords(kernels, { bindings: bindings.length, arenaByteLength: 4096 });

  it("the program that is damaged below is sound", () => {
    expect(addon().runSync(addon().createProgram(words), bindings)).toBeNull();
  });

  it("is refused at every length but its own", () => {
    for (let length = 0; length < words.length; length++) {
      expect(() => addon().createProgram(words.slice(0, length)), `${length} words`).toThrow(
        /^program: word \d+: expected/,
      );
    }
    expect(() => addon().createProgram(BigInt64Array.of(...words, 0n))).toThrow("expected the end of the words");
  });

  it.each([-(2n ** 63n), 2n ** 63n - 1n, 2n ** 44n, -1n, 2n ** 40n])("survives any word being %s", (value) => {
    for (let i = 0; i < words.length; i++) {
      const damaged = words.slice();
      damaged[i] = value;
      // Some words may hold anything (a stride of an axis of one element, a scale): all that counts is no crash.
      try {
        addon().createProgram(damaged);
      } catch (error) {
        expect(String(error)).toMatch(/program: word \d+: (\w+: )?expected/);
      }
    }
  });

  it("never reads or writes outside bindings, whichever small word stands anywhere", () => {
    const random = randomWords(3 * words.length, 11);
    let ran = 0;
    for (let i = 0; i < random.length; i++) {
      const damaged = words.slice();
      damaged[i % words.length] = BigInt((at(random, i) % 24) - 4);
      try {
        addon().runSync(addon().createProgram(damaged), bindings);
        ran++;
      } catch (error) {
        expect(String(error)).toMatch(
          /program: word \d+: (\w+: )?expected|run: binding \d+: expected|run: expected an array/,
        );
      }
    }
    expect(ran).toBeGreaterThan(0);
  });

  it.each([
    [undefined],
    [null],
    [5],
    ["x"],
    [[]],
    [new Float32Array(4)],
    [new BigUint64Array(5)],
  ])("refuses words that are %s", (value: unknown) => {
    expect(() => addon().createProgram(value as BigInt64Array)).toThrow("createProgram: expected a BigInt64Array");
  });
});

run("bindings", () => {
  const n = 100;
  const words = programWords([programs.addOne(n, "float32", 1, 2)], { bindings: 2 });
  const handle = (): ReturnType<ReturnType<typeof addon>["createProgram"]> => addon().createProgram(words);
  const good = (): Float32Array => new Float32Array(n);

  it.each([
    ["too few", [new Float32Array(n)], "expected an array of 2 bindings, got 1"],
    ["too short", [new Float32Array(n), new Float32Array(n - 1)], "binding 2: expected at least 400 bytes, got 396"],
    ["no view", [new Float32Array(n), {}], "binding 2: expected an ArrayBuffer, typed array"],
    [
      "misaligned",
      [new Float32Array(n), new DataView(new ArrayBuffer(404), 2)],
      "binding 2: expected memory aligned to 4",
    ],
    ["no array", null, "expected an array of 2 bindings"],
  ])("are refused when %s", (_, bindings, message) => {
    expect(() => addon().runSync(handle(), bindings as Float32Array[])).toThrow(message);
    expect(() => addon().run(handle(), bindings as Float32Array[])).toThrow(message);
  });

  it("may be of any kind that is large enough", () => {
    const bytes = new Uint8Array(4 * n);
    expect(addon().runSync(handle(), [good(), bytes])).toBeNull();
    expect(new Float32Array(bytes.buffer)).toEqual(good().fill(1));
    expect(addon().runSync(handle(), [good(), new DataView(new ArrayBuffer(4 * n))])).toBeNull();
  });

  it.each([undefined, {}, 7])("come with a handle, not with %s", (value) => {
    expect(() => addon().runSync(value as ReturnType<typeof handle>, [good(), good()])).toThrow("expected a handle");
  });
});

run("faults", () => {
  it("stop the commit kernels only, and name the first kernel and position", () => {
    const x = new Float32Array(4);
    const index = Int32Array.of(0, 9, 1, 8);
    const out = new Float32Array(4);
    const before = new Float32Array(4);
    const after = new Float32Array(4);
    const gather = programs.gather(4, index.length, 2, 3);
    const kernels = [gather, gather, programs.addOne(4, "float32", 1, 4), programs.addOne(4, "float32", 1, 5)];
    const fault = runKernels(kernels, [x, index, out, before, after], { firstCommit: 3 });
    expect(fault).toEqual({ kernel: 0, position: 1, value: 9 });
    expect([before[0], after[0]]).toEqual([1, 0]);
    index.set([0, 1, 2, 3]);
    expect(runKernels(kernels, [x, index, out, before, after], { firstCommit: 3 })).toBeNull();
    expect(after[0]).toBe(1);
  });

  it("resolve the promise of an asynchronous run", async () => {
    const index = Int32Array.of(0, 1, 4);
    const words = programWords([programs.gather(4, 3, 2, 3)], { bindings: 3 });
    const fault = await addon().run(addon().createProgram(words), [new Float32Array(4), index, new Float32Array(3)]);
    expect(fault).toEqual({ kernel: 0, position: 2, value: 4 });
  });
});

run("runs", () => {
  it("leave the event loop free and keep their memory", async () => {
    const n = 1 << 22;
    const words = programWords(
      Array.from({ length: 40 }, () => programs.addOne(n, "float32", 1, 1)),
      { bindings: 1 },
    );
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const x = new Float32Array(n);
    expect(await addon().run(addon().createProgram(words), [x])).toBeNull();
    clearInterval(timer);
    expect([x[0], x[n - 1]]).toEqual([40, 40]);
    expect(ticks).toBeGreaterThan(0);
  });

  it("are made at once while they are short, and let the event loop have its turn", async () => {
    const [n, kernels, count] = [1 << 18, 4, 400];
    const words = programWords(
      Array.from({ length: kernels }, () => programs.addOne(n, "float32", 1, 1)),
      { bindings: 1 },
    );
    const program = addon().createProgram(words);
    const x = new Float32Array(n);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const first = addon().run(program, [x]);
    expect(first).toBeInstanceOf(Promise);
    await first;
    let atOnce = 0;
    for (let i = 1; i < count; i++) {
      const outcome = addon().run(program, [x]);
      if (outcome === null) atOnce++;
      expect(await outcome).toBeNull();
      expect(x[n - 1]).toBe(kernels * (i + 1));
    }
    clearInterval(timer);
    expect(atOnce).toBeGreaterThan(0);
    expect(atOnce).toBeLessThan(count - 1);
    expect(ticks).toBeGreaterThan(0);
  });

  it("wait behind those under way, however short", async () => {
    const n = 1 << 22;
    const long = addon().createProgram(programWords([programs.addOne(n, "float32", 1, 1)], { bindings: 1 }));
    const short = addon().createProgram(programWords([programs.double(1, 1)], { bindings: 1 }));
    const x = new Float32Array(n);
    await addon().run(short, [x]);
    const pending = [addon().run(long, [x]), addon().run(short, [x])];
    expect(pending[1]).toBeInstanceOf(Promise);
    await Promise.all(pending);
    expect(x[0]).toBe(2);
  });

  it("are executed in the order of the calls, synchronous ones included", async () => {
    const n = 1 << 16;
    const addOne = addon().createProgram(programWords([programs.addOne(n, "float32", 1, 1)], { bindings: 1 }));
    const double = addon().createProgram(programWords([programs.double(n, 1)], { bindings: 1 }));
    const x = new Float32Array(n);
    const pending = [addOne, double, addOne, double, double, addOne, double].map((program) =>
      addon().run(program, [x]),
    );
    addon().runSync(addOne, [x]);
    expect(x[n - 1]).toBe(27);
    expect(await Promise.all(pending)).toEqual(pending.map(() => null));
  });

  it("share one arena, as large as the largest program", () => {
    const n = 100_000;
    const through = (arenaByteLength: number, offset: number): Float32Array => {
      const x = new Float32Array(n);
      const kernels = [programs.addOne(n, "float32", 1, 0, offset), programs.addOne(n, "float32", 0, 2, 0, offset)];
      const out = new Float32Array(n);
      expect(runKernels(kernels, [x, out], { arenaByteLength })).toBeNull();
      return out;
    };
    expect(through(4 * n, 0)).toEqual(new Float32Array(n).fill(2));
    expect(addon().arenaByteLength()).toBeGreaterThanOrEqual(4 * n);
    expect(through(8 << 20, 4 << 20)).toEqual(new Float32Array(n).fill(2));
    const grown = addon().arenaByteLength();
    expect(grown).toBeGreaterThanOrEqual(8 << 20);
    expect(through(4 * n, 0)).toEqual(new Float32Array(n).fill(2));
    expect(addon().arenaByteLength()).toBe(grown);
  });

  it.each([0, -1, 1.5, Number.NaN, 1e9, "2"])("refuse %s threads", (threads) => {
    const before = addon().threads();
    expect(() => addon().setThreads(threads as number)).toThrow("setThreads: expected a whole number from 1 to 1024");
    expect(addon().threads()).toBe(before);
  });
});

run("instruction sets", () => {
  it("end with portable, and an unknown one is refused with the choices", () => {
    expect(isas.at(-1)).toBe("portable");
    expect(() => addon().setIsa("sse9")).toThrow(`expected one of ${isas.join(", ")}`);
    for (const isa of isas) {
      addon().setIsa(isa);
      expect(addon().isa()).toBe(isa);
    }
  });

  it.each([...isas, "sse9"])("BINADE_ISA=%s at load", (isa) => {
    const loaded = loadAddon();
    const script = `const m = { exports: {} }; process.dlopen(m, process.argv[1]); console.log(m.exports.isa());`;
    const child = spawnSync(process.execPath, ["-e", script, loaded.addon === null ? "" : loaded.path], {
      env: { ...process.env, BINADE_ISA: isa },
      encoding: "utf8",
    });
    if (isa === "sse9") expect(child.stderr).toContain(`BINADE_ISA: expected one of ${isas.join(", ")}`);
    else expect(child.stdout.trim()).toBe(isa);
  });

  it("end quietly when the process exits during a run", () => {
    const loaded = loadAddon();
    const big = programWords(
      Array.from({ length: 50 }, () => programs.addOne(1 << 22, "float32", 1, 1)),
      { bindings: 1 },
    );
    const script = `const m = { exports: {} }; process.dlopen(m, process.argv[1]);
      const program = m.exports.createProgram(BigInt64Array.from(JSON.parse(process.argv[2]), BigInt));
      for (let i = 0; i < 6; i++) m.exports.run(program, [new Float32Array(1 << 22)]);
      setTimeout(() => process.exit(7), 5);`;
    const path = loaded.addon === null ? "" : loaded.path;
    const child = spawnSync(process.execPath, ["-e", script, path, JSON.stringify([...big].map(Number))]);
    expect([child.status, child.signal]).toEqual([7, null]);
  });
});

describe("loadAddon", () => {
  it("explains a missing, a disabled and a broken addon instead of throwing", () => {
    const before = process.env.BINADE_ADDON;
    const reasons = ["none", "/nowhere/binade.node", import.meta.filename].map((path) => {
      process.env.BINADE_ADDON = path;
      const loaded = loadAddon();
      return loaded.addon === null ? `${loaded.reason}; ${loaded.remedy}` : "loaded";
    });
    if (before === undefined) delete process.env.BINADE_ADDON;
    else process.env.BINADE_ADDON = before;
    expect(reasons[0]).toMatch(/disabled by BINADE_ADDON=none; unset/);
    expect(reasons[1]).toMatch(/missing at \/nowhere\/binade.node; .*doctor --build/);
    expect(reasons[2]).toMatch(/cannot be loaded/);
  });
});
