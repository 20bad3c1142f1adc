/** Rules that override an op's autocast class: by op, by module, or both; checked at the boundary, the last that matches decides. */
import { BinadeError, showValue } from "../errors.ts";
import type { Autocast } from "../ops/define.ts";
import { OPS } from "../ops/index.ts";
import { requireKnownKeys } from "./options.ts";

/** What a rule may say of an op. */
export type AutocastClass = Exclude<Autocast, object>;
export const AUTOCAST_CLASSES: readonly AutocastClass[] = ["narrow", "wide", "widest", "as-is"];

/** One override. Without `op` and without `module` it would change every op, which is refused. */
export interface AutocastRule {
  /** Ops by the name of the function or row ("softmax", "linear", "matmul"); `*` stands for any letters. */
  readonly op?: string | readonly string[];
  /**
   * Modules by path from the outermost module that runs ("blocks.0.feedForward"), and everything inside them. `*` stands for
   * one part of a path, `**` for any number of parts, none included. A module with several paths runs under those that lead through
   * the module that called it.
   */
  readonly module?: string | readonly string[];
  /** `narrow`: the compute dtype; `wide`: float32; `widest`: the widest operand; `as-is`: untouched. */
  readonly autocast: AutocastClass;
  /** Why, in the words of whoever wrote it; `explain` repeats it. */
  readonly reason?: string;
}

/** A rule that is ready to be asked. */
export interface ReadyRule {
  readonly autocast: AutocastClass;
  /** For people: what the rule says. */
  readonly text: string;
  readonly matchesOp: (name: string) => boolean;
  /** null: any module, and outside of modules. */
  readonly matchesModule: ((path: string) => boolean) | null;
}

const KEYS = ["op", "module", "autocast", "reason"];

/** Functions that are made of rows: a rule may name them, and then means every row that they use. */
export const FUNCTIONS = [
  "linear",
  "mean",
  "conv1d",
  "conv2d",
  "convTranspose1d",
  "convTranspose2d",
  "layerNorm",
  "rmsNorm",
  "scaledDotProductAttention",
  "crossEntropy",
  "meanSquaredError",
  "binaryCrossEntropy",
  "binaryCrossEntropyWithLogits",
  "lstmCell",
  "gruCell",
] as const;
export type FunctionName = (typeof FUNCTIONS)[number];

/** What a rule may name: rows, functions, and ops that users defined. */
const names = new Set<string>([...Object.keys(OPS), ...FUNCTIONS]);

/** Makes a user's op known to rules. */
export const registerOpName = (name: string): void => void names.add(name);
/** Whether a row, a function or a user's op has this name. */
export const isOpName = (name: string): boolean => names.has(name);

/**
 * Checks rules and makes them ready.
 *
 * @throws BinadeError `option.unknown` for another key or an op that does not exist; `option.invalid` for another class, or a
 * rule that names neither op nor module.
 */
export function readyRules(rules: readonly AutocastRule[]): readonly ReadyRule[] {
  if (!Array.isArray(rules))
    throw new BinadeError("option.invalid", `autocast: rules: expected an array of rules, got ${showValue(rules)}`);
  return rules.map(readyRule);
}

function readyRule(rule: AutocastRule): ReadyRule {
  requireKnownKeys("autocast: rule", rule, KEYS);
  const { autocast, reason } = rule;
  if (!AUTOCAST_CLASSES.includes(autocast)) {
    throw new BinadeError(
      "option.invalid",
      `autocast: rule: autocast is ${showValue(autocast)}, expected one of ${AUTOCAST_CLASSES.join(", ")}`,
    );
  }
  if (reason !== undefined && typeof reason !== "string") {
    const sentence = `autocast: rule: reason: expected a text, got ${showValue(reason)}; explain repeats it`;
    throw new BinadeError("option.invalid", sentence);
  }
  const ops = patternsOf("op", rule.op);
  const modules = patternsOf("module", rule.module);
  if (ops === null && modules === null)
    throw new BinadeError(
      "option.invalid",
      "autocast: rule: expected an op or a module, got neither; name what it is for",
    );
  const opPatterns = (ops ?? ["*"]).map(requireOpPattern);
  const modulePatterns = modules?.map(modulePattern);
  const subject = [...(ops ?? []), ...(modules ?? []).map((path) => `in ${path}`)].join(" ");
  return {
    autocast,
    text: `${subject} → ${autocast}${reason === undefined ? "" : ` (${reason})`}`,
    matchesOp: (name) => opPatterns.some((pattern) => pattern.test(name)),
    matchesModule: modulePatterns === undefined ? null : (path) => modulePatterns.some((pattern) => pattern.test(path)),
  };
}

