/** Test runner: every file in a process of its own kind, results summed up in one closing line. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const source = (path: string): string => fileURLToPath(new URL(`./src/${path}`, import.meta.url));

export default defineConfig({
  resolve: {
    alias: [
      { find: /^binade$/, replacement: source("index.ts") },
      { find: /^binade\/(.+)$/, replacement: source("$1/index.ts") },
    ],
  },
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    testTimeout: 60_000,
    reporters: ["default", "./test/support/closing-line.ts"],
  },
});
