// What `lead/quality` answers. Absent or null means too few votes to say.

export interface Estimate {
  value: number;
  low: number;
  high: number;
  n?: number;
}

export interface Annotator {
  id: string;
  kind: string;
  votes: number;
  effective: number | null;
  skill: Estimate | null;
  position: Estimate | null;
  length: Estimate | null;
}

export interface Quality {
  alpha?: Record<string, Estimate | null>;
  fit?: { annotators: Annotator[] } | null;
  heat?: { people: string[]; values: (number | null)[][] } | null;
  retest?: Estimate | null;
  swap?: Estimate | null;
  gold?: Estimate | null;
  cycles?: Estimate | null;
  outliers?: { person: string; query: string; seconds: number; hasty: boolean }[];
  computing?: boolean;
  /** why the newest attempt at a report failed */
  problem?: { message: string; fix: string } | null;
}
