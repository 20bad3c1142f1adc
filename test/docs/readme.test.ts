/** The training loop of README.md type-checks as it stands, and trains a model of tiny sizes. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Tensor, useDevice } from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { page, ROOT } from "./markdown.ts";

const [, LOOP = ""] = /```ts\n([\s\S]*?)```/.exec(page("README.md")) ?? [];

const PRELUDE = `import { type Tensor, tensor } from "binade";
const tokensOf = (i: number) => Int32Array.from({ length: 8 }, (_, at) => (i + at) % 5);
const batches = Array.from({ length: 40 }, (_, i) => ({
  tokens: tensor(tokensOf(i), { shape: [2, 4] }),
  targets: tensor(tokensOf(i + 1), { shape: [2, 4] }),
}));
`;
/** What the test sees of the loop: the losses that it prints. */
const CODA = `export const last: { readonly loss: Tensor } = await step(batches[0]?.tokens ?? tensor(0), batches[0]?.targets ?? tensor(0));
`;

const tiny = (loop: string): string =>
  loop
    .replace(
      /vocabulary: \d+, context: \d+, layers: \d+, heads: \d+, width: \d+/,
      "vocabulary: 5, context: 4, layers: 1, heads: 1, width: 8",
    )
    .replace("lr: 1e-3", "lr: 3e-2")
    .replace("console.log(await loss.item())", "losses.push(await loss.item())");

describe("the training loop of the README", () => {
  let folder = "";
  const write = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };

  beforeAll(() => {
    mkdirSync(`${ROOT}build`, { recursive: true });
    folder = mkdtempSync(`${ROOT}build/readme-`);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("has at most twenty lines", () => {
    expect(LOOP).toContain("for (const { tokens, targets } of batches)");
    expect(LOOP.split("\n").filter((line) => line.trim() !== "").length).toBeLessThanOrEqual(20);
  });

  it("type-checks, and clipping scaled gradients does not", () => {
    write("loop.ts", PRELUDE + LOOP + CODA);
    const wrong = write(
      "wrong.ts",
      PRELUDE + LOOP.replace("clipByGlobalNorm(grads, 1)", "clipByGlobalNorm(scaled, 1)") + CODA,
    );
    const config = { extends: "../../tsconfig.json", include: ["*.ts"], compilerOptions: { noUnusedLocals: false } };
    const project = write("tsconfig.json", JSON.stringify(config));
    const { stdout } = spawnSync(process.execPath, [`${ROOT}node_modules/typescript/bin/tsc`, "-p", project], {
      encoding: "utf8",
    });
    const faults = stdout.split("\n").filter((line) => line.includes("error TS") && line.includes("readme-"));
    expect(
      faults.map((line) => line.includes("wrong.ts")),
      `${wrong}\n${stdout}`,
    ).toEqual([true]);
  });

  it.each(DEVICES)("trains on %s", async (device) => {
    useDevice(device);
    const path = write(`tiny-${device}.ts`, `${PRELUDE}export const losses: number[] = [];\n${tiny(LOOP)}${CODA}`);
    const loop: { readonly last: { readonly loss: Tensor }; readonly losses: readonly number[] } = await import(path);
    expect(loop.losses).toHaveLength(40);
    expect(loop.losses[0]).toBeGreaterThan(1.3);
    expect(await loop.last.loss.item()).toBeLessThan(0.5);
  });
});
