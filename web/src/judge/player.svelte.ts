// One clock for all clips of an item: play, pause, single frames, speed and loop act on all of them at once.

const SPEEDS = [0.25, 0.5, 1, 2] as const;

export class Player {
  playing = $state(false);
  /** Seconds since the clips' beginning. */
  time = $state(0);
  speed = $state<number>(1);
  loop = $state(true);
  /** Of the longest clip, in seconds; a shorter one stays on its last picture. */
  length = $state(0);
  rate = $state(10);
  failed = $state<string[]>([]);
  private videos = new Map<string, HTMLVideoElement>();
  private wanted = 0;
  private ready = new Set<string>();
  private request = 0;
  private last = 0;

  /** `wanted`: how many clips must be there before any plays. */
  constructor(wanted: number) {
    this.wanted = wanted;
  }

  get frames(): number {
    return Math.max(1, Math.round(this.length * this.rate));
  }
  get frame(): number {
    return Math.min(this.frames - 1, Math.floor(this.time * this.rate + 1e-6));
  }
  get started(): boolean {
    return this.length > 0;
  }

  add(key: string, video: HTMLVideoElement, rate: number): void {
    this.videos.set(key, video);
    this.ready.add(key);
    this.rate = rate;
    if (this.ready.size < this.wanted) return;
    this.length = Math.max(...[...this.videos.values()].map((one) => one.duration));
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (still) this.seek(0);
    else this.play();
  }

  toggle(): void {
    if (this.playing) this.pause();
    else this.play();
  }

  play(): void {
    if (!this.started || this.playing) return;
    if (this.time >= this.length - 1e-3) this.time = 0;
    this.playing = true;
    this.last = performance.now();
    this.follow(true);
    this.request = requestAnimationFrame(() => this.tick());
  }

  pause(): void {
    this.playing = false;
    cancelAnimationFrame(this.request);
    this.seek(this.time);
  }

  step(frames: number): void {
    this.pause();
    this.seek((Math.min(this.frames - 1, Math.max(0, this.frame + frames)) + 0.5) / this.rate);
  }

  seek(time: number): void {
    this.time = Math.min(this.length, Math.max(0, time));
    this.follow(true);
  }

  faster(): void {
    const at = SPEEDS.findIndex((speed) => speed === this.speed);
    this.speed = SPEEDS[(at + 1) % SPEEDS.length] ?? 1;
    this.follow(false);
  }

  stop(): void {
    cancelAnimationFrame(this.request);
    for (const video of this.videos.values()) video.pause();
    this.playing = false;
  }

  private tick(): void {
    const now = performance.now();
    let time = this.time + ((now - this.last) / 1000) * this.speed;
    this.last = now;
    const over = time >= this.length;
    if (over) time = this.loop ? time % this.length : this.length;
    this.time = time;
    if (over && !this.loop) {
      this.pause();
      return;
    }
    this.follow(over);
    this.request = requestAnimationFrame(() => this.tick());
  }

  /** Bring every video to the clock: always when `exactly`, else when it is more than a picture off. */
  private follow(exactly: boolean): void {
    for (const video of this.videos.values()) {
      const end = video.duration - 0.5 / this.rate;
      const target = Math.min(this.time, end);
      if (exactly || Math.abs(video.currentTime - target) > 1.5 / this.rate) video.currentTime = target;
      video.playbackRate = this.speed;
      if (!this.playing || this.time >= end) video.pause();
      // a play that a later pause or seek interrupts rejects, and the next tick plays again
      else if (video.paused) video.play().catch(() => undefined);
    }
  }
}
