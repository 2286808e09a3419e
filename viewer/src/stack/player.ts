/**
 * Knows time: when the next frame of a cine is due, and how many were really painted.
 *
 * Every frame is shown, in order. When one is not there yet, or the screen is slower than the file
 * asks, the clock waits: a cine may run late but never jumps. Pure but for the clock it is given.
 */

import type { Pace } from '../dicom/rate';
import { shift, type Head } from '../frames/order';

/** A frame due within half a screen refresh is shown with this one. */
const EARLY_MS = 6;
/** Over how long the achieved rate is measured. */
const MEASURED_MS = 1500;

export interface Screen {
  painted(): number | null;
  asked(): number;
  canShow(frame: number): boolean;
  show(frame: number): void;
  ended(): void;
}

export class Player {
  playing = false;
  loop = true;
  speed = 1;
  /** The next frame is due but not there. */
  waiting = false;
  private due = 0;
  private paints: number[] = [];

  constructor(
    private readonly count: number,
    private readonly pace: Pace,
    private readonly screen: Screen,
  ) {}

  play(now: number): void {
    this.playing = this.count > 1;
    this.due = now;
    this.paints = [];
  }

  pause(): void {
    this.playing = false;
    this.waiting = false;
  }

  get head(): Head {
    return { frame: this.screen.asked(), direction: 1, loop: this.loop && this.playing };
  }

  /** Called on every animation frame and after every paint. */
  tick(now: number): void {
    if (!this.playing || this.screen.painted() !== this.screen.asked()) return;
    const at = this.screen.asked();
    if (now + EARLY_MS < this.due) return;
    const next = shift(this.head, 1, this.count);
    if (next === undefined) {
      this.pause();
      this.screen.ended();
      return;
    }
    this.waiting = !this.screen.canShow(next);
    if (this.waiting) return;
    const stay = this.stay(next);
    // Late by more than a frame: start counting anew, or a burst would follow.
    this.due = now - this.due > this.stay(at) ? now + stay : this.due + stay;
    this.screen.show(next);
  }

  /** The frame due now has no picture: its place is shown for its time all the same. */
  failed(now: number): void {
    this.due = Math.max(this.due, now + this.stay(this.screen.asked()));
  }

  painted(now: number): void {
    this.paints.push(now);
    while (this.paints.length > 2 && now - (this.paints[0] ?? now) > MEASURED_MS) this.paints.shift();
  }

  /** Frames a second that reached the screen, over the last moments. */
  fps(now: number): number {
    const [first] = this.paints;
    const last = this.paints.at(-1);
    if (!this.playing || first === undefined || last === undefined || this.paints.length < 2) return 0;
    if (now - last > MEASURED_MS) return 0;
    return (1000 * (this.paints.length - 1)) / Math.max(1, last - first);
  }

  private stay(frame: number): number {
    const own = this.pace.durations?.[frame - 1] ?? 1000 / this.pace.rate;
    return own / this.speed;
  }
}
