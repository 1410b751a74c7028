// What to tell a person about an error: what is wrong and what to do.
import { Refused, Unreachable } from "./api";
import { text } from "../strings/index.svelte";

export interface Problem {
  what: string;
  fix: string;
}

export function problemOf(error: unknown): Problem {
  const t = text();
  if (error instanceof Refused) return { what: error.message, fix: error.fix };
  if (error instanceof Unreachable) return { what: t.errors.unreachable, fix: t.errors.unreachable_fix };
  return { what: error instanceof Error ? error.message : String(error), fix: t.errors.reload };
}
