/** Checkpoints that are damaged, foreign, or of another run: refused whole, with nothing changed. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { useDevice, Variable } from "../../src/index.ts";
import {
  type NamedVariables,
  readCheckpoint,
  requireSameSettings,
  restoreCheckpoint,
  saveCheckpoint,
} from "../../src/train/checkpoint.ts";
import { decodeSafetensors, encodeSafetensors, type SavedTensor } from "../../src/train/safetensors.ts";
import { refusal, temporaryFolder } from "./tiny.ts";

beforeAll(() => {
  useDevice("reference");
});

const variablesOf = (values: Readonly<Record<string, readonly number[]>>): NamedVariables =>
  new Map(
    Object.entries(values).map(([name, list]) => [
      name,
      new Variable(name, [list.length], "float32", new Float32Array(list)),
    ]),
  );

const record = { step: 7, skippedSteps: 2, settings: { lr: 0.1, name: "x" }, notes: { preset: "s" } };
let path = "";
beforeEach(async () => {
  path = join(temporaryFolder(), "checkpoint.safetensors");
  await saveCheckpoint(path, variablesOf({ "model.w": [1, 2, 3], "optimizer.m": [4] }), record);
});

/** Writes the file anew, with other tensors or metadata. */
function rewrite(change: {
  tensors?: ReadonlyMap<string, SavedTensor>;
  metadata?: Readonly<Record<string, string>>;
}): void {
  const { tensors, metadata } = decodeSafetensors(new Uint8Array(readFileSync(path)), path);
  const chunks = encodeSafetensors(change.tensors ?? tensors, { ...metadata, ...change.metadata });
  writeFileSync(path, Buffer.concat(chunks));
}

describe("a checkpoint", () => {
  it("holds what was saved", async () => {
    const checkpoint = await readCheckpoint(path);
    expect(checkpoint).toMatchObject({ path, ...record });
    const variables = variablesOf({ "model.w": [0, 0, 0], "optimizer.m": [0] });
    await restoreCheckpoint(checkpoint, variables);
    expect([...((await variables.get("model.w")?.read().data()) ?? [])]).toEqual([1, 2, 3]);
    expect([...((await variables.get("optimizer.m")?.read().data()) ?? [])]).toEqual([4]);
  });

  it("is refused wherever it is cut off", async () => {
    const bytes = readFileSync(path);
    for (let length = 0; length < bytes.length; length++) {
      writeFileSync(path, bytes.subarray(0, length));
      const { code, message } = await refusal(readCheckpoint(path));
      expect(code).toBe("checkpoint.corrupt");
      expect(message).toContain(path);
    }
  });

  it.each([
    ["format", "binade-checkpoint-2"],
    ["format", ""],
    ["step", ""],
    ["step", "-1"],
    ["step", "1.5"],
    ["step", "many"],
    ["skippedSteps", "NaN"],
    ["settings", ""],
    ["settings", "[]"],
    ["settings", "null"],
    ["settings", "7"],
    ["notes", "{"],
  ])("with %s %j is refused", async (key, value) => {
    rewrite({ metadata: { [key]: value } });
    expect(await refusal(readCheckpoint(path))).toMatchObject({ code: "checkpoint.corrupt" });
  });

  it("of other programs is refused", async () => {
    writeFileSync(path, Buffer.concat(encodeSafetensors(new Map(), { format: "pt" })));
    const { code, message } = await refusal(readCheckpoint(path));
    expect(code).toBe("checkpoint.corrupt");
    expect(message).toContain("binade-checkpoint-1");
  });

  it("that is missing, or a folder, is refused", async () => {
    expect(await refusal(readCheckpoint(`${path}.gone`))).toMatchObject({ code: "file.missing" });
    expect(await refusal(readCheckpoint(temporaryFolder()))).toMatchObject({ code: "file.unreadable" });
  });
});

describe("restoring", () => {
  it.each([
    [{ "model.w": [9, 9, 9] }, /holds optimizer\.m, which this run has not/],
    [{ "model.w": [9, 9, 9], "optimizer.m": [9], "scaler.x": [9] }, /lacks scaler\.x;/],
    [{ "model.v": [9, 9, 9], "optimizer.m": [9] }, /lacks model\.v and holds model\.w/],
    [{ "model.w": [9, 9], "optimizer.m": [9] }, /model\.w is float32 \[3\], expected float32 \[2\]/],
    // The last variable in order: those before it must not have been loaded.
    [{ "model.w": [9, 9, 9], "optimizer.m": [9, 9] }, /optimizer\.m is float32 \[1\], expected float32 \[2\]/],
  ] as const)("%j is refused and unchanged", async (values, expected) => {
    const variables = variablesOf(values);
    const { code, message } = await refusal(restoreCheckpoint(await readCheckpoint(path), variables));
    expect(code).toBe("checkpoint.mismatch");
    expect(message).toMatch(expected);
    for (const [name, variable] of variables) {
      expect([...(await variable.read().data())], name).toEqual(Array(variable.shape[0]).fill(9));
    }
  });

  it("names settings that differ, in either direction", async () => {
    const checkpoint = await readCheckpoint(path);
    expect(() => requireSameSettings(checkpoint, { name: "x", lr: 0.1 })).not.toThrow();
    const differing = (now: Readonly<Record<string, unknown>>) =>
      refusal(Promise.resolve().then(() => requireSameSettings(checkpoint, now)));
    expect((await differing({ lr: 0.2, name: "x" })).message).toContain("lr was 0.1 and is 0.2;");
    expect((await differing({ lr: 0.1 })).message).toContain('name was "x" and is not set;');
    expect((await differing({ lr: 0.1, name: "x", more: true })).message).toContain("more was not set and is true;");
  });
});
