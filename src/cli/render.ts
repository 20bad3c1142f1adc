/** Readers of a run's events: a progress line for terminals, plain lines for logs, JSON lines for machines. */

import type {
  CheckpointedEvent,
  DoneEvent,
  EvaluatedEvent,
  MeteredEvent,
  MeteredGradient,
  SkippedEvent,
  StartedEvent,
  StepEvent,
  TrainEvent,
} from "../train/events.ts";
import { encodeEvent } from "../train/jsonl.ts";
import { confusionLines } from "./confusion.ts";
import { formatBytes, formatCount, formatDuration, formatLoss, formatRate, formatScale, printable } from "./format.ts";
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
  /** Tells a person what happens now; machines are told by events alone. */
  note(text: string): void;
  /** Leaves the cursor at the beginning of an empty line; call it when a run ends, also with an error. */
  close(): void;
};

const DEFAULT_COLUMNS = 80;
const REDRAW_MS = 100;
const PLAIN_INTERVAL_MS = 10_000;
const PLAIN_FRACTION = 0.05;
const SKIP_INTERVAL_MS = 1000;

/** Options of a `ProgressRenderer`. */
export type ProgressOptions = {
  /** Whether to colour. Default false. */
  readonly color?: boolean;
  /** Names and values to show with those of the run. Default none. */
  readonly facts?: readonly (readonly [name: string, value: string])[];
  /** Command that continues the run after an interruption. Default none. */
  readonly resumeCommand?: string;
};

type Color = "green" | "yellow";
const COLOR_CODES: Readonly<Record<Color, number>> = { green: 32, yellow: 33 };

/**
 * Whether to colour what is written to `stream`: only on a terminal, never where `NO_COLOR` is set and not empty
 * (https://no-color.org) or `TERM` is `dumb`.
 */
export function usesColor(stream: OutputStream, environment: Readonly<Record<string, string | undefined>>): boolean {
  return stream.isTTY === true && !environment.NO_COLOR && environment.TERM !== "dumb";
}

/** Why a step was skipped, in the words of a plain line. */
const SKIPPED_FOR: Readonly<Record<SkippedEvent["reason"], string>> = {
  forwardOverflow: "loss not finite",
  gradientOverflow: "gradients not finite",
  underflow: "gradients all 0",
  scaleOutOfRange: "loss scale beyond use",
  normAboveLimit: "norm above its limit",
};

/**
 * Shows a run to a person. On a terminal: one line that never exceeds its width, redrawn at most ten times a second and
 * once at the end, with evaluations, checkpoints and warnings above it. Elsewhere: plain lines at the first step, then
 * every 5 % of the steps or 10 seconds, whichever comes first, and at evaluations, checkpoints, warnings and skips (at
 * most one of these a second).
 *
 * @example
 * const color = usesColor(process.stdout, process.env);
 * const renderer = new ProgressRenderer(process.stdout, () => performance.now(), { color });
 * try { for await (const event of run) renderer.render(event); } finally { renderer.close(); }
 */
export class ProgressRenderer implements Renderer {
  readonly #stream: OutputStream;
  readonly #clock: () => number;
  readonly #options: ProgressOptions;
  #checkpoint: CheckpointedEvent | undefined;
  #started: StartedEvent | undefined;
  #first: StepEvent | undefined;
  #latest: StepEvent | undefined;
  /** Clock at the last drawing of the line, or at the last plain step line. */
  #drawnAtMs = Number.NEGATIVE_INFINITY;
  #plainStep = 0;
  #skipShownAtMs = Number.NEGATIVE_INFINITY;
  #isLineOpen = false;

  /** @param clock Milliseconds on any scale that never runs backwards. */
  constructor(stream: OutputStream, clock: () => number, options: ProgressOptions = {}) {
    this.#stream = stream;
    this.#clock = clock;
    this.#options = options;
  }

