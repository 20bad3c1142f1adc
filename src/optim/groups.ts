/** Parameter groups of an optimizer, and what must hold of the parameters in all of them. */
import { BinadeError } from "../errors.ts";
import type { Parameters } from "../tensor/gradients.ts";
import { Variable } from "../tensor/variable.ts";

/** A group whose options are not checked yet. */
export interface Grouped {
  readonly parameters: Parameters;
}

export function groupsOf(source: Parameters | readonly Grouped[]): readonly Grouped[] {
  if ("parameters" in source) return [{ parameters: source }];
  const variables = source.filter((item) => item instanceof Variable);
  const groups = source.filter((item): item is Grouped => !(item instanceof Variable));
  if (groups.length > 0 && variables.length > 0) {
    throw new BinadeError(
      "option.invalid",
      "optimizer: expected variables or groups, got both; put the variables into a group",
    );
  }
  return groups.length > 0 ? groups : [{ parameters: variables }];
}

/** State is kept by parameter and saved by name, so both must be unique. */
export function requireDistinct(subject: string, parameters: readonly Variable[]): void {
  if (parameters.length === 0) {
    throw new BinadeError(
      "option.invalid",
      `${subject}: expected at least one parameter, got none; pass a module or a list of variables`,
    );
  }
  const seen = new Map<string, Variable>();
  for (const parameter of parameters) {
    const other = seen.get(parameter.name);
    if (other === parameter)
      throw new BinadeError(
        "option.invalid",
        `${subject}: parameter ${parameter.name} is given twice; put it in one group`,
      );
    if (other !== undefined) {
      const fix = "call namedParameters() of the module that holds both, or name them apart";
      throw new BinadeError("option.invalid", `${subject}: two parameters are called ${parameter.name}; ${fix}`);
    }
    seen.set(parameter.name, parameter);
  }
}
