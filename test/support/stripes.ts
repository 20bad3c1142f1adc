/** Pictures that a small network learns within a minute: stripes in one of four directions, under noise. */
import { type Tensor, tensor } from "../../src/index.ts";
import { uniforms } from "./random.ts";

const SIDE = 8;

/** The batch of a step: pictures (16, 3, 8, 8), and their directions from 0 to 3. */
export function stripes(step: number, seed: number): readonly [Tensor, Tensor] {
  const labels = Int32Array.from(uniforms(1000 * seed + step, 16, 0, 4), Math.floor);
  const noise = uniforms(7000 * seed + step, 16 * 3 * SIDE * SIDE, -1.5, 1.5);
  const values = Float32Array.from(noise, (n, i) => {
    const [row, column] = [Math.floor(i / SIDE) % SIDE, i % SIDE];
    const along = [row, column, row + column, row - column][labels[Math.floor(i / (3 * SIDE * SIDE))] ?? 0] ?? 0;
    return n + ((along + 32) % 4 < 2 ? 1 : -1);
  });
  return [tensor(values, { shape: [16, 3, SIDE, SIDE] }), tensor(labels)];
}
