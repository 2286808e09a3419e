/**
 * Knows in which order frames are wanted and in which order they may be dropped, given where the
 * play head is and which way it goes. Pure; frame numbers are 1-based as in the address.
 */

export interface Head {
  frame: number;
  /** +1 forwards, -1 backwards. */
  direction: 1 | -1;
  /** After the last frame comes the first. */
  loop: boolean;
}

/** Frames kept behind the head, so that a step back is instant. */
export const BEHIND = 4;

/** The head, then frames ahead of it, with a few behind it early on when `around`. */
export function wanted(head: Head, count: number, ahead: number, behind: number): number[] {
  const out = [head.frame];
  const most = Math.min(count - 1, ahead);
  for (let step = 1; step <= Math.max(most, behind); step++) {
    const forward = step <= most ? shift(head, step, count) : undefined;
    const backward = step <= behind ? shift(head, -step, count) : undefined;
    if (forward !== undefined) out.push(forward);
    if (backward !== undefined && out.length < count && !out.includes(backward)) out.push(backward);
  }
  return [...new Set(out)];
}

/** Which frame lies `step` frames on in the head's direction; undefined beyond the end. */
export function shift(head: Head, step: number, count: number): number | undefined {
  const target = head.frame + head.direction * step;
  if (target >= 1 && target <= count) return target;
  if (!head.loop) return undefined;
  return ((((target - 1) % count) + count) % count) + 1;
}

/**
 * How long a frame can be done without: the larger, the sooner it goes. While looping, the frame
 * the head has just left is the one needed last; otherwise the farthest one is.
 */
export function dispensability(frame: number, head: Head, count: number): number {
  const ahead = (frame - head.frame) * head.direction;
  if (!head.loop) return ahead >= 0 ? ahead : -2 * ahead;
  const cyclic = ((ahead % count) + count) % count;
  return count - cyclic <= BEHIND ? 0 : cyclic;
}

/** What must go so that `used` fits into `budget`, most dispensable first; never one of `pinned`. */
export function victims(
  held: Map<number, number>,
  used: number,
  budget: number,
  head: Head,
  count: number,
  pinned: ReadonlySet<number>,
): number[] {
  if (used <= budget) return [];
  const ranked = [...held.keys()]
    .filter((frame) => !pinned.has(frame))
    .sort((a, b) => dispensability(b, head, count) - dispensability(a, head, count));
  const out: number[] = [];
  let left = used;
  for (const frame of ranked) {
    if (left <= budget) break;
    left -= held.get(frame) ?? 0;
    out.push(frame);
  }
  return out;
}
