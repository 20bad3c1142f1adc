// Imports a TypeScript module of src/ under plain Node: bundles it in memory, so that no build has to come first.
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

/** The repository's root folder, with a trailing slash. */
export const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** The exports of `path` (relative to the root). The module must not depend on its own import.meta.url. */
export async function importSource(path) {
  const bundle = await rolldown({ input: ROOT + path, platform: "node", logLevel: "silent" });
  const { output } = await bundle.generate({ format: "esm" });
  await bundle.close();
  return import(`data:text/javascript;base64,${Buffer.from(output[0].code).toString("base64")}`);
}
