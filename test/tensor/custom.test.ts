/** Ops of the user's own: class, forward, backward, second derivatives, kernels, and what is refused (case 43). */
import { beforeAll, describe, expect, it } from "vitest";
import {
  type AutocastRule,
  autocast,
  autocastDType,
  compile,
  defineOp,
  describeCast,
  explain,
  gradients,
  gradientsOf,
  type OpDefinition,
  Tensor,
  tensor,
  useDevice,
  Variable,
  where,
} from "../../src/index.ts";
import { DEVICES } from "../support/devices.ts";
import { expectRefusal } from "../support/refusal.ts";

const values = (x: Tensor): Promise<readonly number[]> => x.data().then((data) => [...data]);

/** A gradient that is not the derivative: 1 where |x| < 1, else 0. */
const straightThrough = defineOp({
  name: "straightThroughSign",
  autocast: "as-is",
  forward: (x: Tensor) => where(x.greaterEqual(0), x.mul(0).add(1), x.mul(0).sub(1)),
  backward: ({ cotangent, inputs: [x] }) => [where(x.abs().less(1), cotangent, 0)],
});
const product = defineOp({
  name: "weightedProduct",
  autocast: "narrow",
  uncast: [2],
  forward: (x: Tensor, y: Tensor, bias: Tensor) => x.matmul(y).cast("float32").add(bias),
});
const cube = defineOp({ name: "cubeOf", autocast: "wide", forward: (x: Tensor) => x.mul(x).mul(x) });
const frozen = defineOp({
  name: "frozenDouble",
  autocast: "as-is",
  forward: (x: Tensor) => x.mul(2),
  backward: "none",
});

describe.each(DEVICES)("an op of the user's own on %s", (device) => {
  beforeAll(() => {
    useDevice(device);
  });
  const x = () => tensor([-3, -0.5, 0.25, 2]);

  it("has the gradient that it says, also where it is no derivative", async () => {
    const weight = new Variable("w", [4], "float32", new Float32Array([-3, -0.5, 0.25, 2]));
    const out = straightThrough(weight.read());
    expect(await values(out)).toEqual([-1, -1, 1, 1]);
    const grads = gradients(out.mul(tensor([1, 2, 3, 4])).sum(), [weight]);
    expect(await values(grads.get(weight) as Tensor)).toEqual([0, 2, 3, 0]);
  });

  it("is differentiated through forward where it has no backward, twice as well", async () => {
    const point = x();
    const [slope] = gradientsOf(cube(point).sum(), [point]);
    expect(await values(slope as Tensor)).toEqual([27, 0.75, 0.1875, 12]);
    const [curvature] = gradientsOf((slope as Tensor).sum(), [point]);
    expect(await values(curvature as Tensor)).toEqual([-18, -3, 1.5, 12]);
  });

  it("is a constant to gradients with backward none", async () => {
    const point = x();
    const [slope] = gradientsOf(frozen(point).add(point).sum(), [point]);
    expect(await values(slope as Tensor)).toEqual([1, 1, 1, 1]);
  });

  it("case 43: has a class, and operands that are left alone; regions do not reach inside", async () => {
    const seen: unknown[] = [];
    const nosy = defineOp({
      name: `nosy${device}`,
      autocast: "narrow",
      forward: (a: Tensor) => {
        seen.push(autocastDType(), a.dtype);
        return a.exp();
      },
    });
    const [a, b, bias] = [tensor([[1, 2]]), tensor([[3], [4]]), tensor([0.001])];
    const out = autocast("bfloat16", () => product(a, b, bias));
    expect(out.dtype).toBe("float32");
    expect(await values(out)).toEqual([Math.fround(11 + Math.fround(0.001))]);
    expect(autocast("float16", () => nosy(a)).dtype).toBe("float16");
    expect(new Set(seen)).toEqual(new Set([null, "float16"]));
    expect(autocast("float16", () => cube(a.cast("float16"))).dtype).toBe("float32");
  });

  it("computes in a compiled step what it computes alone, for three steps", async () => {
    const weight = new Variable("w", [4], "float32", new Float32Array([-3, -0.5, 0.25, 2]));
    const plain = new Variable("w", [4], "float32", new Float32Array([-3, -0.5, 0.25, 2]));
    const stepOf = (variable: Variable, f: (t: Tensor) => Tensor) =>
      compile((scale: Tensor) => {
        const loss = f(variable.read()).mul(scale).sum();
        const gradient = gradients(loss, [variable]).get(variable) as Tensor;
        variable.assign(variable.read().sub(gradient.mul(0.01)));
        return loss;
      });
    const [own, twin] = [stepOf(weight, cube), stepOf(plain, (t) => t.mul(t).mul(t))];
    for (let i = 0; i < 3; i++) {
      const scale = tensor(0.5 + i);
      expect(await (await own(scale)).item()).toBe(await (await twin(scale)).item());
    }
    expect(await weight.bytes()).toEqual(await plain.bytes());
  });
});

