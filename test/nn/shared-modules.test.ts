/** Modules that are reached by several paths: rules, policies and recipes by any of them, and what happens where two disagree. */
import { beforeAll, describe, expect, it } from "vitest";
import { type AutocastRule, autocast, explain, nn, ones, type Tensor, tensor, useDevice } from "../../src/index.ts";
import { expectRefusal } from "../support/refusal.ts";

beforeAll(() => {
  useDevice("reference");
});

class Branch extends nn.Module {
  readonly linear: nn.Linear;
  constructor(linear: nn.Linear) {
    super();
    this.linear = linear;
  }
  forward(x: Tensor): Tensor {
    return this.linear.forward(x);
  }
}

/** One linear layer at `a.linear` and `b.linear`, called through both and by the model itself. */
class Tied extends nn.Module {
  readonly a = new Branch(new nn.Linear(2, 2, { bias: false }));
  readonly b = new Branch(this.a.linear);
  forward(x: Tensor): Readonly<Record<"a" | "b" | "self", Tensor>> {
    return { a: this.a.forward(x), b: this.b.forward(x), self: this.b.linear.forward(x) };
  }
}

const dtypesUnder = (...rules: readonly AutocastRule[]): readonly string[] => {
  const { a, b, self } = autocast("bfloat16", () => new Tied().forward(ones([1, 2])), { rules });
  return [a, b, self].map(({ dtype }) => dtype);
};
const [WIDE, NARROW] = ["float32", "bfloat16"];

describe("a rule for a module of two paths", () => {
  it.each<[string, readonly AutocastRule[], readonly string[]]>([
    ["by its first path", [{ module: "a.linear", autocast: "wide" }], [WIDE, NARROW, WIDE]],
    ["by its second path", [{ module: "b.linear", autocast: "wide" }], [NARROW, WIDE, WIDE]],
    ["by what is around it", [{ module: "b", autocast: "wide" }], [NARROW, WIDE, WIDE]],
    ["by a pattern for both", [{ module: "*.linear", autocast: "wide" }], [WIDE, WIDE, WIDE]],
    [
      "where another disagrees: each in its own calls, the last where both lead there",
      [
        { module: "a", autocast: "narrow" },
        { module: "b", autocast: "wide" },
      ],
      [NARROW, WIDE, WIDE],
    ],
    [
      "the same in the other order",
      [
        { module: "b", autocast: "wide" },
        { module: "a", autocast: "narrow" },
      ],
      [NARROW, WIDE, NARROW],
    ],
  ])("%s", (_, rules, expected) => {
    expect(dtypesUnder(...rules)).toEqual(expected);
  });

  it("is met by a part below the shared one", () => {
    const inner = new nn.Sequential(new nn.Linear(2, 2, { bias: false }));
    const model = new nn.Sequential(new nn.Sequential(inner), new nn.Sequential(inner));
    model.namedParameters();
    /** Paths of the calls that cast to 16 bits. */
    const narrow = (module: string): ReadonlySet<unknown> => {
      const rules = [{ module, autocast: "wide" }] as const;
      const casts = explain(autocast("bfloat16", () => model.forward(tensor([[1, 2]])), { rules }));
      return new Set(casts.flatMap(({ reason, to }) => (to === "bfloat16" ? [reason?.module] : [])));
    };
    const [first, second] = ["layers.0.layers.0.layers.0", "layers.1.layers.0.layers.0"];
    expect(narrow("layers.0.**")).toEqual(new Set([second]));
    expect(narrow(second)).toEqual(new Set([first]));
    expect(narrow("layers.*.layers.0.layers.0")).toEqual(new Set());
  });

  it("tells it by the path of the call", () => {
    const modules = (x: Tensor): readonly unknown[] => explain(x).map(({ reason }) => reason?.module);
    // Called through `b` alone, where nothing else has cast the weight.
    const model = new Tied();
    expect(modules(autocast("bfloat16", () => model.b.forward(tensor([[1, 2]]))))).toEqual(["linear", "linear"]);
    const { a, b } = autocast("float16", () => new Tied().forward(tensor([[1, 2]])));
    // What `a` has cast is one node with what `b` would cast, and tells the first reason.
    expect([modules(a), modules(b)]).toEqual([
      ["a.linear", "a.linear"],
      ["a.linear", "a.linear"],
    ]);
    const onlyB = autocast("float16", () => new Tied().forward(tensor([[1, 2]])), {
      rules: [{ module: "a", autocast: "wide" }],
    }).b;
    expect(modules(onlyB)).toEqual(["b.linear", "b.linear"]);
  });

  it("that no path meets is refused, with all of them", () => {
    expectRefusal(() => dtypesUnder({ module: "c.linear", autocast: "wide" }), "option.invalid", [
      "a.linear",
      "b.linear",
    ]);
  });
});

describe("a policy for a module of two paths", () => {
  it.each(["a.linear", "b.linear", "*.linear"])("by %s is its policy everywhere", (path) => {
    const model = new Tied().withPolicies({ [path]: "mixed_float16" });
    expect(Object.values(model.forward(ones([1, 2]))).map(({ dtype }) => dtype)).toEqual(Array(3).fill("float16"));
  });

  it.each([
    { "a.linear": "fp32", "b.linear": "mixed_float16" },
    { "**": "mixed_float16", "b.linear": "fp32" },
    { "a.linear": "mixed_float16", "b.linear": null },
  ])("that differs by path is refused, and none is set: %j", (byPath) => {
    const model = new Tied();
    expectRefusal(() => model.withPolicies(byPath), "option.invalid", ["withPolicies", '"b.linear"', "one module"]);
    expect([model.policy, model.a.policy, model.a.linear.policy]).toEqual([null, null, null]);
  });

  it("that is the same under two names is no conflict", () => {
    const model = new Tied().withPolicies({ "a.linear": "mixed_float16", "b.linear": "p=f32,c=f16,o=f16" });
    expect(model.a.linear.policy?.compute).toBe("float16");
  });
});

describe("8 bits for a module of two paths", () => {
  it.each([
    [{ modules: "a.linear" }, true],
    [{ modules: "b.linear" }, true],
    [{ except: "b" }, false],
    [{ modules: "a", except: "b" }, false],
  ])("%j: %s", (options, expected) => {
    expect(nn.fp8(new Tied(), {}, options).a.linear.fp8 !== null).toBe(expected);
  });
});

it("modules that refer to each other, in circles too, have paths without repetition", () => {
  class Person extends nn.Module {
    readonly linear = new nn.Linear(2, 2);
    readonly friends: Person[] = [];
    forward(x: Tensor): Tensor {
      return this.linear.forward(x);
    }
  }
  const people = Array.from({ length: 14 }, () => new Person());
  for (const person of people) person.friends.push(...people);
  const [first, , last] = [people[0] as Person, null, people[13] as Person];
  const rules = [{ module: "friends.13.linear", autocast: "wide" }] as const;
  const dtypes = autocast("bfloat16", () => [first.forward(ones([1, 2])), last.forward(ones([1, 2]))], {
    rules: [{ module: "linear", autocast: "as-is" }, ...rules],
  });
  expect(dtypes.map(({ dtype }) => dtype)).toEqual(["float32", "float32"]);
  expect(first.namedModules().size).toBe(28);
});
