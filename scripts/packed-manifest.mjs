// The packed package has no scripts: nothing runs when it is installed. `strip` before packing, `restore` after.
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const path = fileURLToPath(new URL("../package.json", import.meta.url));
const original = `${path}.original`;
const [, , action] = process.argv;

if (action === "strip") {
  const text = readFileSync(path, "utf8");
  const { scripts, devDependencies, ...manifest } = JSON.parse(text);
  writeFileSync(original, text);
  writeFileSync(path, `${JSON.stringify(manifest, null, 2)}\n`);
} else if (action === "restore" && existsSync(original)) {
  renameSync(original, path);
}
