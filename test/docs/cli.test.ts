/** docs/cli.md against the command line: every option of --help, every setting's default, every field of every event. */
import { describe, expect, it } from "vitest";
import { SUITE_NAMES } from "../../src/bench/suites.ts";
import { EXIT, runCommandLine } from "../../src/cli/command-line.ts";
import { EVENT_TYPES } from "../../src/train/events.ts";
import { PRESETS, RESNET_PRESETS } from "../../src/train/presets.ts";
import { codes, page, section, tableRows } from "./markdown.ts";

const PAGE = page("docs/cli.md");

/** What a command prints; the exit status must be 0. */
async function printed(...args: readonly string[]): Promise<string> {
  let text = "";
  const stream = { write: (chunk: string) => (text += chunk) !== "" };
  const interruption = (): AbortSignal => new AbortController().signal;
  const status = await runCommandLine(args, { stdout: stream, stderr: stream, environment: {}, interruption });
  expect(status, text).toBe(0);
  return text;
}

/** The long flags that a help page lists, with and without those of every command. */
const flagsOf = (help: string): readonly string[] => {
  const flags = [...help.matchAll(/^ {2}(?:-\w, )?(--[a-z0-9-]+)/gm)].map((match) => match[1] ?? "");
  return [...new Set(flags)];
};

const GLOBAL = ["--version", "--trace", "--no-color", "--help"];
const documentedFlags = (title: string): readonly string[] =>
  tableRows(section(PAGE, title)).flatMap(([cell = ""]) => cell.match(/--[a-z0-9-]+/g) ?? []);

describe("docs/cli.md", () => {
  it.each([
    ["train", "`binade train`"],
    ["doctor", "`binade doctor`"],
    ["bench", "`binade bench`"],
  ])("lists the options of %s and no others", async (command, title) => {
    const flags = flagsOf(await printed(command, "--help")).filter((flag) => !GLOBAL.includes(flag));
    expect(flags.length).toBeGreaterThan(1);
    expect([...documentedFlags(title)].sort()).toEqual([...flags].sort());
  });

  it("lists the options of every command", async () => {
    expect([...flagsOf(await printed("--help"))].sort()).toEqual([...GLOBAL].sort());
    expect([...documentedFlags("Options of every command")].sort()).toEqual([...GLOBAL].sort());
  });

  it.each([
    ["--steps", "steps"],
    ["--batch", "batch"],
    ["--lr", "learningRate"],
    ["--layers", "layers"],
    ["--heads", "heads"],
    ["--width", "width"],
    ["--context", "context"],
  ] as const)("states the default of %s in both presets", (flag, setting) => {
    const [, , standard = ""] =
      tableRows(section(PAGE, "`binade train`")).find(([cell]) => cell?.includes(`${flag} `)) ?? [];
    const stated = (s: number, m: number, separator: string): string =>
      s === m ? `${s}` : `${s}${separator} ${m} in \`m\``;
    const [own, others] = standard.split("; resnet: ");
    expect(own).toBe(stated(PRESETS.s[setting], PRESETS.m[setting], ";"));
    if (!(setting in RESNET_PRESETS.s)) return;
    const key = setting as "steps" | "batch" | "learningRate";
    expect(others).toBe(stated(RESNET_PRESETS.s[key], RESNET_PRESETS.m[key], ","));
  });

  it("states ranges as the help does", async () => {
    const help = (await printed("train", "--help")).replace(/\s+/g, " ");
    for (const [option = "", range = ""] of tableRows(section(PAGE, "`binade train`"))) {
      const [, low, high] = /^(\d+) … (\d+)(?: |$)/.exec(range) ?? [];
      if (low === undefined) continue;
      const [flag = ""] = option.match(/--[a-z0-9-]+/) ?? [];
      const text = help.slice(help.indexOf(` ${flag} <`)).split(" --")[1];
      expect(text, flag).toContain(`from ${low} to ${high} (`);
    }
  });

  it("lists what bench times, in the order of the help", async () => {
    const help = (await printed("bench", "--help")).split("What to time:\n")[1] ?? "";
    const named = [...help.matchAll(/^ {2}(\w+)/gm)].map((match) => match[1]);
    expect(named).toEqual(SUITE_NAMES);
    const rows = tableRows(section(PAGE, "What it times"));
    expect(rows.map(([cell = ""]) => codes(cell)[0])).toEqual(SUITE_NAMES);
  });

  it("lists the fields of a result of bench", () => {
    const source = page("src/bench/measure.ts");
    const body = source.slice(source.indexOf("export interface BenchResult {")).split("\n}")[0] ?? "";
    const fields = [...body.matchAll(/^ {2}readonly (\w+)\??:/gm)].map((match) => match[1]);
    const rows = tableRows(section(PAGE, "Results as JSON"));
    expect(fields.length).toBeGreaterThan(10);
    expect(rows.flatMap(([cell = ""]) => codes(cell))).toEqual(fields);
  });

  it("lists the exit statuses", () => {
    const listed = tableRows(section(PAGE, "Exit statuses")).map(([status]) => Number(status));
    expect(listed).toEqual(Object.values(EXIT));
  });

  it.each(EVENT_TYPES)("lists the fields of the event %s", (type) => {
    const source = page("src/train/events.ts");
    const body = source.slice(source.indexOf(`readonly type: "${type}";`)).split("\n};")[0] ?? "";
    const fields = [...body.matchAll(/^ {2}readonly (\w+)\??:/gm)].map((match) => match[1]);
    const table = section(PAGE, "Events").split(`**\`${type}\`**`)[1]?.split("\n**")[0] ?? "";
    expect(fields.length).toBeGreaterThan(2);
    expect(tableRows(table).map(([cell = ""]) => codes(cell)[0])).toEqual(fields);
  });
});
