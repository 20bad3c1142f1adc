/** The queue and the sequence of the compiler, against lists that are searched whole. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { Queue } from "../../src/compile/queue.ts";
import { type Positioned, Sequence } from "../../src/compile/sequence.ts";

it("a queue gives the least, of equal ones the first that came, also where priorities change", () => {
  const step = fc.record({ item: fc.nat(12), priority: fc.integer({ min: -3, max: 3 }), takes: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const queue = new Queue<number>();
      const list: { item: number; priority: number }[] = [];
      const takeFromList = (): number | undefined => {
        const least = Math.min(...list.map((entry) => entry.priority));
        const at = list.findIndex((entry) => entry.priority === least);
        return at < 0 ? undefined : list.splice(at, 1)[0]?.item;
      };
      for (const { item, priority, takes } of steps) {
        const known = list.find((entry) => entry.item === item);
        expect(queue.has(item)).toBe(known !== undefined);
        if (takes) expect(queue.take()).toBe(takeFromList());
        else {
          queue.put(item, priority);
          if (known === undefined) list.push({ item, priority });
          else known.priority = priority;
        }
      }
      while (list.length > 0) expect(queue.take()).toBe(takeFromList());
      expect(queue.take()).toBeUndefined();
    }),
  );
});

interface Item extends Positioned {
  readonly name: number;
}

it("positions in a sequence follow its order, wherever items are moved", () => {
  const move = fc.record({ item: fc.nat(9), anchor: fc.nat(9), isBehind: fc.boolean() });
  fc.assert(
    // So many moves between the same two neighbours leave no number between their positions.
    fc.property(fc.array(move, { maxLength: 40 }), fc.nat(200), (moves, repeated) => {
      const items = Array.from({ length: 10 }, (_, name): Item => ({ name, position: -1 }));
      const sequence = new Sequence(items);
      const list = [...items];
      const apply = (item: Item, anchor: Item, isBehind: boolean): void => {
        if (item === anchor) return;
        list.splice(list.indexOf(item), 1);
        list.splice(list.indexOf(anchor) + (isBehind ? 1 : 0), 0, item);
        if (isBehind) sequence.moveBehind(item, anchor);
        else sequence.moveBefore(item, anchor);
      };
      const at = (i: number): Item => items[i] as Item;
      for (const { item, anchor, isBehind } of moves) apply(at(item), at(anchor), isBehind);
      for (let i = 0; i < repeated; i++) apply(at(i % 2), at(2), true);
      for (const [i, item] of list.entries())
        if (i > 0) expect(item.position).toBeGreaterThan(list[i - 1]?.position ?? Number.NaN);
      expect([...items].sort((a, b) => a.position - b.position)).toEqual(list);
    }),
  );
});