  render(event: TrainEvent): void {
    switch (event.type) {
      case "started":
        this.#started = event;
        this.#print(table([...startedFacts(event), ...(this.#options.facts ?? [])]));
        break;
      case "step":
        this.#step(event);
        break;
      case "skipped":
        this.#skipped(event);
        break;
      case "metered":
        this.#print([meterLine(event)]);
        break;
      case "evaluated":
        this.#print([milestoneLine(event)]);
        break;
      case "checkpointed":
        this.#checkpoint = event;
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

  note(text: string): void {
    this.#print([text]);
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
    const [name] = event.parameters;
    const others = event.parameters.length > 1 ? ` and ${event.parameters.length - 1} more` : "";
    const parameters = name === undefined ? "" : ` (${printable(name)}${others})`;
    const scales = `${formatScale(event.lossScaleBefore)} -> ${formatScale(event.lossScaleAfter)}`;
    this.#print([`step ${event.step}: skipped, ${SKIPPED_FOR[event.reason]}${parameters}; loss scale ${scales}`]);
  }

  #done(event: DoneEvent): void {
    if (this.#stream.isTTY === true) this.#draw(this.#clock());
    this.close();
    const { resumeCommand } = this.#options;
    const resume = event.reason === "interrupted" && this.#checkpoint !== undefined ? resumeCommand : undefined;
    const checkpoint =
      this.#checkpoint === undefined ? [] : [["checkpoint", checkpointText(this.#checkpoint)] as const];
    const next = resume === undefined ? [] : [["continue", resume] as const];
    this.#print(table([...doneFacts(event, this.#started?.steps ?? event.step), ...checkpoint, ...next]));
    if (event.confusion !== undefined) this.#confusion(event.confusion);
    if (event.sample !== undefined) this.#print(["sample", printable(event.sample, true)]);
  }

  #confusion(confusion: NonNullable<DoneEvent["confusion"]>): void {
    const classes = this.#started?.classes ?? confusion.map((_, i) => `${i}`);
    const heading = "confusion   rows: the class, columns: what it was taken for";
    this.#print([heading.slice(0, this.#width), ...confusionLines(classes, confusion, this.#width)]);
  }

  /** One column stays free: some terminals wrap as soon as the last one is filled. */
  get #width(): number {
    return (this.#stream.columns || DEFAULT_COLUMNS) - 1;
  }

  /** Whole lines in place of the progress line, which comes back with the next step that may draw it. */
  #print(lines: readonly string[]): void {
    this.#stream.write(`${this.#isLineOpen ? "\r\x1b[K" : ""}${lines.join("\n")}\n`);
    this.#isLineOpen = false;
  }

