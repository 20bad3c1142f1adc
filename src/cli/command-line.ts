/** The command line as a function: arguments and streams in, exit status out. */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { BinadeError } from "../errors.ts";
import { benchCommand } from "./commands/bench.ts";
import { doctorCommand } from "./commands/doctor.ts";
import { trainCommand } from "./commands/train.ts";
import type { OutputStream } from "./render.ts";

/** Exit statuses; documented in docs/cli.md. */
export const EXIT = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** The world of a command. */
export interface CommandIo {
  /** Results and progress. */
  readonly stdout: OutputStream;
  /** Errors. */
  readonly stderr: OutputStream;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Asks to be told of an interruption instead of being ended by it. */
  interruption(): AbortSignal;
}

/** What a command is given besides its options. */
export interface CommandContext extends CommandIo {
  /** The exit status, unless the command throws; 0 at first. */
  status: number;
}

const USAGE_CODES: ReadonlySet<string> = new Set(["option.invalid", "option.unknown", "value.range", "shape.invalid"]);

function version(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  const parsed: { version?: string } = JSON.parse(text);
  return parsed.version ?? "unknown";
}

function program(context: CommandContext): Command {
  const root = new Command("binade")
    .description(
      "Mixed-precision training for TypeScript: 16-bit matrix products, float32 master weights, loss scaling.",
    )
    .version(version(), "-V, --version", "print the version")
    .option("--trace", "print the stack of an error")
    .option("--no-color", "no colours, as with the environment variable NO_COLOR")
    .addCommand(trainCommand(context))
    .addCommand(doctorCommand(context))
    .addCommand(benchCommand(context))
    .addHelpText("after", "\nExit status: 0 done, 1 failed, 2 wrong use, 130 interrupted (a checkpoint is left).");
  for (const command of [root, ...root.commands]) {
    command
      .exitOverride()
      .configureHelp({ showGlobalOptions: true })
      .configureOutput({
        writeOut: (text) => context.stdout.write(text),
        writeErr: (text) => context.stderr.write(text),
        // `report` says it, in the form of every other error.
        outputError: () => undefined,
      });
  }
  return root;
}

/**
 * Runs one command.
 *
 * @param args what stands behind `binade`.
 * @returns the exit status. Mistakes are one sentence on `stderr`, never thrown.
 * @example
 * process.exitCode = await runCommandLine(["doctor", "--json"], io);
 */
export async function runCommandLine(args: readonly string[], io: CommandIo): Promise<number> {
  const { stdout, stderr, environment } = io;
  const context: CommandContext = {
    stdout,
    stderr,
    environment,
    interruption: () => io.interruption(),
    status: EXIT.ok,
  };
  const root = program(context);
  try {
    if (args.length === 0) stdout.write(root.helpInformation());
    else await root.parseAsync(args, { from: "user" });
    return context.status;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok;
    return reportError(error, stderr, root.opts().trace === true);
  }
}

/** Says what went wrong in one sentence and returns the exit status. */
export function reportError(thrown: unknown, stderr: OutputStream, trace: boolean): number {
  const error = thrown instanceof BinadeError ? thrown : translate(thrown);
  stderr.write(`binade: ${error.message.replaceAll(/\s*\n\s*/g, " ")} [${error.code}]\n`);
  if (trace) stderr.write(`${thrown instanceof Error ? thrown.stack : error.stack}\n`);
  return USAGE_CODES.has(error.code) ? EXIT.usage : EXIT.failed;
}

const OUT_OF_MEMORY = /allocation failed|Invalid typed array length|out of memory|bad_alloc/i;

function translate(error: unknown): BinadeError {
  if (error instanceof CommanderError) return fromCommander(error);
  const message = error instanceof Error ? error.message : String(error);
  if (OUT_OF_MEMORY.test(message)) {
    return new BinadeError(
      "memory.insufficient",
      `not enough memory (${message}); choose a smaller --batch, --context or --width`,
      { cause: error },
    );
  }
  return new BinadeError("internal", `internal: ${message}; please report it with the output of --trace`, {
    cause: error,
  });
}

function fromCommander({ code, message }: CommanderError): BinadeError {
  const [first = "", hint] = message
    .replace(/^error: /, "")
    .replace(/\.$/, "")
    .split("\n");
  const suggestion = /Did you mean (.+)\?/.exec(hint ?? "")?.[1];
  const fix = suggestion === undefined ? "--help lists what there is" : `did you mean ${suggestion}?`;
  const isUnknown = ["commander.unknownOption", "commander.unknownCommand", "commander.excessArguments"].includes(code);
  return new BinadeError(isUnknown ? "option.unknown" : "option.invalid", `${first}; ${fix}`);
}
