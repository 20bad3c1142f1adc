/** OPS: every operation, one row each, by name. */
import { COMPOSITE } from "./composite.ts";
import { ELEMENTWISE } from "./elementwise.ts";
import { INDEXING } from "./indexing.ts";
import { LINEAR } from "./linear.ts";
import { MAGNITUDE } from "./magnitudes.ts";
import { MOVEMENT } from "./movement.ts";
import { REDUCE } from "./reduce.ts";
import { SOURCE } from "./source.ts";

export const OPS = {
  ...SOURCE,
  ...ELEMENTWISE,
  ...MOVEMENT,
  ...REDUCE,
  ...MAGNITUDE,
  ...LINEAR,
  ...INDEXING,
  ...COMPOSITE,
} as const;
export type OpName = keyof typeof OPS;
