/** A confusion matrix as text: the whole table where the terminal is wide enough, else the pairs that are confused most. Pure. */
import { printable } from "./format.ts";

type Confusion = readonly (readonly number[])[];

const LONGEST_NAME = 16;
const SHORTEST_NAME = 6;
/** Columns of "100 %" and the space before it. */
const SHARE_COLUMNS = 6;
const PAIRS = 10;

/** `count` as a share of `total`, in whole per cent; nothing of nothing is "-". */
const percent = (count: number, total: number): string =>
  total === 0 ? "-" : `${Math.round((100 * count) / total)} %`;

const sumOf = (row: readonly number[]): number => row.reduce((a, b) => a + b, 0);

/** A name of at most `width` columns; what is cut off shows as "~". */
function fitted(name: string, width: number): string {
  const text = printable(name);
  return text.length <= width ? text.padEnd(width) : `${text.slice(0, width - 1)}~`;
}

/**
 * Lines of at most `width` columns. Rows are classes, columns what they were taken for, in the same order; at the end of a
 * row the share that was found. Too narrow for that: the ten most frequent mistakes.
 *
 * @param confusion `confusion[c][g]` examples of class c were taken for class g.
 */
export function confusionLines(classes: readonly string[], confusion: Confusion, width: number): readonly string[] {
  const cell = 1 + Math.max(...confusion.flat().map((count) => `${count}`.length), `${classes.length - 1}`.length);
  const label = `${classes.length - 1}`.length + 1;
  const left = width - label - cell * classes.length - SHARE_COLUMNS;
  if (left < SHORTEST_NAME) return pairLines(classes, confusion, width);
  const longest = Math.max(...classes.map((name) => printable(name).length));
  const nameWidth = Math.min(left, LONGEST_NAME, Math.max(SHORTEST_NAME, longest));
  const header = " ".repeat(label + nameWidth) + classes.map((_, i) => `${i}`.padStart(cell)).join("");
  const rows = confusion.map((row, i) => {
    const counts = row.map((count) => `${count}`.padStart(cell)).join("");
    const share = percent(row[i] ?? 0, sumOf(row)).padStart(SHARE_COLUMNS);
    return `${`${i}`.padStart(label - 1)} ${fitted(classes[i] ?? "", nameWidth)}${counts}${share}`;
  });
  return [header, ...rows];
}

function pairLines(classes: readonly string[], confusion: Confusion, width: number): readonly string[] {
  const pairs = confusion
    .flatMap((row, truth) => row.map((count, guess) => ({ truth, guess, count, total: sumOf(row) })))
    .filter(({ truth, guess, count }) => truth !== guess && count > 0);
  // Equal counts stay in the order of the classes.
  const worst = pairs.sort((a, b) => b.count - a.count).slice(0, PAIRS);
  if (worst.length === 0) return ["no class was taken for another".slice(0, Math.max(0, width))];
  return worst.map(({ truth, guess, count, total }) => {
    const share = ` ${count} (${percent(count, total)})`;
    const names = Math.max(SHORTEST_NAME, Math.floor((width - share.length - " taken for ".length) / 2));
    const [is, seen] = [classes[truth] ?? "", classes[guess] ?? ""].map((name) => fitted(name, names).trimEnd());
    return `${is} taken for ${seen}${share}`.slice(0, Math.max(0, width));
  });
}
