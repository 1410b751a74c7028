// Which words of two texts differ: the shortest edit script over words (Myers 1986, "An O(ND) difference algorithm and
// its variations", the greedy algorithm of section 4). Left out: moved words, similarity within words.

export interface Run {
  text: string;
  /** Whether the words are in this text alone. */
  own: boolean;
}

const LONGEST_SCRIPT = 1500; // its square is the memory that the way back takes

/** Words, runs of blanks, and single signs; Chinese characters one by one. */
export function words(text: string): string[] {
  return text.match(/\s+|[\p{sc=Han}]|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

/** Both texts as runs of shared and own words, or null where they differ in too much to be worth showing. */
export function difference(left: string, right: string): [Run[], Run[]] | null {
  const a = words(left);
  const b = words(right);
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const inner = script(a.slice(head, a.length - tail), b.slice(head, b.length - tail));
  if (inner === null) return null;
  const same = (n: number): boolean[] => new Array<boolean>(n).fill(false);
  return [
    runs(a, [...same(head), ...inner[0], ...same(tail)]),
    runs(b, [...same(head), ...inner[1], ...same(tail)]),
  ];
}

/** For each word of a and of b, whether the other text lacks it. */
function script(a: string[], b: string[]): [boolean[], boolean[]] | null {
  const far: Map<number, number>[] = [];
  const reach = new Map<number, number>([[1, 0]]);
  const at = (k: number): number => reach.get(k) ?? -1;
  for (let d = 0; d <= a.length + b.length; d += 1) {
    if (d > LONGEST_SCRIPT) return null;
    far.push(new Map(reach));
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && at(k - 1) < at(k + 1)) ? at(k + 1) : at(k - 1) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      reach.set(k, x);
      if (x >= a.length && x - k >= b.length) return wayBack(a.length, b.length, far);
    }
  }
  return null;
}

function wayBack(n: number, m: number, far: Map<number, number>[]): [boolean[], boolean[]] {
  const a = new Array<boolean>(n).fill(false);
  const b = new Array<boolean>(m).fill(false);
  let x = n;
  let y = m;
  for (let d = far.length - 1; d > 0; d -= 1) {
    const at = (k: number): number => far[d]?.get(k) ?? -1;
    const k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const from = down ? k + 1 : k - 1;
    x = at(from);
    y = x - from;
    if (down) b[y] = true;
    else a[x] = true;
  }
  return [a, b];
}

function runs(tokens: string[], own: boolean[]): Run[] {
  const found: Run[] = [];
  tokens.forEach((token, i) => {
    const last = found.at(-1);
    if (last !== undefined && last.own === own[i]) last.text += token;
    else found.push({ text: token, own: own[i] ?? false });
  });
  return found;
}
