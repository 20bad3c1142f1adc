/** A priority queue: the least first, of equal ones the one that has waited longest. */

interface Entry<T> {
  readonly item: T;
  readonly priority: number;
  /** How many items came before it. */
  readonly turn: number;
}

const isBefore = (a: Entry<unknown>, b: Entry<unknown>): boolean =>
  a.priority < b.priority || (a.priority === b.priority && a.turn < b.turn);

/** A binary heap. An entry whose item was given another priority stays in it until it would be taken, and counts no more. */
export class Queue<T> {
  readonly #heap: Entry<T>[] = [];
  readonly #waiting = new Map<T, Entry<T>>();
  #turns = 0;

  has(item: T): boolean {
    return this.#waiting.has(item);
  }

  /** Adds `item`, or gives it another priority: it keeps its turn. */
  put(item: T, priority: number): void {
    const known = this.#waiting.get(item);
    if (known?.priority === priority) return;
    const entry = { item, priority, turn: known?.turn ?? this.#turns++ };
    this.#waiting.set(item, entry);
    this.#rise(entry);
  }

  /** Removes the least; undefined if there is none. */
  take(): T | undefined {
    for (let first = this.#removeFirst(); first !== undefined; first = this.#removeFirst()) {
      if (this.#waiting.get(first.item) !== first) continue;
      this.#waiting.delete(first.item);
      return first.item;
    }
    return undefined;
  }

  #rise(entry: Entry<T>): void {
    let at = this.#heap.length;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = this.#heap[above];
      if (parent === undefined || isBefore(parent, entry)) break;
      this.#heap[at] = parent;
      at = above;
    }
    this.#heap[at] = entry;
  }

  #removeFirst(): Entry<T> | undefined {
    const [first] = this.#heap;
    const last = this.#heap.pop();
    if (last !== undefined && this.#heap.length > 0) this.#sink(last);
    return first;
  }

  /** Puts `entry` in place of the first. */
  #sink(entry: Entry<T>): void {
    let at = 0;
    for (;;) {
      const [left, right] = [this.#heap[2 * at + 1], this.#heap[2 * at + 2]];
      const isRight = left !== undefined && right !== undefined && isBefore(right, left);
      const least = isRight ? right : left;
      if (least === undefined || isBefore(entry, least)) break;
      this.#heap[at] = least;
      at = 2 * at + (isRight ? 2 : 1);
    }
    this.#heap[at] = entry;
  }
}
