// A stored value in words, in canonical slots: what leads and engineers read.
import { text } from "../strings/index.svelte";
import { written, type Order } from "../judge/ordering";

export type Value = Record<string, unknown> & { kind?: string };

export function valueText(value: Value): string {
  const t = text().judge;
  const named: Record<string, string> = {
    tie: t.tie,
    both_bad: t.both_bad,
    all_bad: t.all_bad,
    cannot_judge: t.cannot_judge,
  };
  if (typeof value.choice === "string") {
    const grades = [t.better, t.slightly, t.clearly, t.much];
    const strength = typeof value.strength === "number" ? value.strength : 0;
    return named[value.choice] ?? (grades[strength] ?? t.better)(value.choice);
  }
  if (typeof value.best === "string") return named[value.best] ?? t.best(value.best);
  if (Array.isArray(value.rank)) return written(value.rank as Order);
  if (typeof value.score === "number") return `${String(value.aspect ?? "")} ${String(value.slot ?? "")}: ${value.score}`;
  if (typeof value.good === "boolean") return `${String(value.name ?? "")} ${String(value.slot ?? "")}: ${value.good ? t.yes : t.no}`;
  if (typeof value.approved === "boolean") return value.approved ? t.thumb_up : t.thumb_down;
  return JSON.stringify(value);
}
