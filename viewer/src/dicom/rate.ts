/**
 * Knows at which pace a cine is to be played: the file's own attributes, in the order in which
 * PS3.3 C.7.6.5 (Cine Module) lets them speak. Pure.
 */

import { number, numbers, type DicomJson } from './json';

/** When the file is silent. */
export const DEFAULT_RATE = 25;

/** A pace a screen can follow; what lies outside is taken for a slip of the writer's. */
const SLOWEST = 0.1;
const FASTEST = 240;

export interface Pace {
  /** Frames a second, as said by the file or the default. */
  rate: number;
  /** The attribute that said it; `default` when none did. */
  source: 'RecommendedDisplayFrameRate' | 'CineRate' | 'FrameTime' | 'FrameTimeVector' | 'default';
  /** Milliseconds each frame stays, where frames differ; `[i]` is for frame index i. */
  durations?: number[];
}

export function paceOf(metadata: DicomJson, frames: number): Pace {
  for (const source of ['RecommendedDisplayFrameRate', 'CineRate'] as const) {
    const rate = number(metadata, source);
    if (playable(rate)) return { rate, source };
  }
  const frameTime = number(metadata, 'FrameTime');
  if (frameTime !== undefined && playable(1000 / frameTime)) {
    return { rate: 1000 / frameTime, source: 'FrameTime' };
  }
  const durations = durationsOf(numbers(metadata, 'FrameTimeVector'), frames);
  if (durations) {
    const mean = durations.reduce((sum, one) => sum + one, 0) / durations.length;
    if (playable(1000 / mean)) return { rate: 1000 / mean, source: 'FrameTimeVector', durations };
  }
  return { rate: DEFAULT_RATE, source: 'default' };
}

/**
 * Frame Time Vector says for each frame how long after the one before it came; its first value is
 * 0. So frame i stays until increment i + 1, and the last frame as long as the mean of the others.
 */
function durationsOf(increments: number[], frames: number): number[] | undefined {
  if (frames < 2 || increments.length !== frames) return undefined;
  const between = increments.slice(1);
  if (between.some((one) => one < 0)) return undefined;
  const mean = between.reduce((sum, one) => sum + one, 0) / between.length;
  return [...between, mean];
}

function playable(rate: number | undefined): rate is number {
  return rate !== undefined && Number.isFinite(rate) && rate >= SLOWEST && rate <= FASTEST;
}
