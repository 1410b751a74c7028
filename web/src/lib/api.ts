// Calls to the studio. Addresses are relative to the page, so that a proxy may put the studio below any path.

/** The studio could not be reached, or did not answer: the same call may succeed later. */
export class Unreachable extends Error {}

/** The studio answered with an error: what is wrong and what to do, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly fix: string,
    readonly values: Record<string, string | number | null> = {},
  ) {
    super(message);
  }

  /** Whether the same call may succeed later, without being changed. */
  get passing(): boolean {
    return this.status >= 500 || [401, 408, 425, 429].includes(this.status) || this.code === "csrf";
  }
}

const TIMEOUT_MS = 20_000;
let csrf = "";

/** Remember the token that every write must carry. */
export function setCsrf(token: string): void {
  csrf = token;
}

/** Call `api/v1/PATH`. Errors: Unreachable, Refused. */
export async function call<T>(method: string, path: string, body?: unknown, limit = TIMEOUT_MS): Promise<T> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response: Response;
  let text: string;
  try {
    response = await fetch(`api/v1/${path}`, {
      method,
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      credentials: "same-origin",
      signal: AbortSignal.timeout(limit),
    });
    text = await response.text();
  } catch (error) {
    throw new Unreachable(error instanceof Error ? error.message : String(error));
  }
  if (response.ok) return (text === "" ? undefined : JSON.parse(text)) as T;
  throw refusal(response.status, text);
}

function refusal(status: number, text: string): Refused {
  try {
    const { error } = JSON.parse(text) as { error: { code: string; message: string; fix: string; values?: Refused["values"] } };
    return new Refused(status, error.code, error.message, error.fix, error.values);
  } catch {
    return new Refused(status, "unknown", `HTTP ${status}`, ""); // a proxy's own page, not the studio's answer
  }
}

export const get = <T>(path: string): Promise<T> => call<T>("GET", path);
export const post = <T>(path: string, body: unknown = {}): Promise<T> => call<T>("POST", path, body);

/** An address that the studio gave, relative to the page as all others are. */
export const here = (address: string): string => address.replace(/^\//, "");

/** A query string of what is given; empty values are left out. */
export function query(values: Record<string, string | number | undefined>): string {
  const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text === "" ? "" : `?${text}`;
}
