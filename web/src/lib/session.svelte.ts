// Who is signed in, and what they have set: language, theme, single-key shortcuts.
import { call, get, post, Refused, setCsrf } from "./api";
import { load, names, save } from "./stored";
import { ROLES, type Account, type Language, type Role, type SessionInfo, type Settings, type Theme } from "./types";

class Session {
  info = $state<SessionInfo | null>(null);
  failed = $state<unknown>(null);
  language = $state<Language>(load<Language>(localStorage, "language", browserLanguage()));
  theme = $state<Theme>(load<Theme>(localStorage, "theme", "system"));
  keys = $state<boolean>(load(localStorage, "keys", true));

  get account(): Account | null {
    return this.info?.account ?? null;
  }

  /** Whether the person may do what `role` may. */
  may(role: Role): boolean {
    return this.account !== null && ROLES.indexOf(this.account.role) >= ROLES.indexOf(role);
  }

  async refresh(): Promise<void> {
    try {
      this.take(await get<SessionInfo>("session"));
      this.failed = null;
    } catch (error) {
      this.failed = error;
    }
  }

  async signIn(name: string, password: string): Promise<void> {
    this.take(await post<SessionInfo>("session", { name, password }));
  }

  /** Make an account by a one-time link (`setup`, `invitations/TOKEN`) and sign in. */
  async join(path: string, body: Record<string, string>): Promise<void> {
    this.take(await post<SessionInfo>(path, body));
  }

  async signOut(): Promise<void> {
    this.clear(); // first: once nobody is signed in, the page may be gone before the answer is here
    await call("DELETE", "session");
    this.clear();
    await this.refresh();
  }

  /** Whoever sits down next is not to read what was written here; the studio has it. */
  private clear(): void {
    for (const name of names(localStorage, "draft.")) save(localStorage, name, undefined);
    save(sessionStorage, "held", undefined);
  }

  /** Change settings here at once, and on the account where there is one. */
  async set(change: Settings): Promise<void> {
    this.apply(change);
    if (this.account !== null) await call("PATCH", "account", change);
  }

  /** The studio says that nobody is signed in (any more). */
  ended(error: unknown): boolean {
    const over = error instanceof Refused && error.status === 401;
    if (over && this.info?.account) this.info = { ...this.info, account: null };
    return over;
  }

  private take(info: SessionInfo): void {
    this.info = info;
    setCsrf(info.csrf);
    if (info.account) this.apply(info.account.settings);
  }

  private apply(settings: Settings): void {
    if (settings.language) save(localStorage, "language", (this.language = settings.language));
    if (settings.theme) save(localStorage, "theme", (this.theme = settings.theme));
    if (settings.single_key_shortcuts !== undefined) save(localStorage, "keys", (this.keys = settings.single_key_shortcuts));
    this.show();
  }

  /** Put language and theme on the page. */
  show(): void {
    const root = document.documentElement;
    root.lang = this.language === "zh" ? "zh-Hans" : "en";
    if (this.theme === "system") delete root.dataset.theme;
    else root.dataset.theme = this.theme;
  }
}

function browserLanguage(): Language {
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const session = new Session();
