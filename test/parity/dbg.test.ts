import { gradientsFrom, useDevice, tensor, clipByGlobalNorm, globalNorm, full, Variable } from "binade";
import { print } from "../../src/ir/print.ts";
import { it } from "vitest";
useDevice("reference");
it("x", async () => {
  const w = new Variable("w", [2], "float32");
  const g = gradientsFrom([[w, tensor([3, 4])]]);
  const n = globalNorm(g);
  console.log(await n.item(), await full([], 1).div(n.add(1e-6)).item(), await full([], 1).div(n.add(1e-6)).minimum(1).item());
  const c = [...clipByGlobalNorm(g, 1).values()][0]!;
  console.log(await c.data()); console.log(print([c.node]));
}, 60000);
