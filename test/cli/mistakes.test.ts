/** Every mistake on the command line: one sentence with the fix, a stable code, an exit status, and nothing lost. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { decodeSafetensors, encodeSafetensors } from "../../src/train/safetensors.ts";
import { CHECKPOINT_FILE } from "../../src/train/trainer.ts";
import { FOX, inProcess, TINY, workspace } from "./harness.ts";

let folder = "";
const at = (name: string): string => join(folder, name);
const train = (...args: string[]): string[] => ["train", "--device", "reference", ...args];
/** A run on `data` that would succeed. */
const on = (data: string, ...args: string[]): string[] =>
  train("--data", data, "--out", at("run"), "--steps", "2", "--sample", "0", ...TINY, ...args);
const good = (...args: string[]): string[] => on(at("fox.txt"), ...args);

beforeEach(() => {
  folder = workspace();
});

type Mistake = readonly [name: string, args: () => string[], code: string, status: number, sentence: RegExp];

async function expectMistake([, args, code, status, sentence]: Mistake): Promise<void> {
  const outcome = await inProcess(args());
  expect(outcome.stderr).toMatch(sentence);
  // One line: "binade: subject: …; fix [code]".
  expect(outcome.stderr).toMatch(/^binade: [^\n]+ \[[a-z.A-Z]+\]\n$/);
  expect(outcome.stderr).toContain(`[${code}]\n`);
  expect(outcome).toMatchObject({ status, stdout: "" });
}

