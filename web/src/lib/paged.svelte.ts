// A list that comes in pages: the first at once, the others on request.
import { get, query } from "./api";
import type { Page } from "./types";

export class Paged<T> {
  items = $state.raw<T[]>([]);
  next = $state.raw<string | number | null>(null);
  error = $state.raw<unknown>(null);
  loading = $state(false);
  loaded = $state(false);
  private asked = 0;

  constructor(
    private path: string,
    private filter: Record<string, string | number | undefined> = {},
    private limit = 50,
  ) {}

  /** Load the first page, perhaps with another filter. */
  async load(filter = this.filter): Promise<void> {
    this.filter = filter;
    await this.page(undefined);
  }

  async more(): Promise<void> {
    if (this.next !== null) await this.page(this.next);
  }

  private async page(after: string | number | undefined): Promise<void> {
    const asked = (this.asked += 1);
    this.loading = true;
    try {
      const page = await get<Page<T>>(`${this.path}${query({ ...this.filter, after, limit: this.limit })}`);
      if (asked !== this.asked) return; // another filter was chosen in the meantime
      this.items = after === undefined ? page.items : [...this.items, ...page.items];
      this.next = page.next;
      this.error = null;
      this.loaded = true;
    } catch (error) {
      this.error = error;
    } finally {
      this.loading = false;
    }
  }
}
