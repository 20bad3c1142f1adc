/** Parameter groups of an optimizer, and what must hold of the parameters in all of them. */
import { BinadeError, showValue } from "../errors.ts";
import type { Parameters } from "../tensor/gradients.ts";
import { Variable } from "../tensor/variable.ts";

/** A group whose options are not checked yet. */
export interface Grouped {
  readonly parameters: Parameters;
}

export function groupsOf(subject: string, source: Parameters | readonly Grouped[]): readonly Grouped[] {
  if (!Array.isArray(source)) return [{ parameters: source as Parameters }];
  const items: readonly unknown[] = source;
  const variables = items.filter((item) => item instanceof Variable);
  const groups = items.filter((item) => !(item instanceof Variable)).map((item) => requireGroup(subject, item));
  if (groups.length > 0 && variables.length > 0) {
    throw new BinadeError(
      "option.invalid",
      `${subject}: expected variables or groups, got both; put the variables into a group`,
    );
  }
  return groups.length > 0 ? groups : [{ parameters: variables }];
}

function requireGroup(subject: string, item: unknown): Grouped {
  const isGroup =
    typeof item === "object" && item !== null && "parameters" in item && typeof item.parameters !== "function";
  if (isGroup) return item as Grouped;
  throw new BinadeError(
    "option.invalid",
    `${subject}: expected variables, or groups with parameters, got ${showValue(item)}; pass a module, its parameters(), or { parameters, … }`,
  );
}

/** What belongs to all of them, such as a count of steps, is on one device. */
export function requireOneDevice(subject: string, parameters: readonly Variable[]): void {
  const [first] = parameters;
  const other = parameters.find(({ device }) => device !== first?.device);
  if (first === undefined || other === undefined) return;
  throw new BinadeError(
    "device.failed",
    `${subject}: parameter ${first.name} is on the device ${first.device.kind}, ${other.name} on ${other.device.kind}; construct one for each device, or make the model on one`,
  );
}

/** State is kept by parameter and saved by name, so both must be unique. */
export function requireDistinct(subject: string, parameters: readonly Variable[]): void {
  if (parameters.length === 0) {
    throw new BinadeError(
      "option.invalid",
      `${subject}: expected at least one parameter, got none; pass a module or a list of variables`,
    );
  }
  requireOneDevice(subject, parameters);
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
