/** A list whose items know their positions, so that two are compared at once, and may be moved anywhere at little cost. */
import { invariant } from "../errors.ts";

/** An item of a sequence; others only read its position. */
export interface Positioned {
  /** Grows from each item of the sequence to the next. */
  position: number;
}

interface Neighbours<T> {
  previous: T | undefined;
  next: T | undefined;
}

/** A moved item takes a position between its new neighbours'; where no number lies between them, all are counted anew. */
export class Sequence<T extends Positioned> {
  readonly #neighbours = new Map<T, Neighbours<T>>();
  #first: T | undefined;

  constructor(items: readonly T[]) {
    this.#first = items[0];
    for (const [i, item] of items.entries()) {
      item.position = i;
      this.#neighbours.set(item, { previous: items[i - 1], next: items[i + 1] });
    }
  }

  moveBefore(item: T, anchor: T): void {
    this.remove(item);
    this.#insert(item, this.#of(anchor).previous, anchor);
  }

  moveBehind(item: T, anchor: T): void {
    this.remove(item);
    this.#insert(item, anchor, this.#of(anchor).next);
  }

  remove(item: T): void {
    const { previous, next } = this.#of(item);
    this.#neighbours.delete(item);
    if (previous === undefined) this.#first = next;
    else this.#of(previous).next = next;
    if (next !== undefined) this.#of(next).previous = previous;
  }

  #insert(item: T, previous: T | undefined, next: T | undefined): void {
    this.#neighbours.set(item, { previous, next });
    if (previous === undefined) this.#first = item;
    else this.#of(previous).next = item;
    if (next !== undefined) this.#of(next).previous = item;
    const low = previous?.position ?? (next?.position ?? 0) - 2;
    const high = next?.position ?? low + 2;
    item.position = low + (high - low) / 2;
    if (item.position <= low || item.position >= high) this.#count();
  }

  #count(): void {
    let position = 0;
    for (let item = this.#first; item !== undefined; item = this.#of(item).next) item.position = position++;
  }

  #of(item: T): Neighbours<T> {
    const found = this.#neighbours.get(item);
    invariant(found !== undefined, () => "an item that is not in its sequence");
    return found;
  }
}
