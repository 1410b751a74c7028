// The items on a person's desk: one on the screen and the next three behind it, claimed ahead so that an answer shows
// the next item at once. Each is a lease, kept alive by heartbeats while it lies here.
import { post, Refused } from "../lib/api";
import { problemOf, type Problem } from "../lib/problem";
import { session } from "../lib/session.svelte";
import { load, save, uuid } from "../lib/stored";
import type { Draft, Empty, Item, Kind, Remark, Stored, Submission } from "../lib/types";
import { text } from "../strings/index.svelte";
import { forgetClips, warmClips } from "./clips";
import { draftOf, dropDraft, keepDraft, pruneDrafts } from "./drafts";
import { outbox, type Entry } from "./outbox.svelte";

const AHEAD = 3;
const HEARTBEAT_MS = 60_000;
const LOOK_AGAIN_MS = 10_000;
const UNDO_MS = 30_000;
const IDLE_MS = 15 * 60_000;

interface Done {
  item: Item;
  draft: Draft | null;
  until: number;
}

class Desk {
  items = $state.raw<Item[]>([]);
  empty = $state.raw<Empty | null>(null);
  problem = $state.raw<Problem | null>(null);
  claiming = $state(false);
  done = $state.raw<Done[]>([]);
  private saying = $state.raw({ what: "", language: session.language });
  /** The claim of the item on screen has run out: the answer is kept, and counts as late. */
  lapsed = $state(false);
  now = $state(Date.now());
  answered = $state(0);
  /** The one kind of question to judge; "" for all. */
  only = $state<Kind | "">(load<Kind | "">(localStorage, "only", ""));
  /** Remarks that go with the answer to the item on screen. */
  remarks = $state.raw<Remark[]>([]);
  /** What the item's form held when it came on screen, and what was entered since. */
  form: Record<string, unknown> = {};
  private timers: ReturnType<typeof setInterval>[] = [];
  private open = false;
  private again = false;
  /** What was answered or skipped here: a claim that was decided before may still bring it. */
  private gone = new Set<string>();
  /** Whose desk this is, and when they last did something. */
  private owner = "";
  private active = Date.now();
  private seen = 0;
  private since = 0;

  get current(): Item | null {
    return this.items[0] ?? null;
  }

  /** What just happened, for the live region; gone when the language changes. */
  get said(): string {
    return this.saying.language === session.language ? this.saying.what : "";
  }
  set said(what: string) {
    this.saying = { what, language: session.language };
  }

  /** Judge one kind of question only ("": all); what else lies here is given back, its drafts are kept. */
  choose(only: Kind | ""): void {
    this.only = only;
    save(localStorage, "only", only);
    for (const item of this.items) if (!this.wants(item.kind)) void post(`assignments/${item.assignment}/release`).catch(() => undefined);
    this.put(this.items.filter((item) => this.wants(item.kind)));
    this.again = true; // what is being claimed was asked for before
    void this.fill();
  }

  private wants(kind: Kind): boolean {
    return this.only === "" || this.only === kind;
  }

  get undoLeft(): number {
    const last = this.done.at(-1);
    return last === undefined ? 0 : Math.max(0, Math.ceil((last.until - this.now) / 1000));
  }

