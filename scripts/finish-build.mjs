// Completes dist/ after the TypeScript compiler: the Node-API headers that let an installed package compile its addon
// without the network, and the executable bit of the command.
import { chmodSync, cpSync, existsSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const headers = ["node_api.h", "node_api_types.h", "js_native_api.h", "js_native_api_types.h"];
const from = `${root}node_modules/node-api-headers`;
const to = `${root}dist/native-include`;

mkdirSync(to, { recursive: true });
for (const header of headers) cpSync(`${from}/include/${header}`, `${to}/${header}`);
cpSync(`${from}/LICENSE`, `${to}/LICENSE`);

const command = `${root}dist/cli/main.js`;
if (existsSync(command)) chmodSync(command, 0o755);
