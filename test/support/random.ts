/** Reproducible numbers for tests. */

/** Uniform numbers in [0, 1) from a 32-bit linear congruential generator (Numerical Recipes, section 7.1). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** `length` numbers between `low` and `high`. */
export function uniforms(seed: number, length: number, low = -1, high = 1): Float64Array {
  const next = generator(seed);
  return Float64Array.from({ length }, () => low + (high - low) * next());
}
