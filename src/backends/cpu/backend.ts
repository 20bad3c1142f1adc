/** The cpu backend: hands lowered programs to the native addon. */
import type { Backend } from "../backend.ts";
/** The backend, or why it cannot be had and what to do. */
export type CpuResult = { readonly backend: Backend } | { readonly reason: string; readonly remedy: string };
export function openCpu(_: { readonly threads?: number }): CpuResult {
  return { reason: "not built", remedy: "build" };
}
