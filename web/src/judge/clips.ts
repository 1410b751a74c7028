// Clips of the items ahead are fetched whole before they are shown: then every frame can be reached at once.
import { here } from "../lib/api";
import type { Clip, Item } from "../lib/types";

/** A clip in memory. `rate`: pictures per second. */
export interface Fetched {
  url: string;
  frames: number;
  rate: number;
}

const fetched = new Map<string, Promise<Fetched>>();

/** The address of the form that this browser plays. */
export function playable(clip: Clip): string {
  const probe = document.createElement("video");
  return probe.canPlayType('video/mp4; codecs="avc1.640028"') === "" ? here(clip.vp9) : here(clip.h264);
}

/** The whole clip. Errors: Error where it cannot be had; asking again tries again. */
export function clipOf(clip: Clip): Promise<Fetched> {
  const address = playable(clip);
  let found = fetched.get(address);
  if (found === undefined) {
    found = fetchWhole(address, here(clip.about));
    found.catch(() => fetched.delete(address));
    fetched.set(address, found);
  }
  return found;
}

async function fetchWhole(address: string, about: string): Promise<Fetched> {
  const blob = await (await answered(address)).blob(); // this draws it, if nobody has asked before
  const { frames, rate } = (await (await answered(about)).json()) as { frames: number; rate: number };
  return { url: URL.createObjectURL(blob), frames, rate };
}

async function answered(address: string): Promise<Response> {
  const response = await fetch(address, { credentials: "same-origin" });
  if (!response.ok) throw new Error(`HTTP ${response.status} for a clip`);
  return response;
}

export function warmClips(item: Item): void {
  // a failure shows where the clip is to be played, which asks again
  for (const { clip } of item.candidates) if (clip !== undefined) clipOf(clip).catch(() => undefined);
}

/** Give the memory back; an item that is undone fetches anew. */
export function forgetClips(item: Item): void {
  for (const { clip } of item.candidates) {
    if (clip === undefined) continue;
    const address = playable(clip);
    fetched.get(address)?.then((made) => URL.revokeObjectURL(made.url), () => undefined);
    fetched.delete(address);
  }
}
