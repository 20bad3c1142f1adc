/** What ends a command before its time: signals, and a reader of its output that goes away. */
import { fileWriteError, systemCode } from "../train/atomic.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Ends the process, or a run: what the process does about a stream that cannot be written to. */
type StreamFailure = (error: Error) => void;

/** Signals and broken streams of this process. */
export class Interruption {
  #onStreamFailure: StreamFailure;

  /** @param onStreamFailure what happens as long as nobody asked for a signal. */
  constructor(onStreamFailure: StreamFailure) {
    this.#onStreamFailure = onStreamFailure;
    for (const stream of [process.stdout, process.stderr]) {
      stream.on("error", (error: Error) => this.#onStreamFailure(error));
    }
  }

  /**
   * A signal that aborts at the first Ctrl-C (SIGTERM, SIGHUP) or when output cannot be written any more. The second
   * Ctrl-C ends the process at once.
   */
  signal(): AbortSignal {
    const controller = new AbortController();
    const stop = (): void => {
      for (const name of SIGNALS) process.removeListener(name, stop);
      controller.abort();
    };
    for (const name of SIGNALS) process.on(name, stop);
    this.#onStreamFailure = (error) => controller.abort(error);
    return controller.signal;
  }
}

/** Whether the reader at the other end of a pipe, or the terminal, is gone: nothing is wrong then. */
export const isReaderGone = (error: unknown): boolean =>
  ["EPIPE", "EIO", "ERR_STREAM_DESTROYED"].includes(systemCode(error));

/** The error to report after an interruption, if there is one: output that failed for another reason than a lost reader. */
export function outputFailure({ aborted, reason }: AbortSignal): Error | null {
  const isFailure = aborted && reason instanceof Error && systemCode(reason) !== "" && !isReaderGone(reason);
  return isFailure ? fileWriteError("standard output", reason) : null;
}
