// Keys of the judge's page. The legend on the screen and the handler read the same bindings.
import { untrack } from "svelte";
import { session } from "../lib/session.svelte";

export interface Binding {
  /** As in `nameOf`: "1", "q", "Space", "ArrowLeft"; the first is shown. */
  keys: string[];
  label: string;
  run: () => void;
  /** Whether holding the key down repeats it; answers must not. */
  repeats?: boolean;
  /** How the legend writes the key where one entry stands for several; "" leaves this one out. */
  legend?: string;
}

class Keyboard {
  layers = $state.raw<Record<string, Binding[]>>({});

  get all(): Binding[] {
    return Object.values(this.layers).flat();
  }

  /** Set what a part of the page binds; the returned function takes it back. */
  set(layer: string, bindings: Binding[]): () => void {
    // untracked: the effect that binds must not run again because it has bound
    untrack(() => (this.layers = { ...this.layers, [layer]: bindings }));
    return () => untrack(() => (this.layers = Object.fromEntries(Object.entries(this.layers).filter(([name]) => name !== layer))));
  }

  handle(event: KeyboardEvent): void {
    if (!session.keys || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const name = nameOf(event);
    if (document.querySelector("dialog[open]") !== null || taken(event.target, name)) return;
    const binding = this.all.find((one) => one.keys.includes(name));
    if (binding === undefined) return;
    event.preventDefault();
    if (!event.repeat || binding.repeats) binding.run();
  }
}

/** Digits by place (some layouts need Shift for them); letters by what they say, or by place under an input method. */
export function nameOf(event: KeyboardEvent): string {
  const place = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  if (place?.[1] !== undefined) return place[1];
  if (event.code === "Space") return "Space";
  if (/^[a-z]$/i.test(event.key)) return event.key.toLowerCase();
  if (event.key === "Process" && event.code.startsWith("Key")) return event.code.slice(3).toLowerCase();
  return event.key;
}

/** Whether what has the focus needs the key itself. */
function taken(target: EventTarget | null, name: string): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.isContentEditable || target.matches("textarea, select")) return true;
  if (target.matches("input")) return !["radio", "checkbox"].includes((target as HTMLInputElement).type) || /^(Arrow|Space)/.test(name);
  return (name === "Space" || name === "Enter") && target.closest("button, a, summary, [role=option]") !== null;
}

export const keyboard = new Keyboard();

/** How a key is written on the screen. */
export function keyLabel(name: string): string {
  const signs: Record<string, string> = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "␣", Enter: "⏎" };
  return signs[name] ?? name.toUpperCase();
}
