/** Readers of a run's events: a progress line for terminals, plain lines for logs, JSON lines for machines. */

import type {
  CheckpointedEvent,
  DoneEvent,
  EvaluatedEvent,
  SkippedEvent,
  StartedEvent,
  StepEvent,
  TrainEvent,
} from "../train/events.ts";
import { encodeEvent } from "../train/jsonl.ts";
import { formatBytes, formatCount, formatDuration, formatLoss, formatScale, printable } from "./format.ts";
import { type Progress, progressLine, progressParts } from "./progress-line.ts";

/** What a renderer writes to; `process.stdout` and `process.stderr` are such streams. */
export type OutputStream = {
  readonly isTTY?: boolean | undefined;
  /** Width in columns. Default 80, also where a terminal reports 0. */
  readonly columns?: number | undefined;
  write(text: string): unknown;
};

/** Something that shows events. */
export type Renderer = {
  render(event: TrainEvent): void;
  /** Leaves the cursor at the beginning of an empty line; call it when a run ends, also with an error. */
  close(): void;
};

const DEFAULT_COLUMNS = 80;
const REDRAW_MS = 100;
const PLAIN_INTERVAL_MS = 10_000;
const PLAIN_FRACTION = 0.05;
const SKIP_INTERVAL_MS = 1000;

type Color = "green" | "yellow";
const COLOR_CODES: Readonly<Record<Color, number>> = { green: 32, yellow: 33 };

/**
 * Whether to colour what is written to `stream`: only on a terminal, never where `NO_COLOR` is set and not empty
 * (https://no-color.org) or `TERM` is `dumb`.
 */
export function usesColor(stream: OutputStream, environment: Readonly<Record<string, string | undefined>>): boolean {
  return stream.isTTY === true && !environment.NO_COLOR && environment.TERM !== "dumb";
}

/**
 * Shows a run to a person. On a terminal: one line that never exceeds its width, redrawn at most ten times a second and
 * once at the end, with evaluations, checkpoints and warnings above it. Elsewhere: plain lines at the first step, then
 * every 5 % of the steps or 10 seconds, whichever comes first, and at evaluations, checkpoints, warnings and skips (at
 * most one of these a second).
 *
 * @example
 * const color = usesColor(process.stderr, process.env);
 * const renderer = new ProgressRenderer(process.stderr, () => performance.now(), { color });
 * try { for await (const event of run) renderer.render(event); } finally { renderer.close(); }
 */
export class ProgressRenderer implements Renderer {
  readonly #stream: OutputStream;
  readonly #clock: () => number;
  readonly #color: boolean;
  #started: StartedEvent | undefined;
  #first: StepEvent | undefined;
  #latest: StepEvent | undefined;
  /** Clock at the last drawing of the line, or at the last plain step line. */
  #drawnAtMs = Number.NEGATIVE_INFINITY;
  #plainStep = 0;
  #skipShownAtMs = Number.NEGATIVE_INFINITY;
  #isLineOpen = false;

  /**
   * @param clock Milliseconds on any scale that never runs backwards.
   * @param options `color`: whether to colour; default false.
   */
  constructor(stream: OutputStream, clock: () => number, options: { readonly color?: boolean } = {}) {
    this.#stream = stream;
    this.#clock = clock;
    this.#color = options.color ?? false;
  }

  render(event: TrainEvent): void {
    switch (event.type) {
      case "started":
        this.#started = event;
        this.#print(startedLines(event));
        break;
      case "step":
        this.#step(event);
        break;
      case "skipped":
        this.#skipped(event);
        break;
      case "evaluated":
      case "checkpointed":
        this.#print([milestoneLine(event)]);
        break;
      case "warning":
        this.#print([this.#paint(`warning: ${printable(event.message)}`, "yellow")]);
        break;
      case "done":
        this.#done(event);
        break;
      default:
        event satisfies never;
    }
  }

