// What to tell a person about an error: what is wrong and what to do.
import { Refused, Unreachable } from "./api";
import { text } from "../strings/index.svelte";
import type { Said } from "./types";

export interface Problem {
  what: string;
  fix: string;
}

/** A refusal in the page's language; a code that this page does not know is told in the studio's own words. */
export function refusal(code: string | undefined, said: Said): string {
  const known = text().refusals;
  return known[code !== undefined && code in known ? (code as keyof typeof known) : "unknown"](said);
}

export function problemOf(error: unknown): Problem {
  const t = text();
  if (error instanceof Refused) return { what: refusal(error.code, { what: error.message, fix: error.fix, values: error.values }), fix: "" };
  if (error instanceof Unreachable) return { what: t.errors.unreachable, fix: t.errors.unreachable_fix };
  return { what: error instanceof Error ? error.message : String(error), fix: t.errors.reload };
}
