/** Small models over named leaves: what golden texts show. */
import { createInput } from "../../src/ir/graph.ts";
import { autocast } from "../../src/precision/autocast.ts";
import { conv2d } from "../../src/tensor/convolution.ts";
import { crossEntropy, embedding, layerNorm, linear, scaledDotProductAttention } from "../../src/tensor/functions.ts";
import { batchNorm } from "../../src/tensor/normalization.ts";
import { adaptiveAvgPool2d } from "../../src/tensor/pooling.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Variable } from "../../src/tensor/variable.ts";

export interface Model {
  readonly loss: Tensor;
  readonly parameters: readonly Variable[];
}

const parameter = (name: string, ...shape: number[]): Variable => new Variable(name, shape, "float32");
const batch = (name: string, shape: readonly number[], dtype: "float32" | "int32"): Tensor =>
  new Tensor(createInput(shape, dtype, name));

/** Two linear layers with a gelu between, and cross-entropy. */
export function mlp(dtype: "float16" | "bfloat16" | false): Model {
  const [w1, b1, w2] = [parameter("w1", 8, 4), parameter("b1", 8), parameter("w2", 3, 8)];
  const [x, y] = [batch("x", [5, 4], "float32"), batch("y", [5], "int32")];
  const loss = autocast(dtype, () => crossEntropy(linear(linear(x, w1.read(), b1.read()).gelu(), w2.read()), y));
  return { loss, parameters: [w1, b1, w2] };
}

/** One transformer block between a tied embedding and its logits: causal attention and a gelu MLP on a residual stream. */
export function block(dtype: "float16" | "bfloat16" | false): Model {
  const [vocabulary, width, heads, time] = [11, 8, 2, 4];
  const table = parameter("table", vocabulary, width);
  const [gain, shift] = [parameter("gain", width), parameter("shift", width)];
  const [qkv, out] = [parameter("qkv", 3 * width, width), parameter("out", width, width)];
  const [up, down] = [parameter("up", 4 * width, width), parameter("down", width, 4 * width)];
  const [tokens, labels] = [batch("tokens", [2, time], "int32"), batch("labels", [2, time], "int32")];
  const loss = autocast(dtype, () => {
    const x = embedding(table.read(), tokens);
    const projected = linear(layerNorm(x, gain.read(), shift.read()), qkv.read());
    const [q, k, v] = [0, 1, 2].map((i) =>
      projected.slice(2, i * width, width).reshape([2, time, heads, width / heads]),
    ) as [Tensor, Tensor, Tensor];
    const attended = linear(scaledDotProductAttention(q, k, v, { causal: true }).reshape([2, time, width]), out.read());
    const residual = x.add(attended);
    const mixed = residual.add(linear(linear(residual, up.read()).gelu(), down.read()));
    return crossEntropy(linear(mixed, table.read()).reshape([2 * time, vocabulary]), labels.reshape([2 * time]));
  });
  return { loss, parameters: [table, gain, shift, qkv, out, up, down] };
}

/** Two convolutions with batch norms: the second one's is added to the first one's before relu. */
export function residual(dtype: "float16" | "bfloat16" | false): Model {
  const channels = 4;
  const layers = ["first", "second"].map((name) => ({
    kernel: parameter(`${name}.kernel`, channels, channels, 3, 3),
    gain: parameter(`${name}.gain`, channels),
    shift: parameter(`${name}.shift`, channels),
  }));
  const pictures = batch("pictures", [2, channels, 6, 6], "float32");
  const loss = autocast(dtype, () => {
    const [first, second] = layers.map(
      ({ kernel, gain, shift }) =>
        (x: Tensor) =>
          batchNorm(conv2d(x, kernel.read(), undefined, { padding: 1 }), gain.read(), shift.read()),
    );
    const hidden = first?.(pictures).relu() ?? pictures;
    const added = second?.(hidden).add(hidden).relu() ?? hidden;
    return adaptiveAvgPool2d(added, 1).square().mean();
  });
  return { loss, parameters: layers.flatMap(({ kernel, gain, shift }) => [kernel, gain, shift]) };
}
