/** docs/migrating.md names nothing that does not exist. */
import { describe, expect, it } from "vitest";
import * as binade from "../../src/index.ts";
import { train } from "../../src/train/index.ts";
import { codes, page, tableRows } from "./markdown.ts";

const { nn, optim, GradScaler, Tensor } = binade;
/** Objects whose methods the page calls. */
const METHODS: Readonly<Record<string, readonly object[]>> = {
  x: [Tensor.prototype],
  scaler: [GradScaler.prototype],
  optimizer: [optim.AdamW.prototype],
  model: [nn.Linear.prototype],
  block: [nn.Linear.prototype],
  grads: [Map.prototype],
  nn: [nn],
  optim: [optim],
};
const FUNCTIONS: object = { ...binade, train };
/** Names that an example assumes: what its user has. */
const OWN = new Set(["f", "step"]);

const rows = tableRows(page("docs/migrating.md")).filter(([, ours = ""]) => ours.includes("`"));

describe("docs/migrating.md", () => {
  it("has a table for each of the three", () => {
    expect(rows.length).toBeGreaterThan(50);
  });

  it.each(
    rows.map(([theirs = "", ours = ""]) => [theirs, codes(ours)] as const),
  )("%s has its place here", (_, calls) => {
    for (const call of calls) {
      for (const [, name = ""] of call.matchAll(/(?<![.\w])([a-zA-Z]\w*)\(/g))
        expect(OWN.has(name) || name in FUNCTIONS, `${name} in ${call}`).toBe(true);
      for (const [, owner = "", name = ""] of call.matchAll(/(?<![.\w])(\w+)\.([a-zA-Z]\w*)/g)) {
        const objects = METHODS[owner];
        expect(
          objects?.some((object) => name in object || name === "forward"),
          `${owner}.${name} in ${call}`,
        ).toBe(true);
      }
    }
  });

  it("constructs and calls with options that are accepted", () => {
    const model = new nn.Linear(64, 10).withPolicy("fp32");
    expect(new optim.SGD(model, { lr: 0.1, momentum: 0.9 }).lr).toBe(0.1);
    expect(binade.parsePolicy("params=float32,compute=bfloat16,output=float32").compute).toBe("bfloat16");
    expect(new nn.Sequential(model).withPolicies({ "**": "mixed_bfloat16" }).policy?.compute).toBe("bfloat16");
  });
});
