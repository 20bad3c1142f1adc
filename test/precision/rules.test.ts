/** Rules that override autocast classes: by op, by function, by module; the last that matches decides; mistakes are refused. */
import { beforeAll, describe, expect, it } from "vitest";
import {
  type AutocastRule,
  autocast,
  binaryCrossEntropy,
  conv1d,
  crossEntropy,
  describeCast,
  explain,
  layerNorm,
  linear,
  nn,
  ones,
  Tensor,
  tensor,
  useDevice,
} from "../../src/index.ts";
import { OPS } from "../../src/ops/index.ts";
import { exactModulePattern, FUNCTIONS, isOpName } from "../../src/precision/rules.ts";
import { expectRefusal } from "../support/refusal.ts";

beforeAll(() => {
  useDevice("reference");
});

const matrix = (): Tensor =>
  tensor([
    [1, 2],
    [3, 4],
  ]);
const under = (rules: readonly AutocastRule[], body: () => Tensor): Tensor["dtype"] =>
  autocast("bfloat16", body, { rules }).dtype;

describe("a rule", () => {
  const square = (): Tensor => matrix().matmul(matrix());

  it.each<[string, AutocastRule, () => Tensor, Tensor["dtype"]]>([
    ["by row", { op: "matmul", autocast: "wide" }, square, "float32"],
    ["by pattern", { op: "mat*", autocast: "wide" }, square, "float32"],
    ["by one of several names", { op: ["exp", "matmul"], autocast: "wide" }, square, "float32"],
    ["by function", { op: "linear", autocast: "wide" }, () => linear(matrix(), matrix()), "float32"],
    ["by the row of a function", { op: "matmul", autocast: "wide" }, () => linear(matrix(), matrix()), "float32"],
    ["of another function", { op: "linear", autocast: "wide" }, square, "bfloat16"],
    ["narrow", { op: "softmax", autocast: "narrow" }, () => matrix().softmax(), "bfloat16"],
    ["as it is", { op: "exp", autocast: "as-is" }, () => matrix().cast("bfloat16").exp(), "bfloat16"],
    ["of a norm", { op: "layerNorm", autocast: "narrow" }, () => layerNorm(matrix(), tensor([1, 1])), "bfloat16"],
    [
      "of a convolution",
      { op: "conv1d", autocast: "wide" },
      () => conv1d(matrix().reshape([1, 2, 2]), matrix().reshape([2, 2, 1])),
      "float32",
    ],
    ["of a mean", { op: "mean", autocast: "as-is" }, () => matrix().cast("bfloat16").mean(), "bfloat16"],
    ["of a mean, not of a sum", { op: "mean", autocast: "as-is" }, () => matrix().cast("bfloat16").sum(), "float32"],
  ])("%s", (_, rule, body, dtype) => {
    expect(under([rule], body)).toBe(dtype);
  });

  it("is overruled by a later one, and those of outer regions by those of inner ones", () => {
    const [wide, narrow] = [
      { op: "matmul", autocast: "wide" },
      { op: "matmul", autocast: "narrow" },
    ] as const;
    expect(under([wide, narrow], square)).toBe("bfloat16");
    expect(under([narrow, wide], square)).toBe("float32");
    expect(under([wide], () => autocast("bfloat16", square, { rules: [narrow] }))).toBe("bfloat16");
    expect(under([wide], () => autocast("bfloat16", square))).toBe("float32");
  });

  it("ends with its region, and does nothing in an island", () => {
    const rules = [{ op: "exp", autocast: "narrow" }] as const;
    expect(under(rules, () => autocast(false, () => matrix().exp()))).toBe("float32");
    expect(under(rules, () => matrix().exp())).toBe("bfloat16");
    expect(under([], () => matrix().exp())).toBe("float32");
  });

  it("reaches modules by path and everything inside them", () => {
    const model = new nn.Sequential(new nn.Linear(2, 2), new nn.Sequential(new nn.Linear(2, 2), new nn.Linear(2, 2)));
    const dtypes = (rules: readonly AutocastRule[]): readonly string[] =>
      explain(autocast("bfloat16", () => model.forward(matrix()), { rules })).flatMap(({ value, to, reason }) =>
        value.endsWith("weight") ? [`${reason?.module} ${to}`] : [],
      );
    model.namedParameters();
    expect(dtypes([])).toEqual(["layers.0 bfloat16", "layers.1.layers.0 bfloat16", "layers.1.layers.1 bfloat16"]);
    expect(
      dtypes([
        { module: "layers.1", autocast: "as-is", op: "linear" },
        { op: "linear", module: "layers.*", autocast: "wide" },
      ]),
    ).toEqual([]);
    expect(dtypes([{ op: "linear", module: "layers.1.layers.0", autocast: "wide" }])).toEqual([
      "layers.0 bfloat16",
      "layers.1.layers.1 bfloat16",
    ]);
    expect(dtypes([{ module: "**.0", autocast: "wide" }])).toEqual(["layers.1.layers.1 bfloat16"]);
    expect(dtypes([{ module: "layers.1", autocast: "wide" }])).toEqual(["layers.0 bfloat16"]);
  });

  it.each<[string, readonly string[], readonly string[]]>([
    ["**", ["", "a", "a.b"], []],
    ["**.head", ["head", "a.head", "a.b.head"], ["", "ahead", "a.header", "head.a"]],
    ["a.**", ["a", "a.b", "a.b.c"], ["", "ab", "b.a"]],
    ["a.**.c", ["a.c", "a.b.c", "a.b.b.c"], ["a", "c", "ac", "a.bc"]],
    ["**.**.a", ["a", "b.a"], ["ba"]],
    ["a.*", ["a.b"], ["a", "a.b.c"]],
  ])("a path %s means none of its parts or more by **, one by *", (text, met, unmet) => {
    const pattern = exactModulePattern(text);
    expect([...met, ...unmet].filter((path) => pattern.test(path))).toEqual(met);
  });

  it("that names no module of those that ran is refused, and one is enough", () => {
    const [first, second] = [new nn.Sequential(new nn.Linear(2, 2)), new nn.Linear(2, 2)];
    const under = (module: string, ...models: readonly (nn.Module & { forward(x: Tensor): Tensor })[]) =>
      autocast("bfloat16", () => models.map((model) => model.forward(matrix())), {
        rules: [{ module, autocast: "wide" }],
      });
    expectRefusal(() => under("haed", first), "option.invalid", ["in haed", "expected one of layers.0"]);
    expectRefusal(() => under("haed", second), "option.invalid", ["none"]);
    expect(under("layers.0", second, first)).toHaveLength(2);
    expect(under("haed")).toEqual([]);
    const inner = { rules: [{ op: "linear", module: "haed", autocast: "wide" }] } as const;
    expectRefusal(() => first.withPolicy("mixed_bfloat16", inner).forward(matrix()), "option.invalid", [
      "linear in haed",
    ]);
  });

  it("does not reach outside of modules when it names one", () => {
    expect(under([{ op: "matmul", module: "**", autocast: "wide" }], square)).toBe("bfloat16");
  });

  it("case 46: gives a refused op a class", () => {
    const [p, t] = [tensor([0.25, 1]), tensor([1, 1])];
    const refused = () => autocast("bfloat16", () => binaryCrossEntropy(p, t));
    expect(refused).toThrow(expect.objectContaining({ code: "autocast.refused" }));
    expect(refused).toThrow(/^binaryCrossEntropy: .*binaryCrossEntropyWithLogits/);
    const allowed = [{ op: "binaryCrossEntropy", autocast: "wide" }] as const;
    expect(under(allowed, () => binaryCrossEntropy(p.cast("bfloat16"), t.cast("bfloat16")))).toBe("float32");
    expect(binaryCrossEntropy(p, t).dtype).toBe("float32");
  });

  it("that has a norm in float32 has it keep its value for backward so", () => {
    const x = tensor(Float32Array.from({ length: 3 * 64 }, Math.sin), { shape: [3, 64] });
    const kept = (rules: readonly AutocastRule[]): boolean =>
      explain(autocast("bfloat16", () => layerNorm(x, ones([64])), { rules })).some(({ to }) => to === "bfloat16");
    expect(kept([])).toBe(true);
    expect(kept([{ op: "layerNorm", autocast: "wide" }])).toBe(false);
    expect(kept([{ op: "rmsNorm", autocast: "wide" }])).toBe(true);
  });

  it("is told as it is now, also of a cast that an earlier rule made", () => {
    const [x, w] = [matrix(), matrix()];
    const told = (reason: string): readonly string[] => {
      const rules = [{ op: "matmul", autocast: "narrow", reason }] as const;
      return explain(autocast("bfloat16", () => x.matmul(w), { rules })).map((cast) => cast.reason?.rule ?? "");
    };
    expect(told("as before")).toEqual(Array(2).fill("matmul → narrow (as before)"));
    expect(told("as measured")).toEqual(Array(2).fill("matmul → narrow (as measured)"));
  });

  it("is told with its reason", () => {
    const rules = [{ op: "softmax", autocast: "narrow", reason: "the scores are small" }] as const;
    const casts = explain(autocast("float16", () => matrix().softmax(), { rules }));
    expect(casts.map(describeCast)).toEqual([
      "input f32[2, 2] float32 → float16: softmax is narrow, it computes in the region's dtype, by the rule softmax → narrow (the scores are small)",
    ]);
  });
});