  #draw(now: number): void {
    if (this.#latest === undefined) return;
    const { bar, text } = progressLine(this.#progress(this.#latest), this.#width);
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
    return this.#options.color === true && text !== "" ? `\x1b[${COLOR_CODES[color]}m${text}\x1b[0m` : text;
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

  note(): void {}

  close(): void {}
}

/** Counted from the first step event, so that compiling and the first touch of memory do not stretch the estimate. */
function remainingMs(first: StepEvent | undefined, latest: StepEvent, steps: number): number | undefined {
  if (first === undefined || latest.step <= first.step) return undefined;
  const msPerStep = (latest.elapsedMs - first.elapsedMs) / (latest.step - first.step);
  return msPerStep * Math.max(0, steps - latest.step);
}

type Fact = readonly [name: string, value: string];

const NAME_COLUMNS = 12;

/** One line per fact. Values may hold text of unknown origin. */
const table = (facts: readonly Fact[]): string[] =>
  facts.map(([name, value]) => `${name.padEnd(NAME_COLUMNS)}${printable(value)}`);

const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`;

const checkpointText = ({ path, byteLength }: CheckpointedEvent): string =>
  `${printable(path)} (${formatBytes(byteLength)})`;

function milestoneLine(event: EvaluatedEvent | CheckpointedEvent): string {
  return event.type === "evaluated"
    ? `step ${event.step}: held-out loss ${heldOutText(event)}`
    : `step ${event.step}: checkpoint ${checkpointText(event)}`;
}

/** What float16 would lose of all gradients, and the parameter that loses most; updates that bfloat16 would lose. */
function meterLine({ step, gradients }: MeteredEvent): string {
  const mean = (share: (gradient: MeteredGradient) => number): number =>
    gradients.reduce((sum, gradient) => sum + gradient.size * share(gradient), 0) /
    gradients.reduce((sum, { size }) => sum + size, 0);
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  const tiny = mean(({ belowSubnormalShare }) => belowSubnormalShare);
  const worst = gradients.reduce((a, b) => (b.belowSubnormalShare > a.belowSubnormalShare ? b : a));
  const most = tiny > 0 ? ` (most in ${printable(worst.name)}: ${percent(worst.belowSubnormalShare)})` : "";
  const huge = mean(({ aboveLargestShare, nonFiniteShare }) => aboveLargestShare + nonFiniteShare);
  const lost = gradients.some(({ lostUpdateShare }) => lostUpdateShare !== undefined)
    ? `; updates lost to a bfloat16 weight: ${percent(mean(({ lostUpdateShare = 0 }) => lostUpdateShare))}`
    : "";
  return `step ${step}: gradients below 2^-24: ${percent(tiny)}${most}, above 65504: ${percent(huge)}${lost}`;
}

/** A held-out loss and what goes with it, or nothing. */
function heldOutText({ heldOutLoss, bitsPerByte, accuracy }: Partial<EvaluatedEvent> | DoneEvent): string {
  if (typeof heldOutLoss !== "number") return "";
  const bits = bitsPerByte === undefined ? "" : `, ${bitsPerByte.toFixed(3)} bits per byte`;
  const right = accuracy === undefined ? "" : `, accuracy ${(100 * accuracy).toFixed(2)} %`;
  return formatLoss(heldOutLoss) + bits + right;
}

/** "2000 bytes" of text; of pictures, how many there are. */
function dataText({ byteLength, training, heldOut }: StartedEvent["data"]): string {
  if (training === undefined) return `${byteLength} bytes`;
  return `${plural(training, "picture")} to train on, ${heldOut ?? 0} held out`;
}

function startedFacts(event: StartedEvent): Fact[] {
  const { parameters, kind, ...settings } = event.model;
  const model = Object.entries(settings).map(([name, value]) => `${name} ${value}`);
  const name = kind === undefined ? "" : `${kind}, `;
  const batch =
    event.context === undefined ? plural(event.batch, "picture") : `${event.batch} x ${event.context} tokens`;
  const from = event.step > 0 ? `, from step ${event.step}` : "";
  return [
    ["data", `${event.data.name}, ${dataText(event.data)}`],
    ["sha256", event.data.sha256],
    ["model", `${name}${formatCount(parameters)} parameters${model.length > 0 ? `: ${model.join(", ")}` : ""}`],
    ["precision", `${event.precision} on ${event.device}, ${plural(event.threads, "thread")}`],
    ["run", `${plural(event.steps, "step")} of ${batch}, seed ${event.seed}${from}`],
  ];
}

function doneFacts(event: DoneEvent, steps: number): Fact[] {
  const { loss } = event;
  const rate = formatRate(event);
  const speed = loss === null || rate === "" ? "" : `, ${rate}`;
  const heldOut = heldOutText(event);
  return [
    [event.reason, `step ${event.step} of ${steps} in ${formatDuration(event.elapsedMs)}${speed}`],
    ...(loss === null ? [] : [["loss", formatLoss(loss)] as const]),
    ...(heldOut === "" ? [] : [["held out", heldOut] as const]),
    ["skipped", plural(event.skippedSteps, "step")],
  ];
}
