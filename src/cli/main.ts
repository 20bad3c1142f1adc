#!/usr/bin/env node
/** The command `binade`: parses arguments, runs one command, turns mistakes into one sentence and an exit status. */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { BinadeError } from "../errors.ts";
import { doctorCommand } from "./commands/doctor.ts";
import { trainCommand } from "./commands/train.ts";

/** Exit statuses; documented in docs/cli.md. */
export const EXIT = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

const USAGE_CODES: ReadonlySet<string> = new Set(["option.invalid", "option.unknown", "value.range", "shape.invalid"]);

function version(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  const parsed: { version?: string } = JSON.parse(text);
  return parsed.version ?? "unknown";
}

function program(): Command {
  return new Command("binade")
    .description("Mixed-precision training for TypeScript: 16-bit matrix products, float32 master weights, loss scaling.")
    .version(version(), "-V, --version", "print the version")
    .option("--trace", "print the stack of an error")
    .showHelpAfterError("(--help lists the options)")
    .exitOverride()
    .addCommand(trainCommand())
    .addCommand(doctorCommand())
    .addHelpText("after", "\nExit status: 0 done, 1 failed, 2 wrong use, 130 interrupted (a checkpoint is left).");
}

async function main(): Promise<void> {
  const root = program();
  for (const command of root.commands) command.exitOverride().showHelpAfterError("(--help lists the options)").configureHelp({ showGlobalOptions: true });
  try {
    await root.parseAsync(process.argv);
  } catch (error) {
    process.exitCode = report(error, root.opts().trace === true);
  }
}

/** Says what went wrong and returns the exit status. */
function report(error: unknown, trace: boolean): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof BinadeError ? ` [${error.code}]` : "";
  process.stderr.write(`binade: ${message}${code}\n`);
  if (trace && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return error instanceof BinadeError && USAGE_CODES.has(error.code) ? EXIT.usage : EXIT.failed;
}

// A reader that closes the pipe early (| head) ends the command quietly.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(EXIT.ok);
  throw error;
});

await main();
