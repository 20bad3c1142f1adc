/** Every public function of autocast, policies, recipes and what explains them, with arguments of the wrong type: a typed error each. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  amaxOf,
  autocast,
  BinadeError,
  blockScale,
  castTree,
  checkpoint,
  compile,
  currentScale,
  decodeE8M0,
  defineOp,
  describeCast,
  dryRun,
  encodeE8M0,
  explain,
  explainDType,
  explainOverflow,
  formatDryRun,
  formatOverflow,
  formatPolicy,
  fp8Recipe,
  initialDelayedState,
  initialLossScale,
  isAtFloor,
  logMaxRule,
  lossScaleRule,
  measureValues,
  moveLossScale,
  nextDelayedState,
  nextLossScale,
  nn,
  ones,
  parsePolicy,
  quantizeByBlock,
  quantizeByTensor,
  searchRules,
  selectTree,
  type Tensor,
  useDevice,
} from "../../src/index.ts";

/** What a caller without types may pass. */
const WRONG: Readonly<Record<string, unknown>> = {
  null: null,
  undefined,
  "{}": {},
  "[]": [],
  "[null]": [null],
  "a text": "nonsense",
  "a number": -3.5,
  NaN: Number.NaN,
  true: true,
  "a bigint": 5n,
  "a symbol": Symbol("s"),
  "a function": () => ones([1]),
  "a date": new Date(0),
  "a circle": (() => {
    const circle: { self?: unknown } = {};
    circle.self = circle;
    return circle;
  })(),
};

/** An argument of a function; `right` names those of the wrong ones that it takes after all. */
type Row = readonly [name: string, call: (wrong: never) => unknown, right?: readonly (keyof typeof WRONG)[]];

const step = (x: Tensor): Tensor => autocast("bfloat16", () => x.matmul(x));
const x = (): Tensor => ones([2, 2]);
const scaling = { powerOfTwo: false, minimumAmax: 0 };
const delayed = { margin: 0, amax: "max" } as const;
const rule = lossScaleRule();
const DEFAULTED = ["undefined"] as const;
const NO_OPTIONS = ["undefined", "{}", "a date"] as const;
const NUMBERS = ["a number", "NaN"] as const;
let names = 0;
const definition = (wrong: object): never =>
  ({ name: `sweep${names++}`, autocast: "wide", forward: (a: Tensor) => a.exp(), ...wrong }) as never;

