/** Code in pages as programs: modules that import what they name, and take what the page assumes from `assumed.ts`. */
import * as binade from "../../src/index.ts";
import * as training from "../../src/train/index.ts";
import { ASSUMED, type Assumed } from "./assumed.ts";
import { codes, page, section, tableRows } from "./markdown.ts";

/** Identifiers that stand for values: no keys of objects, no members, nothing in texts and comments. */
function namesIn(code: string): ReadonlySet<string> {
  const bare = code.replace(/\/\/.*$/gm, "").replace(/"[^"]*"|`[^`]*`/g, (text) => (text.includes("${") ? text : '""'));
  return new Set([...bare.matchAll(/(?<![.\w$]|\.\.\.)[A-Za-z_]\w*(?!\w|\s*:(?!:))/g)].map(([name]) => name));
}

/** What the code declares at its top level, or imports. */
function declaredIn(code: string): ReadonlySet<string> {
  const imports = [...code.matchAll(/^import \{([^}]*)\}/gm)].flatMap(([, list = ""]) => list.split(","));
  const constants = [...code.matchAll(/^const (?:(\w+)|\{([^}]*)\})/gm)].flatMap(([, one, several]) =>
    one === undefined ? (several ?? "").split(",") : [one],
  );
  return new Set([...imports, ...constants].map((name) => name.replace("type ", "").trim()));
}

export interface Snippet {
  readonly title: string;
  /** A module without what is assumed. */
  readonly code: string;
  readonly from: Assumed;
}

/** The blocks of a page, each a module that says itself what it imports; `from` by heading, where it is not the guide's. */
export function blocksOf(path: string, from: Readonly<Record<string, Assumed>> = {}): readonly Snippet[] {
  let heading = "";
  return [...page(path).matchAll(/^#+ (.*)$|^```ts\n([\s\S]*?)^```$/gm)].flatMap(([, title, code]) => {
    if (title !== undefined) heading = title;
    return code === undefined ? [] : [{ title: `${path}: ${heading}`, code, from: from[heading] ?? "guide" }];
  });
}

/** The calls in the second and third column of the tables of a page, or of a section of it: a module per row. `() => …` stands for a forward. */
export function callsOf(path: string, heading?: string): readonly Snippet[] {
  const text = heading === undefined ? page(path) : section(page(path), heading);
  return tableRows(text).flatMap(([theirs = "", ours = "", remark = ""], row) => {
    const remarks = codes(remark).filter((code) => /\w\(/.test(code));
    const calls = [...codes(ours), ...remarks].map((code) => code.replace("() => …", "() => model.forward(x)"));
    if (calls.length === 0) return [];
    const used = namesIn(calls.join("\n"));
    const imports = (names: object, module: string): string => {
      const own = [...used].filter((name) => name in names);
      return own.length === 0 ? "" : `import { ${own.join(", ")} } from "${module}";\n`;
    };
    const head = imports(binade, "binade") + imports(training, "binade/train");
    const body = calls.map((call, i) => `export const result${i} = ${call};\n`).join("");
    return [{ title: `${path}, row ${row}: ${theirs}`, code: head + body, from: "calls" as const }];
  });
}

/** The whole module, for a folder two below the root: with what the page assumes, as far as the code uses it and does not declare it. */
export function moduleOf({ code, from }: Snippet): string {
  const [used, declared] = [namesIn(code), declaredIn(code)];
  const taken = Object.keys(Object.getOwnPropertyDescriptors(ASSUMED[from]())).filter(
    (name) => used.has(name) && !declared.has(name),
  );
  if (taken.length === 0) return code;
  return `import { ${from} } from "../../test/docs/assumed.ts";\nconst { ${taken.join(", ")} } = ${from}();\n${code}`;
}
