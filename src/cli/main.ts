#!/usr/bin/env node
/** The command `binade`. */
import { EXIT, reportError, runCommandLine } from "./command-line.ts";
import { Interruption, isReaderGone } from "./interruption.ts";

// A reader that closes the pipe early (| head) ends a command quietly, unless it has something to finish first.
const interruption = new Interruption((error) => process.exit(isReaderGone(error) ? EXIT.ok : EXIT.failed));

process.on("uncaughtException", (error) => {
  process.exit(reportError(error, process.stderr, process.argv.includes("--trace")));
});

process.exitCode = await runCommandLine(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  environment: process.env,
  interruption: () => interruption.signal(),
});