const OPTIONS: readonly Mistake[] = [
  ["an empty --out", () => good("--out", ""), "option.invalid", 2, /--out: expected a folder, got ""; name one, or/],
  [
    "an unknown option",
    () => good("--stpes", "3"),
    "option.unknown",
    2,
    /unknown option '--stpes'; did you mean --steps\?/,
  ],
  ["an option like none", () => good("--qqqqqq"), "option.unknown", 2, /unknown option '--qqqqqq'; --help lists/],
  ["an unknown command", () => ["tarin"], "option.unknown", 2, /unknown command 'tarin'; did you mean train\?/],
  ["an argument", () => train("fox.txt"), "option.unknown", 2, /got "fox.txt"; name files with --data/],
  ["an argument of doctor", () => ["doctor", "x"], "option.unknown", 2, /too many arguments for 'doctor'/],
  ["a missing value", () => good("--steps"), "option.invalid", 2, /'--steps <n>' argument missing/],
  ["no data behind --data", () => train("--data"), "option.invalid", 2, /'--data <path...>' argument missing/],
  [
    "steps 0",
    () => good("--steps", "0"),
    "value.range",
    2,
    /--steps: expected an integer from 1 to 2147483647, got "0"/,
  ],
  ["steps 2^31", () => good("--steps", "2147483648"), "value.range", 2, /got "2147483648"/],
  ["steps 1.5", () => good("--steps", "1.5"), "value.range", 2, /got "1.5"/],
  ["steps many", () => good("--steps", "many"), "value.range", 2, /got "many"/],
  ["steps empty", () => good("--steps", ""), "value.range", 2, /got ""/],
  ["batch 0", () => good("--batch", "0"), "value.range", 2, /--batch: expected an integer from 1 to 65536/],
  ["batch -1", () => good("--batch", "-1"), "value.range", 2, /--batch: .* got "-1"/],
  ["lr 0", () => good("--lr", "0"), "value.range", 2, /--lr: expected a number above 0, at most 10, got "0"/],
  ["lr NaN", () => good("--lr", "NaN"), "value.range", 2, /got "NaN"/],
  ["lr 11", () => good("--lr", "11"), "value.range", 2, /got "11"/],
  ["seed -1", () => good("--seed", "-1"), "value.range", 2, /--seed: expected an integer ≥ 0, got "-1"/],
  ["seed 2^53", () => good("--seed", "9007199254740992"), "value.range", 2, /--seed/],
  ["threads 0", () => good("--threads", "0"), "value.range", 2, /--threads: expected an integer from 1 to 1024/],
  [
    "threads of the reference",
    () => good("--threads", "2"),
    "option.invalid",
    2,
    /the reference device has one, got 2; leave out --threads/,
  ],
  ["layers 0", () => good("--layers", "0"), "value.range", 2, /--layers/],
  ["context 0", () => good("--context", "0"), "value.range", 2, /--context/],
  ["dropout 1", () => good("--dropout", "1"), "value.range", 2, /--dropout: expected a number from 0 to 0.99, got "1"/],
  ["sample -1", () => good("--sample", "-1"), "value.range", 2, /--sample/],
  ["evaluate-every 0", () => good("--evaluate-every", "0"), "value.range", 2, /--evaluate-every/],
  ["checkpoint-every 0", () => good("--checkpoint-every", "0"), "value.range", 2, /--checkpoint-every/],
  ["another preset", () => good("--preset", "l"), "option.invalid", 2, /--preset: expected one of s, m, got "l"/],
  [
    "another precision",
    () => good("--precision", "fp16"),
    "option.invalid",
    2,
    /expected one of fp32, bf16-mixed, fp16-mixed, got "fp16"/,
  ],
  [
    "another device",
    () => good("--device", "cuda"),
    "option.invalid",
    2,
    /--device: expected one of cpu, reference, got "cuda"/,
  ],
  [
    "heads that do not divide",
    () => good("--heads", "3"),
    "option.invalid",
    2,
    /--heads: expected a divisor of the width 16, got 3; change/,
  ],
  [
    "heads that do not divide a preset",
    () => train("--heads", "5"),
    "option.invalid",
    2,
    /a divisor of the width 128, got 5/,
  ],
  [
    "a model beyond memory",
    () => good("--width", "65536", "--layers", "1000"),
    "memory.insufficient",
    1,
    /the weights of this run, .* take 618\.\d\d TB more, and the machine has .* left .*; nothing was allocated; choose a smaller --width, --layers, --batch or --context \[/,
  ],
  [
    "a model that is none",
    () => good("--model", "mlp"),
    "option.invalid",
    2,
    /--model: expected one of gpt, resnet, got "mlp"/,
  ],
  [
    "an option of another model",
    () => good("--depth", "20"),
    "option.invalid",
    2,
    /--depth: expected an option of gpt, got one of resnet; leave it out, or choose --model resnet/,
  ],
  ["--resume without --out", () => train("--resume"), "option.invalid", 2, /--resume: expected --out <folder> with it/],
];

describe("options", () => {
  it.each(OPTIONS)("%s", async (...mistake) => {
    await expectMistake(mistake);
    expect(readdirSync(folder)).toEqual(["fox.txt"]);
  });
});

const isRoot = process.getuid?.() === 0;

const DATA: readonly Mistake[] = [
  [
    "a missing file",
    () => on(at("gone.txt")),
    "file.missing",
    1,
    /gone\.txt: expected a file or a folder, found nothing/,
  ],
  ["an empty file", () => on(write("empty.txt", "")), "data.short", 1, /empty\.txt: .*it is empty; name more text/],
  ["text shorter than a window", () => on(write("short.txt", "12345678")), "data.short", 1, /needs 9 bytes, got 8/],
  [
    "text for one window only",
    () => on(write("short.txt", "1234567890")),
    "data.short",
    1,
    /expected at least 18 bytes, .*got 10; name more text or choose a smaller --context/,
  ],
  ["a folder without text", () => on(folderOf("binary", "a\0b")), "data.short", 1, /binary: .*it is empty/],
];

function write(name: string, text: string): string {
  writeFileSync(at(name), text);
  return at(name);
}

function folderOf(name: string, text: string): string {
  mkdirSync(at(name));
  write(join(name, "file"), text);
  return at(name);
}

describe("data", () => {
  it.each(DATA)("%s", async (...mistake) => {
    await expectMistake(mistake);
    expect(readdirSync(folder)).not.toContain("run");
  });

  it("a file that may not be read", async ({ skip }) => {
    skip(isRoot, "root may read and write everything; run the tests as another user");
    if (process.platform === "win32") skip("permissions are others");
    chmodSync(write("closed.txt", "text"), 0);
    await expectMistake(["", () => on(at("closed.txt")), "file.unreadable", 1, /permission denied; make it readable/]);
  });
});

/** A finished run of two steps, made once: its checkpoint names the text in `source`. */
let source = "";
let finished: Buffer = Buffer.alloc(0);
beforeAll(async () => {
  source = mkdtempSync(join(tmpdir(), "binade-cli-"));
  folder = source;
  write("fox.txt", FOX);
  const outcome = await inProcess(good());
  expect(outcome).toMatchObject({ status: 0, stderr: "" });
  finished = readFileSync(at(`run/${CHECKPOINT_FILE}`));
});
afterAll(() => {
  rmSync(source, { recursive: true, force: true });
});

/** The finished run, in "run". */
function madeRun(): Buffer {
  mkdirSync(at("run"));
  overwrite(finished);
  return finished;
}

const isUnchanged = (bytes: Buffer): boolean => readFileSync(at(`run/${CHECKPOINT_FILE}`)).equals(bytes);

const resume = (...args: string[]): string[] => train("--resume", "--out", at("run"), ...args);
const overwrite = (bytes: Uint8Array): void => writeFileSync(at(`run/${CHECKPOINT_FILE}`), bytes);

/** The checkpoint with another value in its record. */
function changed(bytes: Buffer, change: (metadata: Record<string, string>) => void): Buffer {
  const { tensors, metadata } = decodeSafetensors(bytes, "");
  const copy = { ...metadata };
  change(copy);
  return Buffer.concat(encodeSafetensors(tensors, copy));
}

const withSetting = (key: string, value: unknown) => (bytes: Buffer) =>
  changed(bytes, (metadata) => {
    metadata.settings = JSON.stringify({ ...JSON.parse(metadata.settings ?? ""), [key]: value });
  });

describe("resuming", () => {
  it.each([
    ["--lr", "0.5", /--lr: the run in .*run has 0\.002, got 0\.5; leave out --lr to resume it, or start another run/],
    ["--steps", "9", /--steps: the run in .* has 2, got 9/],
    ["--precision", "fp32", /--precision: the run in .* has bf16-mixed, got fp32/],
    ["--seed", "1", /--seed: the run in .* has 0, got 1/],
    ["--width", "32", /--width: the run in .* has 16, got 32/],
    ["--dropout", "0.5", /--dropout: the run in .* has 0, got 0\.5/],
    ["--preset", "m", /--preset: the run in .* has s, got m/],
  ] as const)("with another %s is refused", async (flag, value, sentence) => {
    const before = madeRun();
    await expectMistake(["", () => resume(flag, value), "option.invalid", 2, sentence]);
    expect(isUnchanged(before)).toBe(true);
  });

  it("with the same settings said again is accepted", async () => {
    madeRun();
    expect(
      await inProcess([...good("--preset", "s", "--lr", "0.002", "--precision", "bf16-mixed"), "--resume"]),
    ).toMatchObject({ status: 0 });
  });

  it.each([
    ["truncated", (bytes: Buffer) => bytes.subarray(0, 1000), "checkpoint.corrupt", /not a complete safetensors file/],
    ["empty", () => Buffer.alloc(0), "checkpoint.corrupt", /it has 0 bytes/],
    ["text", () => Buffer.from("not a checkpoint at all"), "checkpoint.corrupt", /not a complete safetensors file/],
    [
      "of another program",
      () => Buffer.concat(encodeSafetensors(new Map(), { format: "pt" })),
      "checkpoint.corrupt",
      /expected the checkpoint of a Binade run/,
    ],
    [
      "of another kind of run",
      withSetting("heads", undefined),
      "checkpoint.mismatch",
      /whose heads is missing; resume it with the program/,
    ],
    ["with a setting of another type", withSetting("steps", "2"), "checkpoint.mismatch", /whose steps is "2"/],
    ["with a setting out of range", withSetting("dropout", 2), "checkpoint.mismatch", /whose dropout is 2/],
    ["with more settings", withSetting("magic", 1), "checkpoint.mismatch", /magic was 1 and is not set/],
    [
      "of another model",
      withSetting("width", 32),
      "checkpoint.mismatch",
      /model\.\S+ is float32 .*, expected float32 /,
    ],
    [
      "with foreign notes",
      (bytes: Buffer) => changed(bytes, (m) => Object.assign(m, { notes: "{}" })),
      "checkpoint.mismatch",
      /whose dataPaths is missing/,
    ],
  ] as const)("from a checkpoint that is %s is refused", async (_, damage, code, sentence) => {
    const damaged = damage(madeRun());
    overwrite(damaged);
    await expectMistake(["", () => resume(), code, 1, sentence]);
    expect(isUnchanged(damaged)).toBe(true);
  });

  it("with other text is refused", async () => {
    madeRun();
    const other = write("other.txt", "another text, though a long one. ".repeat(50));
    await expectMistake([
      "",
      () => resume("--data", other),
      "checkpoint.mismatch",
      1,
      /trained on text with SHA-256 \w{64}, other\.txt has \w{64}; name the same text with --data/,
    ]);
  });

  it("without a checkpoint is refused", async () => {
    await expectMistake([
      "",
      () => resume(),
      "file.missing",
      1,
      /expected a checkpoint to resume from, found none; give the --out/,
    ]);
  });
});

describe("the output folder", () => {
  it("with a checkpoint is refused without --resume", async () => {
    const before = madeRun();
    await expectMistake([
      "",
      () => good(),
      "option.invalid",
      2,
      /--out: .*run holds a checkpoint already; add --resume to continue that run, or name another/,
    ]);
    expect(isUnchanged(before)).toBe(true);
  });

  it.each([
    ["is a file", "fox.txt", /fox\.txt: could not be written: there is a file of that name, not a folder/],
    ["is below a file", "fox.txt/run", /a part of the path is a file, not a folder; choose another path/],
  ])("that %s is refused", async (_, out, sentence) => {
    await expectMistake(["", () => good("--out", at(out)), "file.write", 1, sentence]);
  });

  it("that may not be written to is refused", async ({ skip }) => {
    skip(isRoot, "root may read and write everything; run the tests as another user");
    if (process.platform === "win32") skip("permissions are others");
    mkdirSync(at("closed"), { mode: 0o500 });
    const outcome = await inProcess(good("--out", at("closed")));
    expect(outcome.status).toBe(1);
    expect(outcome.stderr).toMatch(/permission denied.*\[file\.write\]\n$/);
  });
});

describe("--trace", () => {
  it.each([
    [["--trace", "train", "--steps", "0"]],
    [["train", "--steps", "0", "--trace"]],
  ])("%j prints the stack", async (args) => {
    const { stderr, status } = await inProcess(args);
    expect(status).toBe(2);
    expect(stderr).toMatch(/^binade: --steps[^\n]+\n.*Error.*\n {4}at /);
  });
});