describe("a rule is refused", () => {
  it.each<[string, unknown, string, RegExp]>([
    ["for an op that does not exist", [{ op: "sofmax", autocast: "wide" }], "option.unknown", /"sofmax".*softmax/],
    ["for a pattern without ops", [{ op: "zz*", autocast: "wide" }], "option.unknown", /"zz\*"/],
    ["for another class", [{ op: "exp", autocast: "half" }], "option.invalid", /"half".*narrow, wide, widest, as-is/],
    ["for another key", [{ op: "exp", autocast: "wide", why: "" }], "option.unknown", /"why"/],
    ["without op and module", [{ autocast: "wide" }], "option.invalid", /got neither/],
    ["for an empty name", [{ op: "", autocast: "wide" }], "option.invalid", /op: expected a name/],
    ["for a module that is no text", [{ module: 3, autocast: "wide" }], "option.invalid", /module: expected a name/],
    ["outside of an array", { op: "exp", autocast: "wide" }, "option.invalid", /expected an array of rules/],
  ])("%s", (_, rules, code, message) => {
    const act = () => autocast("bfloat16", () => 1, { rules: rules as readonly AutocastRule[] });
    expect(act).toThrow(expect.objectContaining({ code }));
    expect(act).toThrow(message);
  });

  it("with another option", () => {
    expect(() => autocast("bfloat16", () => 1, { rule: [] } as object)).toThrow(
      expect.objectContaining({ code: "option.unknown" }),
    );
  });
});

it("every row and every function can be named", () => {
  for (const name of [...Object.keys(OPS), ...FUNCTIONS]) expect(isOpName(name), name).toBe(true);
  expect(isOpName("sofmax")).toBe(false);
});

it("a loss's function stands for all that it is made of", () => {
  const logits = matrix().cast("bfloat16");
  const loss = () => crossEntropy(logits, tensor(Int32Array.of(0, 1)));
  expect(under([{ op: "crossEntropy", autocast: "as-is" }], loss)).toBe("bfloat16");
  expect(under([], loss)).toBe("float32");
  expect(loss()).toBeInstanceOf(Tensor);
});