  close(): void {
    if (this.#isLineOpen) this.#stream.write("\n");
    this.#isLineOpen = false;
  }

  #step(event: StepEvent): void {
    this.#first ??= event;
    this.#latest = event;
    const now = this.#clock();
    if (this.#stream.isTTY === true) {
      if (now - this.#drawnAtMs >= REDRAW_MS) this.#draw(now);
      return;
    }
    const steps = this.#started?.steps ?? event.step;
    const isDue = event.step - this.#plainStep >= steps * PLAIN_FRACTION || now - this.#drawnAtMs >= PLAIN_INTERVAL_MS;
    if (event !== this.#first && event.step < steps && !isDue) return;
    this.#plainStep = event.step;
    this.#drawnAtMs = now;
    this.#stream.write(`step ${progressParts(this.#progress(event)).shown.join("  ")}\n`);
  }

  /** The progress line counts skips, so a terminal needs no further words. */
  #skipped(event: SkippedEvent): void {
    const now = this.#clock();
    if (this.#stream.isTTY === true || now - this.#skipShownAtMs < SKIP_INTERVAL_MS) return;
    this.#skipShownAtMs = now;
    const where = event.reason === "forwardOverflow" ? "loss" : "gradients";
    const [name] = event.parameters;
    const others = event.parameters.length > 1 ? ` and ${event.parameters.length - 1} more` : "";
    const parameters = name === undefined ? "" : ` (${printable(name)}${others})`;
    const scales = `${formatScale(event.lossScaleBefore)} -> ${formatScale(event.lossScaleAfter)}`;
    this.#print([`step ${event.step}: skipped, ${where} not finite${parameters}; loss scale ${scales}`]);
  }

  #done(event: DoneEvent): void {
    if (this.#stream.isTTY === true) this.#draw(this.#clock());
    this.close();
    this.#print(doneLines(event));
  }

  /** Whole lines in place of the progress line, which comes back with the next step that may draw it. */
  #print(lines: readonly string[]): void {
    this.#stream.write(`${this.#isLineOpen ? "\r\x1b[K" : ""}${lines.join("\n")}\n`);
    this.#isLineOpen = false;
  }

  #draw(now: number): void {
    if (this.#latest === undefined) return;
    // One column stays free: some terminals wrap as soon as the last one is filled.
    const width = (this.#stream.columns || DEFAULT_COLUMNS) - 1;
    const { bar, text } = progressLine(this.#progress(this.#latest), width);
    this.#stream.write(`\r${this.#paint(bar, "green")}${text}\x1b[K`);
    this.#isLineOpen = true;
    this.#drawnAtMs = now;
  }

  #progress(latest: StepEvent): Progress {
    const steps = this.#started?.steps ?? latest.step;
    const showsScale = /\b(fp16|float16|f16)\b/.test(this.#started?.precision ?? "");
    return { latest, steps, remainingMs: remainingMs(this.#first, latest, steps), showsScale };
  }

  #paint(text: string, color: Color): string {
    return this.#color && text !== "" ? `\x1b[${COLOR_CODES[color]}m${text}\x1b[0m` : text;
  }
}

/** Shows a run to a machine: one event per line, as in an event log. */
export class JsonRenderer implements Renderer {
  readonly #stream: OutputStream;

  constructor(stream: OutputStream) {
    this.#stream = stream;
  }

  render(event: TrainEvent): void {
    this.#stream.write(`${encodeEvent(event)}\n`);
  }

  close(): void {}
}

/** Counted from the first step event, so that compiling and the first touch of memory do not stretch the estimate. */
function remainingMs(first: StepEvent | undefined, latest: StepEvent, steps: number): number | undefined {
  if (first === undefined || latest.step <= first.step) return undefined;
  const msPerStep = (latest.elapsedMs - first.elapsedMs) / (latest.step - first.step);
  return msPerStep * Math.max(0, steps - latest.step);
}

function milestoneLine(event: EvaluatedEvent | CheckpointedEvent): string {
  return event.type === "evaluated"
    ? `step ${event.step}: held-out loss ${formatLoss(event.heldOutLoss)}, ${event.bitsPerByte.toFixed(3)} bits per byte`
    : `step ${event.step}: checkpoint ${printable(event.path)} (${formatBytes(event.byteLength)})`;
}

function startedLines(event: StartedEvent): string[] {
  const { parameters, ...settings } = event.model;
  const model = Object.entries(settings).map(([name, value]) => `${printable(name)} ${printable(String(value))}`);
  const threads = `${event.threads} ${event.threads === 1 ? "thread" : "threads"}`;
  const from = event.step > 0 ? `, from step ${event.step}` : "";
  return [
    `data       ${printable(event.data.name)}, ${formatBytes(event.data.byteLength)}`,
    `model      ${formatCount(parameters)} parameters${model.length > 0 ? `: ${model.join(", ")}` : ""}`,
    `precision  ${printable(event.precision)} on ${printable(event.device)}, ${threads}`,
    `run        ${event.steps} steps of ${event.batch} x ${event.context} tokens, seed ${event.seed}${from}`,
  ];
}

function doneLines(event: DoneEvent): string[] {
  const facts = [
    event.loss === null ? undefined : `loss ${formatLoss(event.loss)}`,
    event.heldOutLoss === null ? undefined : `held-out loss ${formatLoss(event.heldOutLoss)}`,
    `${formatCount(event.tokensPerSecond)} tok/s`,
    event.skippedSteps > 0 ? `${event.skippedSteps} skipped` : undefined,
  ].filter((fact) => fact !== undefined);
  const line = `${event.reason} at step ${event.step} after ${formatDuration(event.elapsedMs)}: ${facts.join(", ")}`;
  return event.sample === undefined ? [line] : [line, "sample:", printable(event.sample, true)];
}
