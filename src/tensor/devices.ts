/** The devices of this process, and the default on which tensors are made. */
import type { DeviceKind } from "../backends/backend.ts";
import { openCpu } from "../backends/cpu/backend.ts";
import { NullBackend } from "../backends/null/backend.ts";
import { ReferenceBackend } from "../backends/reference/backend.ts";
import { BinadeError } from "../errors.ts";
import { requireKnownKeys } from "../precision/options.ts";
import { Device } from "./device.ts";

const opened = new Map<DeviceKind, Device>();
let chosen: Device | null = null;
let listener: (message: string) => void = (message) => console.warn(`binade: ${message}`);

/** Where the notice "running on the slow reference backend" goes; default: console.warn, once. */
export function onNotice(listen: (message: string) => void): void {
  listener = listen;
}

/**
 * Makes a device the default for tensors created from now on.
 *
 * @param kind "cpu" (native kernels), "reference" (plain JavaScript, exact and slow) or "null" (runs nothing).
 * @param options.threads worker threads of the cpu device; default: one per core.
 * @returns the device.
 * @throws BinadeError `device.unavailable` if it cannot be opened; the sentence says why and what to do.
 */
export function useDevice(kind: DeviceKind, options: { readonly threads?: number } = {}): Device {
  requireKnownKeys("useDevice", options, ["threads"]);
  chosen = openDevice(kind, options);
  return chosen;
}

/** The default device: cpu where the native addon loads, else reference, said once through `onNotice`. */
export function defaultDevice(): Device {
  if (chosen !== null) return chosen;
  const cpu = openCpu({});
  if ("backend" in cpu) chosen = remember("cpu", new Device(cpu.backend));
  else {
    listener(`running on the reference backend, hundreds of times slower: ${cpu.reason}; ${cpu.remedy}`);
    chosen = openDevice("reference", {});
  }
  return chosen;
}

function openDevice(kind: DeviceKind, { threads }: { readonly threads?: number }): Device {
  const known = opened.get(kind);
  if (known !== undefined && threads === undefined) return known;
  switch (kind) {
    case "cpu": {
      const cpu = openCpu(threads === undefined ? {} : { threads });
      if ("backend" in cpu) return known ?? remember(kind, new Device(cpu.backend));
      throw new BinadeError(
        "device.unavailable",
        `device cpu: ${cpu.reason}; ${cpu.remedy}, or use the reference device`,
      );
    }
    case "reference":
      return remember(kind, new Device(new ReferenceBackend()));
    case "null":
      return remember(kind, new Device(new NullBackend()));
    default:
      throw new BinadeError(
        "option.invalid",
        `device: expected cpu, reference or null, got ${JSON.stringify(kind satisfies never)}`,
      );
  }
}

function remember(kind: DeviceKind, device: Device): Device {
  opened.set(kind, device);
  return device;
}
