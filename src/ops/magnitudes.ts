/** Counts of magnitudes: how many elements of a tensor lie in each binade, and how many in float16's range. */
import { BinadeError } from "../errors.ts";
import { type MagnitudeRow, nameRows, operandAt } from "./define.ts";
import { sizeOf } from "./shape.ts";

/** Exponents of float32: 0 for zeros and its subnormals, 255 for infinities and NaN. */
export const EXPONENTS = 256;
/** Where two counts stand that no exponent tells: of zeros, and of finite elements above float16's largest number. */
export const ZEROS = EXPONENTS;
export const ABOVE_FLOAT16 = EXPONENTS + 1;
/** Numbers that `magnitudeCounts` yields. */
export const MAGNITUDE_COUNTS = EXPONENTS + 2;

/** Counts are int32, so that they are exact. */
const MAX_ELEMENTS = 2 ** 31 - 1;

/** x (…) → (258), int32: elements by biased exponent, the upper bits of |x|; then zeros, and finite ones above 65504. */
const magnitudeCounts: MagnitudeRow = {
  kind: "magnitudes",
  autocast: "as-is",
  infer: (inputs) => {
    const { dtype, shape } = operandAt(inputs, 0);
    if (dtype !== "float32") {
      throw new BinadeError(
        "dtype.unsupported",
        `expected float32, got ${dtype}; cast it first, for instance x.cast("float32")`,
      );
    }
    if (sizeOf(shape) > MAX_ELEMENTS) {
      throw new BinadeError(
        "shape.invalid",
        `expected at most 2^31 − 1 elements, got [${shape.join(", ")}]; count slices of it`,
      );
    }
    return { shape: [MAGNITUDE_COUNTS], dtype: "int32" };
  },
  vjp: "none",
};

export const MAGNITUDE = nameRows({ magnitudeCounts });
