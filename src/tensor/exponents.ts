/** Histograms of exponents: how many elements of a tensor lie in each binade. */
import { FORMATS } from "../formats/index.ts";
import { build } from "../ir/graph.ts";
import { full, zeros } from "./create.ts";
import { Tensor } from "./tensor.ts";

/** Exponents of float32: 0 for zeros and its subnormals, 255 for infinities and NaN. */
export const EXPONENTS = 256;

/**
 * How many elements lie in each binade: (256), float32. Counts are float32 numbers: one of more than 2²⁴ is too small.
 */
export function histogramOf(tensor: Tensor): Tensor {
  if (tensor.size === 0) return zeros([EXPONENTS]);
  const exponents = exponentOf(tensor.cast("float32")).reshape([tensor.size]);
  const ones = full([tensor.size, 1], 1);
  const counts = build.scatterAdd(ones.node, exponents.node, { axis: 0, rows: EXPONENTS, dtype: "float32" });
  return new Tensor(counts).reshape([EXPONENTS]);
}

/**
 * Biased exponents, int32. The bits of |x| are an integer of which the upper 9 are sign and exponent. It is cut to the upper 16 by
 * going down to the nearest bfloat16 that is not above, since float32 holds no integer of 31 bits; what is left is exact.
 */
function exponentOf(x: Tensor): Tensor {
  const magnitude = build.abs(x.node);
  const bits = build.bitcast(magnitude, "int32");
  const nearest = build.bitcast(build.cast(build.cast(magnitude, "bfloat16"), "float32"), "int32");
  const cut = build.where(build.greater(nearest, bits), build.sub(nearest, 2 ** 16), nearest);
  const exponents = build.floor(build.mul(build.cast(cut, "float32"), 2 ** -FORMATS.float32.mantissaBits));
  // NaN's bits need not survive the way through bfloat16.
  const known = build.where(build.isFinite(x.node), exponents, EXPONENTS - 1);
  return new Tensor(build.cast(known, "int32"));
}
