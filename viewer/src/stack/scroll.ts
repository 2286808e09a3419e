/** Knows how far a wheel or a finger has to go for one frame. Pure. */

/** A mouse wheel notch is some 100 units, a touchpad sends many small ones. */
const WHEEL_UNITS_A_FRAME = 60;
/** Pixels of a finger's way: a long cine is scrolled finely, the scrubber is there for the rest. */
const FINGER_LEAST = 6;
const FINGER_MOST = 24;

/** Adds up small movements until they make a whole frame. */
export class Ratchet {
  private kept = 0;

  rest(): void {
    this.kept = 0;
  }

  /** Whole frames that `way` completes; the rest is kept. */
  turn(way: number, perFrame: number): number {
    if (Math.sign(way) !== Math.sign(this.kept)) this.kept = 0;
    this.kept += way;
    const frames = Math.trunc(this.kept / perFrame);
    this.kept -= frames * perFrame;
    return frames;
  }

  /** A notch is one frame however the system scales it; only small units add up. */
  notch(units: number): number {
    const frames = this.turn(units, WHEEL_UNITS_A_FRAME);
    if (Math.abs(units) >= WHEEL_UNITS_A_FRAME) this.kept = 0;
    return Math.sign(frames);
  }
}

/** Right or down is on, left or up is back; the axis with more of the movement decides. */
export function alongTheDrag(
  dx: number,
  dy: number,
  width: number,
  height: number,
  count: number,
): { along: number; perFrame: number } {
  const across = Math.abs(dx) >= Math.abs(dy);
  const length = across ? width : height;
  const perFrame = Math.min(FINGER_MOST, Math.max(FINGER_LEAST, length / Math.max(1, count)));
  return { along: across ? dx : dy, perFrame };
}
