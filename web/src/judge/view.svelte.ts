// How texts are shown: remembered between items and visits.
import { load, save } from "../lib/stored";

class View {
  plain = $state(load(localStorage, "plain", false));
  difference = $state(false);

  togglePlain(): void {
    this.plain = !this.plain;
    save(localStorage, "plain", this.plain);
  }
  toggleDifference(): void {
    this.difference = !this.difference;
  }
}

export const view = new View();