describe("an op of the user's own", () => {
  beforeAll(() => {
    useDevice("reference");
  });

  it("is known to rules and to explain", () => {
    const rules: readonly AutocastRule[] = [{ op: "cubeOf", autocast: "narrow" }];
    expect(autocast("bfloat16", () => cube(tensor([1])), { rules }).dtype).toBe("bfloat16");
    const [cast] = explain(autocast("bfloat16", () => cube(tensor([1], { dtype: "bfloat16" }))));
    expect(cast === undefined ? "" : describeCast(cast)).toContain("cubeOf is wide, it computes in float32");
  });

  it("is refused under autocast if it says so", () => {
    const careful = defineOp({ name: "careful", autocast: { refuse: "use cubeOf" }, forward: (x: Tensor) => x });
    expectRefusal(() => autocast("float16", () => careful(tensor([1]))), "autocast.refused", ["careful", "use cubeOf"]);
    expect(careful(tensor([1])).dtype).toBe("float32");
  });

  const forward = (x: Tensor): Tensor => x;
  it.each<[string, object, readonly string[]]>([
    ["with a name that is taken", { name: "matmul", autocast: "narrow", forward }, ["matmul already"]],
    ["with a name of a function", { name: "linear", autocast: "narrow", forward }, ["linear already"]],
    ["without a name", { autocast: "narrow", forward }, ["name: expected a word"]],
    ["with another class", { name: "a1", autocast: "half", forward }, ["a1: autocast", '"half"']],
    [
      "with operands to spare that have no place",
      { name: "a5", autocast: "wide", uncast: [-1], forward },
      ["a5: uncast"],
    ],
    ["with one operand to spare, not in a list", { name: "a6", autocast: "wide", uncast: 0, forward }, ["a6: uncast"]],
    ["without forward", { name: "a2", autocast: "wide" }, ["a2: forward", "undefined"]],
    ["with a backward that is no function", { name: "a3", autocast: "wide", forward, backward: 3 }, ["a3: backward"]],
  ])("is refused %s", (_, definition, parts) => {
    expectRefusal(() => defineOp(definition as OpDefinition<[Tensor]>), "option.invalid", parts);
  });

  it("is refused with another key", () => {
    const definition = { name: "a4", autocast: "wide", forward, vjp: 1 } as unknown as OpDefinition<[Tensor]>;
    expectRefusal(() => defineOp(definition), "option.unknown", ['"vjp"']);
  });

  it("takes and gives tensors, and nothing that looks like none", () => {
    const defined = (name: string, parts: object): ((x: Tensor) => Tensor) =>
      defineOp({ name, autocast: "as-is", forward, ...parts } as OpDefinition<[Tensor]>);
    const x = tensor([1, 2]);
    const number = defined("numberOf", { forward: () => 3 });
    expectRefusal(() => number(x), "option.invalid", ["numberOf: forward", "got 3"]);
    const later = defined("laterOf", { forward: async () => x });
    expectRefusal(() => later(x), "option.invalid", ["laterOf: forward", "a promise"]);
    const same = defined("sameOf", {});
    expectRefusal(() => same(3 as unknown as Tensor), "option.invalid", ["sameOf: operand 0", "got 3"]);
    const without = defined("withoutOf", { backward: () => [undefined] });
    expectRefusal(() => gradientsOf(without(x).sum(), [x]), "option.invalid", ["withoutOf", "gradient 0"]);
  });

  it("must not read what is no operand", () => {
    const weight = new Variable("hidden.weight", [2], "float32");
    const leaky = defineOp({ name: "leaky", autocast: "as-is", forward: (x: Tensor) => x.mul(weight.read()) });
    expectRefusal(() => leaky(tensor([1, 2])), "option.invalid", ["leaky", "hidden.weight [2]", "pass it"]);
  });

  it("must give one gradient per operand, of its shape", () => {
    const short = defineOp({
      name: "shortOf",
      autocast: "as-is",
      forward: (x: Tensor, y: Tensor) => x.add(y),
      backward: () => [],
    });
    const bent = defineOp({
      name: "bentOf",
      autocast: "as-is",
      forward: (x: Tensor) => x.mul(2),
      backward: ({ cotangent }) => [cotangent.sum()],
    });
    const x = tensor([1, 2]);
    expectRefusal(() => gradientsOf(short(x, x).sum(), [x]), "option.invalid", ["shortOf", "2 gradients", "got 0"]);
    expectRefusal(() => gradientsOf(bent(x).sum(), [x]), "shape.mismatch", ["bentOf", "gradient 0", "[2]"]);
    expect(bent(x)).toBeInstanceOf(Tensor);
  });
});
