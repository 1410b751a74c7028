// One piece of work that a person starts and waits for: whether it runs, what came of it.
import { problemOf } from "./problem";
import { session } from "./session.svelte";
import { text } from "../strings/index.svelte";

export class Work {
  busy = $state(false);
  said = $state("");
  failed = $state("");

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
