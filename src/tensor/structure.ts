/** Tensors inside arrays and plain objects, which is what functions of tensors take and return. */
import { Tensor } from "./tensor.ts";

export const isPlain = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;

/** The same structure with every tensor in it changed; what is neither tensor, array nor plain object stays as it is. */
export function mapTensors<T>(tree: T, change: (tensor: Tensor) => Tensor): T {
  const visit = (value: unknown): unknown => {
    if (value instanceof Tensor) return change(value);
    if (Array.isArray(value)) return value.map(visit);
    return isPlain(value) ? Object.fromEntries(Object.entries(value).map(([key, part]) => [key, visit(part)])) : value;
  };
  return visit(tree) as T;
}

/** The tensors by place, such as `loss` or `heads[0].logits`, in the order of `mapTensors`; a tensor alone has the place "". */
export function tensorsByPlace(value: unknown, place = ""): readonly (readonly [string, Tensor])[] {
  if (value instanceof Tensor) return [[place, value]];
  if (Array.isArray(value)) return value.flatMap((part, i) => tensorsByPlace(part, `${place}[${i}]`));
  if (!isPlain(value)) return [];
  return Object.entries(value).flatMap(([key, part]) => tensorsByPlace(part, place === "" ? key : `${place}.${key}`));
}

/** The class of an object that holds tensors where `mapTensors` does not look for them, such as a map; null: there is none. */
export function hiddenTensors(value: unknown): string | null {
  if (typeof value !== "object" || value === null || value instanceof Tensor) return null;
  if (Array.isArray(value) || isPlain(value)) {
    for (const part of Object.values(value)) {
      const holder = hiddenTensors(part);
      if (holder !== null) return holder;
    }
    return null;
  }
  const held = value instanceof Map || value instanceof Set ? [...value.values()] : Object.values(value);
  return held.some((part) => part instanceof Tensor) ? (value.constructor?.name ?? "an object") : null;
}
