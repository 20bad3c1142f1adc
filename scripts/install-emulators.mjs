// Installs what the kernel tests of other processors need: an arm64 compiler and qemu's user mode, from Debian's packages.
// --if-possible: says why it does nothing where there is no apt-get or no right to use it, and never fails.
import { spawnSync } from "node:child_process";

const PACKAGES = ["g++-aarch64-linux-gnu", "qemu-user"];
const PROGRAMS = ["aarch64-linux-gnu-g++", "qemu-aarch64"];
const LIMIT_MS = 90_000;

const ifPossible = process.argv.includes("--if-possible");
const runs = (program, args) => spawnSync(program, args, { stdio: "ignore" }).status === 0;
const aptGet = (...args) =>
  spawnSync("apt-get", ["-qq", ...args], { stdio: ["ignore", "ignore", "inherit"], timeout: LIMIT_MS }).status === 0;
const install = () => aptGet("install", "-y", "--no-install-recommends", ...PACKAGES);

/** Why the packages are not there, or null. */
function missing() {
  if (PROGRAMS.every((program) => runs(program, ["--version"]))) return null;
  if (process.arch === "arm64") return "this machine is arm64 itself";
  if (process.env.BINADE_INSTALL === "0") return "BINADE_INSTALL is 0";
  if (process.getuid?.() !== 0) return `only root may install them: sudo apt-get install ${PACKAGES.join(" ")}`;
  if (!runs("apt-get", ["--version"])) return "there is no apt-get here";
  console.log(`Installing ${PACKAGES.join(" and ")} for the kernel tests on arm64 (BINADE_INSTALL=0: do not)`);
  return install() || (aptGet("update") && install()) ? null : "apt-get failed";
}

const reason = missing();
if (reason !== null) {
  console.error(`${PACKAGES.join(" and ")} are not installed, so kernel tests on arm64 are skipped: ${reason}`);
  if (!ifPossible) process.exitCode = 1;
}
