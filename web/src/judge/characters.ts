// Text of models is hostile until shown otherwise: characters that cannot be seen, or that turn the reading direction,
// are shown as what they are.

const HIDDEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|[\u{e0000}-\u{e0fff}]/gu;

export interface Piece {
  text: string;
  hidden: boolean;
}

/** Cut a text into what can be seen and names of what cannot (U+202E). */
export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > from) found.push({ text: text.slice(from, match.index), hidden: false });
    const code = match[0].codePointAt(0) ?? 0;
    found.push({ text: `U+${code.toString(16).toUpperCase().padStart(4, "0")}`, hidden: true });
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push({ text: text.slice(from), hidden: false });
  return found;
}

/** The same with one visible sign for each unit of what cannot be seen, so that places in the text stay what they are. */
export function inPlace(text: string): string {
  return text.replace(HIDDEN, (found) => "▯".repeat(found.length));
}

/** Places in JavaScript's units (UTF-16) as places in characters, which the studio counts in. */
export function characters(text: string, units: number): number {
  return Array.from(text.slice(0, units)).length;
}

/** A place in characters as a place in JavaScript's units. */
export function units(text: string, place: number): number {
  return Array.from(text).slice(0, place).join("").length;
}
