/** Checks that imports in src/ go down the list of layers only. Prints every violation and exits with 1 if there is one. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";

/** Lowest first; folders on one line do not import each other. */
const LAYERS = [
  ["errors.ts"],
  ["formats"],
  ["ops"],
  ["ir"],
  ["autodiff"],
  ["precision"],
  ["compile"],
  ["backends"],
  ["tensor"],
  ["nn", "optim", "data"],
  ["train"],
  ["bench"],
  ["cli", "dashboard"],
  ["index.ts"],
];

/** Imports that the list forbids and that stand all the same: "from → to" and why. */
const EXCEPTIONS = new Map([]);

const [root = new URL("../src", import.meta.url).pathname] = process.argv.slice(2);
const source = resolve(root);

const filesUnder = (folder) =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesUnder(path);
    return path.endsWith(".ts") ? [path] : [];
  });

/** Specifiers of import and export declarations, of import(), and of types by import(). */
const importsOf = (text) =>
  [...text.matchAll(/(?:\bfrom\s*|\bimport\s*\(?\s*)["'](\.[^"']*)["']/g)].map((match) => match[1]);

const partsOf = (path) => relative(source, path).split(sep);
const rankOf = (part) => LAYERS.findIndex((layer) => layer.includes(part));

/** Why `file` may not import `target`, or null. */
function violation(file, target) {
  const [from, to] = [partsOf(file), partsOf(target)];
  const [layer, other] = [from[0], to[0]];
  if (other === "..") return "leaves src/";
  const unknown = [layer, other].find((part) => rankOf(part) < 0);
  if (unknown !== undefined) return `${unknown} is in no layer: add it to the list in scripts/check-layers.mjs`;
  if (layer === "backends" && other === "backends" && from[1] !== to[1] && to.length > 2) {
    return `backends/${from[1]} imports backends/${to[1]}: share through backends/backend.ts`;
  }
  if (layer === other || rankOf(other) < rankOf(layer)) return null;
  return `layer ${layer} imports layer ${other}, which is ${rankOf(other) === rankOf(layer) ? "beside" : "above"} it`;
}

const problems = filesUnder(source).flatMap((file) =>
  importsOf(readFileSync(file, "utf8")).flatMap((specifier) => {
    const target = resolve(dirname(file), specifier);
    const name = `${partsOf(file).join("/")} → ${partsOf(target).join("/")}`;
    if (!existsSync(target)) return [`${name}: there is no such file`];
    const why = EXCEPTIONS.has(name) ? null : violation(file, target);
    return why === null ? [] : [`${name}: ${why}`];
  }),
);

for (const problem of problems) console.error(problem);
console.log(`layers: ${problems.length === 0 ? "every import goes down" : `${problems.length} forbidden`}`);
process.exitCode = problems.length === 0 ? 0 : 1;
