// One piece of work that a person starts and waits for: whether it runs, what came of it.
import { problemOf } from "./problem";
import { session } from "./session.svelte";
import { text } from "../strings/index.svelte";

export class Work {
  busy = $state(false);
  private saying = $state.raw({ what: "", language: session.language });
  failed = $state("");

  /** What to say of it; gone when the language changes. */
  get said(): string {
    return this.saying.language === session.language ? this.saying.what : "";
  }
  set said(what: string) {
    this.saying = { what, language: session.language };
  }

  /** Do it, and say `done` when it is. Returns whether it went well. */
  async run(work: () => Promise<unknown>, done: string): Promise<boolean> {
    this.busy = true;
    this.said = this.failed = "";
    try {
      await work();
      this.said = done;
      return true;
    } catch (error) {
      session.ended(error);
      const problem = problemOf(error);
      this.failed = text().errors.shown(problem.what, problem.fix);
      return false;
    } finally {
      this.busy = false;
    }
  }
}
