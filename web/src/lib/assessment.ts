// The parts of a reward model's assessment that are shown as pictures; everything else is shown as a table.

export interface Share {
  value: number;
  low: number;
  high: number;
  pairs: number;
  tasks: number;
}
/** One bin: what the model says on average, the share of votes that agree, and the share of all votes in the bin. */
export interface Reliability {
  confidence: number;
  accuracy: number;
  share: number;
}
export interface Pairs {
  accuracy: Share;
  length_only: Share | null;
  log_likelihood: number;
  ece: number;
  reliability: Reliability[];
}
export interface Model {
  id: string;
  round: number;
  event_set: string | null;
  assessment: { validation?: Pairs | null } & Record<string, unknown>;
}

/** Every number, word and truth of a nested value with its path; lists are left to whoever shows them. */
export function leaves(value: unknown, path = ""): [string, string | number | boolean][] {
  if (Array.isArray(value) || value === null || value === undefined) return [];
  if (typeof value === "object")
    return Object.entries(value).flatMap(([name, inner]) => leaves(inner, path === "" ? name : `${path}.${name}`));
  return typeof value === "number" || typeof value === "string" || typeof value === "boolean" ? [[path, value]] : [];
}
