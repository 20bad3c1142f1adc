/** Reads the repository's pages for the tests that hold them against the code. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The repository's root folder, with a trailing slash. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** A file's text; `path` is relative to the root. */
export const page = (path: string): string => readFileSync(ROOT + path, "utf8");

/** The text from the heading `title` (any level) to the next heading of the same level or above. */
export function section(markdown: string, title: string): string {
  const lines = markdown.split("\n");
  const start = lines.findIndex((line) => /^#+ /.test(line) && line.replace(/^#+ /, "") === title);
  const level = lines[start]?.indexOf(" ") ?? 0;
  const length = lines.slice(start + 1).findIndex((line) => /^#+ /.test(line) && line.indexOf(" ") <= level);
  if (start < 0) throw new Error(`no heading ${title}`);
  return lines.slice(start + 1, length < 0 ? undefined : start + 1 + length).join("\n");
}

/** The cells of every table row, without header and rule. */
export function tableRows(markdown: string): readonly (readonly string[])[] {
  const lines = markdown.split("\n");
  const isRule = (line: string | undefined): boolean => /^\|[-|: ]+\|$/.test(line ?? "");
  return lines
    .filter((line, i) => line.startsWith("|") && !isRule(line) && !isRule(lines[i + 1]))
    .map((line) =>
      line
        .slice(1, -1)
        .split("|")
        .map((cell) => cell.trim()),
    );
}

/** What stands in backticks, in order. */
export const codes = (text: string): readonly string[] =>
  [...text.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? "");
