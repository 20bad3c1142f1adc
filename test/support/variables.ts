/** Small variables for tests of steps, and what they hold: as numbers, and to the bit. */
import { Variable } from "../../src/index.ts";

/** A float32 vector. */
export const weight = (values: readonly number[] = [1, 1], name = "w"): Variable =>
  new Variable(name, [values.length], "float32", new Float32Array(values));

export const valuesOf = async (v: Variable): Promise<readonly number[]> => [...(await v.read().data())].map(Number);

/** Name and bytes of each, in order: equal only where every bit is. */
export const bytesOf = (variables: Iterable<Variable>): Promise<readonly string[]> =>
  Promise.all([...variables].map(async (v) => `${v.name} ${Buffer.from(await v.bytes()).toString("base64")}`));
