// Answers on their way to the studio. An answer is written to the browser's storage before the next item is shown, and
// leaves it when the studio has said that it is stored, or when the person discards one that was refused. Sending the
// same answer twice is harmless: its submission_id makes it one.
import { post, Refused, Unreachable } from "../lib/api";
import { session } from "../lib/session.svelte";
import { load, names, save } from "../lib/stored";
import type { Said, Stored, Submission } from "../lib/types";

const PREFIX = "outbox.";
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;

export interface Entry {
  account: string;
  assignment: string;
  action: "submit" | "skip";
  body: Submission | { submission_id: string };
  at: number;
  tries: number;
  /** In the studio's words: the page says it in the language of the moment. */
  refused?: Said & { code: string };
}

class Outbox {
  entries = $state.raw<Entry[]>(stored());
  down = $state(false);
  /** When the next try is due, in ms of the browser's clock; 0 when none is planned. */
  next = $state(0);
  onStored: (entry: Entry, stored: Stored) => void = () => undefined;
  onRefused: (entry: Entry) => void = () => undefined;
  private sending: string | null = null;
  private timer = 0;
  private wait = FIRST_WAIT_MS;
  private settled: (() => void)[] = [];

  constructor() {
    addEventListener("online", () => this.kick());
  }

  get mine(): Entry[] {
    return this.entries.filter((entry) => entry.account === session.account?.id);
  }
  get waiting(): Entry[] {
    return this.mine.filter((entry) => entry.refused === undefined);
  }
  get refused(): Entry[] {
    return this.mine.filter((entry) => entry.refused !== undefined);
  }

  has(assignment: string): boolean {
    return this.entries.some((entry) => entry.assignment === assignment);
  }

  add(entry: Entry): void {
    keep(entry);
    this.entries = [...this.entries, entry];
    void this.send();
  }

  /** Take an answer back that was never sent. False where the studio may have it. */
  withdraw(assignment: string): boolean {
    const entry = this.waiting.find((one) => one.assignment === assignment);
    if (entry === undefined || entry.tries > 0 || this.sending !== null) return false;
    this.remove(entry);
    return true;
  }

  /** Resolves when the answer has left the outbox, or nothing can be sent now. */
  async left(assignment: string): Promise<boolean> {
    while (this.waiting.some((entry) => entry.assignment === assignment)) {
      if (this.down) return false;
      await new Promise<void>((resolve) => this.settled.push(resolve));
    }
    return true;
  }

  discard(entry: Entry): void {
    this.remove(entry);
  }

  /** Try again now. */
  kick(): void {
    clearTimeout(this.timer);
    this.wait = FIRST_WAIT_MS;
    void this.send();
  }

  private async send(): Promise<void> {
    if (this.sending !== null) return;
    clearTimeout(this.timer);
    this.next = 0;
    for (let entry = this.waiting[0]; entry !== undefined; entry = this.waiting[0]) {
      this.sending = entry.body.submission_id;
      entry.tries += 1;
      keep(entry);
      try {
        const answer = await post<Stored>(`assignments/${entry.assignment}/${entry.action}`, entry.body);
        this.down = false;
        this.wait = FIRST_WAIT_MS;
        this.remove(entry);
        this.onStored(entry, answer);
      } catch (error) {
        if (!this.failed(entry, error)) break;
      } finally {
        this.sending = null;
      }
      this.tell();
    }
    this.tell();
  }

  /** Returns whether the next answer may be tried at once. */
  private failed(entry: Entry, error: unknown): boolean {
    if (error instanceof Refused && !error.passing) {
      const { code, message, fix, values } = error;
      const refused = { ...entry, refused: { code, what: message, fix, values } };
      keep(refused);
      this.entries = this.entries.map((one) => (one === entry ? refused : one));
      this.onRefused(refused);
      return true;
    }
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    this.down = true;
    if (session.ended(error)) return false; // signing in again goes on from here
    if (error instanceof Refused && error.code === "csrf") void session.refresh();
    this.next = Date.now() + this.wait;
    this.timer = setTimeout(() => void this.send(), this.wait);
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
    return false;
  }

  private remove(entry: Entry): void {
    const id = entry.body.submission_id;
    save(localStorage, `${PREFIX}${id}`, undefined);
    this.entries = this.entries.filter((one) => one.body.submission_id !== id);
  }

  private tell(): void {
    for (const resolve of this.settled.splice(0)) resolve();
  }
}

/** One key for each answer: two tabs then never overwrite one another's. Where storage is full or refused, the answer is
 * still sent from memory. */
function keep(entry: Entry): void {
  save(localStorage, `${PREFIX}${entry.body.submission_id}`, entry);
}

function stored(): Entry[] {
  const found = names(localStorage, PREFIX).map((name) => load<Entry | null>(localStorage, name, null));
  return found.filter((entry) => entry !== null).sort((a, b) => a.at - b.at);
}

export const outbox = new Outbox();