const ROWS: readonly Row[] = [
  ["autocast: dtype", (w) => autocast(w, x)],
  ["autocast: body", (w) => autocast("float16", w), ["a function"]],
  ["autocast: options", (w) => autocast("float16", x, w), NO_OPTIONS],
  ["autocast: rules", (w) => autocast("float16", x, { rules: w }), ["undefined", "[]"]],
  ["autocast: a rule", (w) => autocast("float16", x, { rules: [w] })],
  ["autocast: op", (w) => autocast("float16", x, { rules: [{ op: w, module: "m", autocast: "wide" }] }), DEFAULTED],
  [
    "autocast: module",
    (w) => autocast("float16", x, { rules: [{ op: "exp", module: w, autocast: "wide" }] }),
    ["undefined", "a text"],
  ],
  ["autocast: class", (w) => autocast("float16", x, { rules: [{ op: "exp", autocast: w }] })],
  [
    "autocast: reason",
    (w) => autocast("float16", x, { rules: [{ op: "exp", autocast: "wide", reason: w }] }),
    ["undefined", "a text"],
  ],
  ["parsePolicy", (w) => parsePolicy(w)],
  ["formatPolicy", (w) => formatPolicy(w)],
  ["withPolicy", (w) => new nn.Linear(1, 1).withPolicy(w), ["null"]],
  ["withPolicy: options", (w) => new nn.Linear(1, 1).withPolicy("fp32", w), NO_OPTIONS],
  ["withPolicy: rules", (w) => new nn.Linear(1, 1).withPolicy("fp32", { rules: w }), ["undefined", "[]"]],
  ["withPolicies", (w) => new nn.Linear(1, 1).withPolicies(w), ["{}", "a date"]],
  ["withPolicies: a policy", (w) => new nn.Sequential(new nn.Linear(1, 1)).withPolicies({ "**": w }), ["null"]],
  ["to", (w) => new nn.Linear(1, 1).to(w)],
  ["fp8Recipe", (w) => fp8Recipe(w), NO_OPTIONS],
  ["fp8Recipe: scaling", (w) => fp8Recipe({ scaling: w }), DEFAULTED],
  ["fp8Recipe: formats", (w) => fp8Recipe({ formats: w }), NO_OPTIONS],
  ["fp8Recipe: a format", (w) => fp8Recipe({ formats: { input: w } }), DEFAULTED],
  ["fp8Recipe: powerOfTwo", (w) => fp8Recipe({ scaling: { kind: "current", powerOfTwo: w } }), ["undefined", "true"]],
  ["fp8Recipe: minimumAmax", (w) => fp8Recipe({ scaling: { kind: "current", minimumAmax: w } }), DEFAULTED],
  ["fp8Recipe: margin", (w) => fp8Recipe({ scaling: { kind: "delayed", margin: w } }), DEFAULTED],
  ["fp8Recipe: historyLength", (w) => fp8Recipe({ scaling: { kind: "delayed", historyLength: w } }), DEFAULTED],
  ["fp8Recipe: amax", (w) => fp8Recipe({ scaling: { kind: "delayed", amax: w } }), DEFAULTED],
  ["fp8Recipe: exponent", (w) => fp8Recipe({ scaling: { kind: "block", exponent: w } }), DEFAULTED],
  ["nn.fp8: model", (w) => nn.fp8(w, {})],
  ["nn.fp8: recipe", (w) => nn.fp8(new nn.Linear(1, 1), w), ["null", "{}", "a date"]],
  ["nn.fp8: options", (w) => nn.fp8(new nn.Linear(1, 1), {}, w), NO_OPTIONS],
  ["nn.fp8: modules", (w) => nn.fp8(new nn.Linear(1, 1), {}, { modules: w }), ["undefined", "[]"]],
  ["nn.fp8: except", (w) => nn.fp8(new nn.Linear(1, 1), {}, { except: w }), ["undefined", "[]"]],
  ["amaxOf", (w) => amaxOf(w), ["[]"]],
  ["currentScale: amax", (w) => currentScale(w, "float8_e5m2", scaling), NUMBERS],
  ["currentScale: format", (w) => currentScale(1, w, scaling)],
  ["currentScale: options", (w) => currentScale(1, "float8_e5m2", w)],
  ["currentScale: minimumAmax", (w) => currentScale(1, "float8_e5m2", { ...scaling, minimumAmax: w })],
  ["initialDelayedState", (w) => initialDelayedState(w)],
  ["initialDelayedState: historyLength", (w) => initialDelayedState({ historyLength: w })],
  ["nextDelayedState: state", (w) => nextDelayedState(w, 1, "float8_e5m2", delayed)],
  ["nextDelayedState: scale", (w) => nextDelayedState({ scale: w, history: [0] }, 1, "float8_e5m2", delayed)],
  ["nextDelayedState: history", (w) => nextDelayedState({ scale: 1, history: w }, 1, "float8_e5m2", delayed)],
  [
    "nextDelayedState: amax",
    (w) => nextDelayedState(initialDelayedState({ historyLength: 2 }), w, "float8_e5m2", delayed),
    NUMBERS,
  ],
  ["nextDelayedState: format", (w) => nextDelayedState(initialDelayedState({ historyLength: 2 }), 1, w, delayed)],
  [
    "nextDelayedState: options",
    (w) => nextDelayedState(initialDelayedState({ historyLength: 2 }), 1, "float8_e5m2", w),
  ],
  ["blockScale: amax", (w) => blockScale(w, "float8_e5m2", "floor"), ["NaN"]],
  ["blockScale: format", (w) => blockScale(1, w, "floor")],
  ["blockScale: exponent", (w) => blockScale(1, "float8_e5m2", w)],
  ["encodeE8M0", (w) => encodeE8M0(w), ["NaN"]],
  ["decodeE8M0", (w) => decodeE8M0(w)],
  ["quantizeByTensor: values", (w) => quantizeByTensor(w, 1, "float8_e5m2")],
  ["quantizeByTensor: scale", (w) => quantizeByTensor(new Float32Array(1), w, "float8_e5m2")],
  ["quantizeByTensor: format", (w) => quantizeByTensor(new Float32Array(1), 1, w)],
  ["quantizeByBlock: row", (w) => quantizeByBlock(w, "float8_e5m2", "floor")],
  ["quantizeByBlock: format", (w) => quantizeByBlock(new Float32Array(0), w, "floor")],
  ["quantizeByBlock: exponent", (w) => quantizeByBlock(new Float32Array(0), "float8_e5m2", w)],
  ["lossScaleRule", (w) => lossScaleRule(w), NO_OPTIONS],
  ["lossScaleRule: preset", (w) => lossScaleRule({ preset: w }), DEFAULTED],
  ["lossScaleRule: initialScale", (w) => lossScaleRule({ initialScale: w }), DEFAULTED],
  ["lossScaleRule: growthFactor", (w) => lossScaleRule({ growthFactor: w }), DEFAULTED],
  ["lossScaleRule: floor", (w) => lossScaleRule({ floor: w }), DEFAULTED],
  ["lossScaleRule: ceiling", (w) => lossScaleRule({ ceiling: w }), DEFAULTED],
  ["logMaxRule", (w) => logMaxRule(w), NO_OPTIONS],
  ["logMaxRule: headroom", (w) => logMaxRule({ headroom: w }), DEFAULTED],
  ["initialLossScale", (w) => initialLossScale(w)],
  ["moveLossScale: state", (w) => moveLossScale(w, rule, true)],
  ["moveLossScale: scale", (w) => moveLossScale({ scale: w, growthTracker: 0 }, rule, true), NUMBERS],
  ["nextLossScale: rule", (w) => nextLossScale(initialLossScale(rule), w, true)],
  ["nextLossScale: finite", (w) => nextLossScale(initialLossScale(rule), rule, w), ["true"]],
  ["isAtFloor: state", (w) => isAtFloor(w, rule)],
  ["isAtFloor: rule", (w) => isAtFloor(initialLossScale(rule), w)],
  ["defineOp", (w) => defineOp(w)],
  ["defineOp: name", (w) => defineOp(definition({ name: w })), ["a text"]],
  ["defineOp: autocast", (w) => defineOp(definition({ autocast: w }))],
  ["defineOp: uncast", (w) => defineOp(definition({ uncast: w })), ["undefined", "[]"]],
  ["defineOp: forward", (w) => defineOp(definition({ forward: w })), ["a function"]],
  ["defineOp: backward", (w) => defineOp(definition({ backward: w })), ["undefined", "a function"]],
  ["an op of the user's", (w) => defineOp<readonly Tensor[]>(definition({}))(w)],
  ["what an op gives", (w) => defineOp<readonly Tensor[]>(definition({ forward: () => w }))(x())],
  ["dryRun: step", (w) => dryRun(w, x()), ["a function"]],
  ["dryRun: argument", (w) => dryRun(step, w)],
  ["formatDryRun", (w) => formatDryRun(w)],
  ["searchRules: step", (w) => searchRules(w, [x()], { tolerance: 0.1 }), ["a function"]],
  ["searchRules: arguments", (w) => searchRules(x, w, { tolerance: 0.1 }), ["[]"]],
  ["searchRules: options", (w) => searchRules(step, [x()], w)],
  ["searchRules: tolerance", (w) => searchRules(step, [x()], { tolerance: w })],
  ["searchRules: maxReplays", (w) => searchRules(step, [x()], { tolerance: 0.1, maxReplays: w }), DEFAULTED],
  ["explainOverflow: step", (w) => explainOverflow(w, x()), ["a function"]],
  ["explainOverflow: argument", (w) => explainOverflow(step, w)],
  ["formatOverflow", (w) => formatOverflow(w)],
  ["measureValues: step", (w) => measureValues(w, x()), ["a function"]],
  ["measureValues: argument", (w) => measureValues(step, w)],
  ["explain", (w) => explain(w)],
  ["explainDType", (w) => explainDType(w)],
  ["describeCast", (w) => describeCast(w)],
  ["castTree: dtype", (w) => castTree(x(), w)],
  ["selectTree: condition", (w) => selectTree(w, x(), x())],
  ["checkpoint: forward", (w) => checkpoint(w), ["a function"]],
  ["checkpoint: options", (w) => checkpoint(x, w), NO_OPTIONS],
  ["checkpoint: when", (w) => checkpoint(x, { when: w }), DEFAULTED],
  ["compile", (w) => compile(w), ["a function"]],
  ["compile: options", (w) => compile(step, w), NO_OPTIONS],
  ["compile: an argument", (w) => compile(step)(w)],
  ["compile: an argument of plan", (w) => compile(step).plan(w)],
];

