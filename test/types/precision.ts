/** What must not compile: dtypes, rules, policies and recipes of other kinds. Checked by `npm run types`; nothing here runs. */
import { autocast, castTree, defineOp, fp8Recipe, nn, type Tensor } from "../../src/index.ts";

export function mistakes(x: Tensor, model: nn.Linear): readonly unknown[] {
  return [
    // @ts-expect-error: a cast of floats to integers would lose their fractions; x.cast says that it is meant
    castTree({ x }, "int32"),
    // @ts-expect-error: nor are truth values floats
    castTree({ x }, "bool"),
    // @ts-expect-error: parameters are floating
    model.to("int32"),
    // @ts-expect-error: the compute dtype has 16 bits
    autocast("float32", () => x),
    // @ts-expect-error: no options are undefined, not null
    autocast("float16", () => x, null),
    // @ts-expect-error: a rule is an object
    autocast("float16", () => x, { rules: [null] }),
    // @ts-expect-error: a rule has a class
    autocast("float16", () => x, { rules: [{ op: "exp" }] }),
    // @ts-expect-error: one of four
    autocast("float16", () => x, { rules: [{ op: "exp", autocast: "float32" }] }),
    // @ts-expect-error: two 8-bit formats
    fp8Recipe({ formats: { input: "float16" } }),
    // @ts-expect-error: an option of another scaling
    fp8Recipe({ scaling: { kind: "current", margin: 1 } }),
    // @ts-expect-error: null takes the recipe away, undefined says nothing
    nn.fp8(model, undefined),
    // @ts-expect-error: a class is needed
    defineOp({ name: "op", forward: (a: Tensor) => a }),
  ];
}
