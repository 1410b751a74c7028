// What a person has entered for an item and not sent: in the browser at once, at the studio a moment later.
import { call } from "../lib/api";
import { load, names, save } from "../lib/stored";
import type { Draft, Item } from "../lib/types";

const DELAY_MS = 700;
const OLD_MS = 14 * 24 * 3600_000;
const waiting = new Map<string, ReturnType<typeof setTimeout>>();

/** The later of the browser's and the studio's draft. */
export function draftOf(item: Item): Draft | null {
  const here = load<Draft | null>(localStorage, `draft.${item.assignment}`, null);
  if (here === null || item.draft === null) return here ?? item.draft;
  return here.at >= item.draft.at ? here : item.draft;
}

export function keepDraft(assignment: string, body: Record<string, unknown>): void {
  const draft: Draft = { ...body, at: Date.now() };
  save(localStorage, `draft.${assignment}`, draft);
  clearTimeout(waiting.get(assignment));
  waiting.set(
    assignment,
    setTimeout(() => {
      waiting.delete(assignment);
      // the browser's copy stands in while the studio cannot be reached, and the next change tries again
      call("PUT", `assignments/${assignment}/draft`, { body: draft }).catch(() => undefined);
    }, DELAY_MS),
  );
}

export function dropDraft(assignment: string): void {
  clearTimeout(waiting.get(assignment));
  waiting.delete(assignment);
  save(localStorage, `draft.${assignment}`, undefined);
}

/** Forget drafts of items that never came back. */
export function pruneDrafts(): void {
  for (const name of names(localStorage, "draft.")) {
    const draft = load<Draft | null>(localStorage, name, null);
    if (draft === null || Date.now() - draft.at > OLD_MS) save(localStorage, name, undefined);
  }
}
