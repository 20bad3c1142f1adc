/** The devices on which a test runs: every one of this machine. The missing ones are named, with the reason. */
import { BinadeError, useDevice } from "../../src/index.ts";

const KINDS = ["reference", "cpu"] as const;
type Kind = (typeof KINDS)[number];

/** Set to a comma-separated list to run on these devices only. */
const chosen = process.env.BINADE_TEST_DEVICES?.split(",");

function isAvailable(kind: Kind): boolean {
  if (chosen !== undefined && !chosen.includes(kind)) return false;
  try {
    useDevice(kind);
    return true;
  } catch (error) {
    if (!(error instanceof BinadeError) || error.code !== "device.unavailable") throw error;
    console.log(`skipped: device ${kind} — ${error.message}`);
    return false;
  }
}

/** For `describe.each(DEVICES)("… on %s", (device) => { beforeAll(() => useDevice(device)); … })`. */
export const DEVICES: readonly Kind[] = KINDS.filter(isAvailable);
