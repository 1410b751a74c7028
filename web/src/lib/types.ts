// What the studio's HTTP interface sends and takes (docs/studio-api.md). Candidates are known by their position on the
// screen, "1" to "K", and by nothing else.

export type Language = "en" | "zh";
export type Theme = "system" | "light" | "dark";
export type Role = "viewer" | "annotator" | "reviewer" | "lead" | "engineer" | "admin";
export const ROLES: readonly Role[] = ["viewer", "annotator", "reviewer", "lead", "engineer", "admin"];

export interface Settings {
  language?: Language;
  theme?: Theme;
  single_key_shortcuts?: boolean;
}

export interface Account {
  id: string;
  name: string;
  role: Role;
  settings: Settings;
}

export interface SessionInfo {
  account: Account | null;
  csrf: string;
  solo: boolean;
  setup_needed: boolean;
  study: { name: string; domain: string; kind: string; rounds: number };
  version: string;
}

export type Kind =
  | "comparison"
  | "ranking"
  | "best_of"
  | "rating"
  | "label"
  | "demonstration"
  | "correction"
  | "critique"
  | "approval";

export interface Clip {
  h264: string;
  vp9: string;
  poster: string;
  /** `{frames, width, height, rate}`, once the clip is drawn */
  about: string;
}

export interface Shown {
  key: string;
  viewer: "text" | "clip";
  text?: string;
  html?: string;
  /** characters of the whole text, where only its beginning is shown */
  length?: number;
  clip?: Clip;
}

export interface Message {
  role: string;
  content: string;
  html: string;
}

export interface ShownTask {
  kind: "text" | "chat" | "segment";
  prompt?: string;
  messages?: Message[];
  html?: string;
  environment?: string;
  goal?: string;
}

export interface Aspect {
  name: string;
  scale: [number, number];
}

export interface Item {
  assignment: string;
  kind: Kind;
  expires_at: number;
  guideline_version: number | null;
  task: ShownTask;
  candidates: Shown[];
  form: { aspects?: Aspect[]; labels?: string[]; strengths?: boolean };
  draft: Draft | null;
}

/** What a person has entered so far; `at` is the browser's clock in ms, so that the later of two drafts wins. */
export interface Draft {
  at: number;
  [name: string]: unknown;
}

export type EmptyReason = "done" | "all_claimed" | "yours_are_done" | "nothing_asked" | "wrong_kind";

export interface Empty {
  reason: EmptyReason;
  open: number;
  claimed: number;
}

export interface Submission {
  submission_id: string;
  value: Record<string, unknown>;
  text?: string;
  duration_ms: number;
  extra?: Remark[];
}

/** What may come along with an answer of another kind. */
export interface Remark {
  kind: "correction" | "critique" | "demonstration";
  value: { candidate?: string; span?: [number, number] };
  text: string;
}

/** A refusal in the studio's words, with the values that its sentence has. */
export interface Said {
  what: string;
  fix: string;
  values: Record<string, string | number | null>;
}

/** One page of a list. */
export interface Page<T> {
  items: T[];
  next: string | number | null;
}

export interface Stored {
  stored: boolean;
  late: boolean;
  undo_until: number;
  again: boolean;
}
