// Clips of the items ahead are fetched whole before they are shown: then every frame can be reached at once. Few at a
// time: one that is yet to be drawn holds its connection, and a browser has six, which answers need as well.
import { here } from "../lib/api";
import type { Clip, Item } from "../lib/types";

/** A clip in memory. `rate`: pictures per second. */
export interface Fetched {
  url: string;
  frames: number;
  rate: number;
}

interface Fetching {
  made: Promise<Fetched>;
  stop: AbortController;
}

const TOGETHER = 2;
const fetched = new Map<string, Fetching>();
const waiting: (() => void)[] = [];
let underWay = 0;

/** The address of the form that this browser plays. */
export function playable(clip: Clip): string {
  const probe = document.createElement("video");
  return probe.canPlayType('video/mp4; codecs="avc1.640028"') === "" ? here(clip.vp9) : here(clip.h264);
}

/** The whole clip, before those of items ahead. Errors: Error where it cannot be had; asking again tries again. */
export function clipOf(clip: Clip): Promise<Fetched> {
  return ask(clip, (go) => waiting.unshift(go));
}

function ask(clip: Clip, queue: (go: () => void) => void): Promise<Fetched> {
  const address = playable(clip);
  let found = fetched.get(address);
  if (found === undefined) {
    const stop = new AbortController();
    found = { made: inTurn(queue, () => fetchWhole(address, here(clip.about), stop.signal)), stop };
    const mine = found;
    found.made.catch(() => fetched.get(address) === mine && fetched.delete(address));
    fetched.set(address, found);
  }
  return found.made;
}

async function inTurn<T>(queue: (go: () => void) => void, work: () => Promise<T>): Promise<T> {
  if (underWay < TOGETHER) underWay += 1;
  else await new Promise<void>(queue);
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next === undefined) underWay -= 1;
    else next();
  }
}

async function fetchWhole(address: string, about: string, signal: AbortSignal): Promise<Fetched> {
  signal.throwIfAborted();
  const blob = await (await answered(address, signal)).blob(); // this draws it, if nobody has asked before
  const { frames, rate } = (await (await answered(about, signal)).json()) as { frames: number; rate: number };
  return { url: URL.createObjectURL(blob), frames, rate };
}

async function answered(address: string, signal: AbortSignal): Promise<Response> {
  const response = await fetch(address, { credentials: "same-origin", signal });
  if (!response.ok) throw new Error(`HTTP ${response.status} for a clip`);
  return response;
}

export function warmClips(item: Item): void {
  // a failure shows where the clip is to be played, which asks again
  for (const { clip } of item.candidates) if (clip !== undefined) ask(clip, (go) => waiting.push(go)).catch(() => undefined);
}

/** Give the memory and the connection back; an item that is undone fetches anew. */
export function forgetClips(item: Item): void {
  for (const { clip } of item.candidates) {
    if (clip === undefined) continue;
    const address = playable(clip);
    const found = fetched.get(address);
    fetched.delete(address);
    found?.stop.abort();
    found?.made.then((made) => URL.revokeObjectURL(made.url), () => undefined);
  }
}