  /** Take up work: what lay on this tab's desk before a reload first. Returns what ends it. */
  start(): () => void {
    this.open = true;
    this.clear(session.account?.id ?? "");
    const held = load<{ account: string; items: Item[] } | null>(sessionStorage, "held", null);
    if (held !== null && held.account === this.owner) {
      this.items = held.items.filter(({ assignment, kind }) => !this.gone.has(assignment) && !outbox.has(assignment) && this.wants(kind));
      this.items.forEach(warmClips);
    }
    outbox.onStored = (entry, stored) => this.stored(entry, stored);
    outbox.onRefused = (entry) => this.refused(entry);
    this.shown();
    void this.beat().then(() => this.fill());
    this.timers = [
      setInterval(() => void this.beat(), HEARTBEAT_MS),
      setInterval(() => void ((this.items.length === 0 || this.problem !== null) && this.fill()), LOOK_AGAIN_MS),
      setInterval(() => this.tick(), 1000),
    ];
    const visible = () => this.visible();
    const acts = () => this.acts();
    document.addEventListener("visibilitychange", visible);
    for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, acts, { passive: true });
    outbox.kick();
    return () => {
      this.open = false;
      this.timers.forEach(clearInterval);
      document.removeEventListener("visibilitychange", visible);
      for (const kind of ["keydown", "pointerdown"]) removeEventListener(kind, acts);
    };
  }

  /** Another person's desk begins empty. */
  private clear(owner: string): void {
    if (owner === this.owner) return;
    this.owner = owner;
    this.items = [];
    this.done = [];
    this.gone.clear();
    this.empty = this.problem = null;
    this.answered = 0;
    this.said = "";
    pruneDrafts();
  }

  /** Send an answer and show the next item; the order matters: the answer is in the outbox before it leaves the screen. */
  answer(value: Record<string, unknown>, said: string, free?: string): void {
    const body: Submission = { submission_id: uuid(), value, duration_ms: this.elapsed() };
    if (free !== undefined) body.text = free;
    if (this.remarks.length > 0) body.extra = this.remarks;
    this.leave("submit", body, text().judge.sent(said));
  }

  /** Keep what was entered, remarks included. */
  keep(form: Record<string, unknown>): void {
    this.form = form;
    if (this.current !== null) keepDraft(this.current.assignment, { form, remarks: this.remarks });
  }

  remark(remarks: Remark[]): void {
    this.remarks = remarks;
    this.keep(this.form);
  }

  skip(): void {
    this.leave("skip", { submission_id: uuid() }, text().judge.skipped);
  }

  private leave(action: Entry["action"], body: Entry["body"], said: string): void {
    const item = this.current;
    const account = session.account;
    if (item === null || account === null) return;
    const draft = draftOf(item);
    outbox.add({ account: account.id, assignment: item.assignment, action, body, at: Date.now(), tries: 0 });
    dropDraft(item.assignment);
    this.gone.add(item.assignment);
    this.now = Date.now();
    this.done = [...this.done.slice(-9), { item, draft, until: Date.now() + UNDO_MS }];
    this.put(this.items.slice(1));
    this.answered += action === "submit" ? 1 : 0;
    this.said = said;
    // only after the answer has arrived, or the claim would return the item that was just answered
    void outbox.left(item.assignment).then(() => this.fill());
  }

  /** Take the last answer back: the item returns to the screen, what was on it moves behind. */
  async undo(): Promise<void> {
    const last = this.done.at(-1);
    if (last === undefined || this.undoLeft === 0) return;
    const t = text().judge;
    try {
      let item = last.item;
      if (!outbox.withdraw(item.assignment)) {
        if (!(await outbox.left(item.assignment))) {
          this.said = t.undo_needs_connection;
          return;
        }
        item = (await post<{ item: Item }>(`assignments/${item.assignment}/undo`)).item;
      }
      this.gone.delete(item.assignment);
      this.done = this.done.slice(0, -1);
      this.answered = Math.max(0, this.answered - 1);
      this.put([{ ...item, draft: item.draft ?? last.draft }, ...this.items]);
      this.said = t.undone;
    } catch (error) {
      this.said = problemOf(error).what;
      if (error instanceof Refused) this.done = this.done.slice(0, -1);
    }
  }

  /** Claim until the desk is full. */
  async fill(): Promise<void> {
    if (this.claiming) {
      this.again = true; // what is being claimed may have been decided before the last answer
      return;
    }
    if (this.items.length > AHEAD || !this.open) return;
    this.claiming = true;
    this.again = false;
    try {
      // what this person holds already comes first, so the whole desk is asked for
      const asked = this.only === "" ? {} : { kinds: [this.only] };
      const claimed = await post<{ items: Item[]; empty: Empty | null }>("queue/claim", { count: 1 + AHEAD, ...asked });
      const here = new Set(this.items.map((item) => item.assignment));
      const fresh = claimed.items.filter(
        ({ assignment, kind }) => !here.has(assignment) && !this.gone.has(assignment) && !outbox.has(assignment) && this.wants(kind),
      );
      fresh.forEach(warmClips);
      if (fresh.length > 0) this.put([...this.items, ...fresh]);
      this.empty = this.items.length === 0 ? claimed.empty : null;
      this.problem = null;
    } catch (error) {
      session.ended(error);
      this.problem = problemOf(error);
    } finally {
      this.claiming = false;
      if (this.again) void this.fill();
    }
  }

  private put(items: Item[]): void {
    const before = this.current?.assignment;
    for (const item of this.items) if (!items.includes(item)) forgetClips(item);
    this.items = items;
    save(sessionStorage, "held", { account: this.owner, items });
    if (this.current?.assignment !== before) this.shown();
  }

  private shown(): void {
    const draft = this.current === null ? null : draftOf(this.current);
    this.form = (draft?.form as Record<string, unknown> | undefined) ?? {};
    this.remarks = (draft?.remarks as Remark[] | undefined) ?? [];
    this.lapsed = false;
    this.clock();
  }

  /** Hold the claims longer, unless nobody is there: then others may have them. */
  private async beat(): Promise<void> {
    if (Date.now() - this.active > IDLE_MS) return;
    for (const item of [...this.items]) {
      try {
        await post(`assignments/${item.assignment}/heartbeat`);
      } catch (error) {
        if (session.ended(error) || !(error instanceof Refused) || error.passing) return;
        // an answer is still taken where the place was given away; anything else cannot be answered any more
        if (item === this.current && error.code === "lease_lost") this.lapsed = true;
        else this.put(this.items.filter((one) => one !== item));
      }
    }
  }

  private acts(): void {
    const back = Date.now() - this.active > IDLE_MS;
    this.active = Date.now();
    if (back) void this.beat().then(() => this.fill());
  }

  private stored(entry: Entry, stored: Stored): void {
    if (entry.action === "submit" && stored.late) this.said = text().judge.late;
    void this.fill(); // after a lost connection there may be room
  }

  /** What was entered is a draft again, for when the item comes back. */
  private refused(entry: Entry): void {
    const at = this.done.find((one) => one.item.assignment === entry.assignment);
    if (at?.draft != null) keepDraft(entry.assignment, at.draft);
    this.done = this.done.filter((one) => one !== at);
  }

  /** Put a refused answer aside; the item comes back, if it may still be answered. */
  discard(entry: Entry): void {
    outbox.discard(entry);
    this.gone.delete(entry.assignment);
    void this.fill();
  }

  private tick(): void {
    this.now = Date.now();
    if (this.done.length > 0 && this.done.every((one) => one.until < this.now)) this.done = [];
  }

  /** The time that an item takes is the time that it can be seen. */
  private clock(): void {
    this.seen = 0;
    this.since = performance.now();
  }
  private visible(): void {
    if (document.hidden) this.seen += performance.now() - this.since;
    else {
      this.since = performance.now();
      void this.beat();
    }
  }
  private elapsed(): number {
    return Math.round(this.seen + (document.hidden ? 0 : performance.now() - this.since));
  }
}

export const desk = new Desk();