function patternsOf(key: string, given: string | readonly string[] | undefined): readonly string[] | null {
  if (given === undefined) return null;
  const list = typeof given === "string" ? [given] : given;
  if (Array.isArray(list) && list.length > 0 && list.every((item) => typeof item === "string" && item !== ""))
    return list;
  throw new BinadeError(
    "option.invalid",
    `autocast: rule: ${key}: expected a name or a list of names, got ${showValue(given)}`,
  );
}

/** A misspelt op would leave the default in force without a word, so a pattern must meet an op that exists. */
function requireOpPattern(text: string): RegExp {
  const pattern = new RegExp(`^${text.split("*").map(literally).join(".*")}$`);
  if ([...names].some((name) => pattern.test(name))) return pattern;
  throw new BinadeError(
    "option.unknown",
    `autocast: rule: no op is called ${JSON.stringify(text)}; expected one of ${[...names].sort().join(", ")}`,
  );
}

/** The pattern of a path and of everything inside. */
export function modulePattern(text: string): RegExp {
  return new RegExp(`^${pathSource(text)}(\\..+)?$`);
}

/** The pattern of a path itself. */
export function exactModulePattern(text: string): RegExp {
  return new RegExp(`^${pathSource(text)}$`);
}

/** `**` takes its dot along, since it may stand for no part. */
function pathSource(text: string): string {
  const parts = text.split(".").filter((part, i, all) => part !== "**" || all[i - 1] !== "**");
  const [first = "", ...rest] = parts;
  if (first === "**") return rest.length === 0 ? ".*" : `(.+\\.)?${pathSource(rest.join("."))}`;
  const own = first.split("*").map(literally).join("[^.]*");
  if (rest.length === 0) return own;
  if (rest[0] !== "**") return `${own}\\.${pathSource(rest.join("."))}`;
  return rest.length === 1 ? `${own}(\\..+)?` : `${own}\\.${pathSource(rest.join("."))}`;
}

const literally = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/**
 * The last rule that matches one of `called`, the names of an op and of the function that uses it, in the module at one of
 * `paths` (none: outside of modules). null: none does.
 */
export function ruleFor(
  rules: readonly ReadyRule[],
  called: readonly string[],
  paths: () => readonly string[],
): ReadyRule | null {
  return (
    rules.findLast(
      ({ matchesOp, matchesModule }) =>
        called.some(matchesOp) && (matchesModule === null || paths().some(matchesModule)),
    ) ?? null
  );
}

/** Paths in a message: as many as a GPT of six layers has. */
const SHOWN = 64;

export function showPaths(paths: readonly string[]): string {
  const all = paths.filter((path) => path !== "");
  return all.slice(0, SHOWN).join(", ") + (all.length > SHOWN ? ` and ${all.length - SHOWN} more` : "");
}

/**
 * A misspelt path would leave the default in force without a word, so a rule must meet one of the paths of what ran.
 *
 * @param paths none: no module ran, and nothing is known of its paths
 * @throws BinadeError `option.invalid` for a rule that meets none.
 */
export function requireModules(rules: readonly ReadyRule[], paths: ReadonlySet<string>): void {
  if (paths.size === 0) return;
  const unmet = rules.find(({ matchesModule }) => matchesModule !== null && ![...paths].some(matchesModule));
  if (unmet === undefined) return;
  const known = showPaths([...paths]);
  throw new BinadeError(
    "option.invalid",
    `autocast: rule ${unmet.text}: no module that ran is there; expected one of ${known === "" ? "none: the module has no parts" : known}`,
  );
}