/** What came of a call: an error's code, "accepted", or the error that nobody thought of. */
async function verdictOf(act: () => unknown): Promise<string> {
  try {
    await act();
    return "accepted";
  } catch (error) {
    if (!(error instanceof BinadeError)) return `untyped: ${String(error)}`;
    return error.code === "internal" ? `internal: ${error.message}` : "refused";
  }
}

describe("arguments of the wrong type", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it.each(ROWS.map(([name, call, right = []]) => [name, call, right] as const))("%s", async (_, call, right) => {
    const verdicts: Record<string, string> = {};
    for (const [name, wrong] of Object.entries(WRONG)) verdicts[name] = await verdictOf(() => call(wrong as never));
    const expected = Object.keys(WRONG).map((name) => [name, right.includes(name) ? "accepted" : "refused"] as const);
    expect(verdicts).toEqual(Object.fromEntries(expected));
  });

  it.each([
    ["dryRun", dryRun],
    ["explainOverflow", explainOverflow],
    ["measureValues", measureValues],
    ["searchRules", (compiled: never, x: Tensor) => searchRules(compiled, [x], { tolerance: 0.1 })],
  ] as const)("%s refuses a compiled step, which runs when it is called", async (_, look) => {
    await expect(look(compile(step) as never, x())).rejects.toMatchObject({ code: "option.invalid" });
  });
});
