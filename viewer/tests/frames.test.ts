import { describe, expect, test } from 'vitest';
import { frameMemory } from '../src/frames/cap';
import { shift, victims, wanted, type Head } from '../src/frames/order';
import { parseRoute, stackHash } from '../src/route';
import { Player } from '../src/stack/player';

const at = (frame: number, more: Partial<Head> = {}): Head => ({ frame, direction: 1, loop: false, ...more });

describe('what to fetch', () => {
  test('the head, then ahead, with a few behind', () => {
    expect(wanted(at(10), 100, 5, 2)).toEqual([10, 11, 9, 12, 8, 13, 14, 15]);
  });

  test('ends are ends, unless the cine loops', () => {
    expect(wanted(at(99), 100, 3, 0)).toEqual([99, 100]);
    expect(wanted(at(99, { loop: true }), 100, 3, 0)).toEqual([99, 100, 1, 2]);
    expect(wanted(at(1), 1, 12, 4)).toEqual([1]);
    expect(wanted(at(1, { loop: true }), 3, 12, 4)).toEqual([1, 2, 3]);
  });

  test('backwards', () => {
    expect(wanted(at(5, { direction: -1 }), 9, 2, 1)).toEqual([5, 4, 6, 3]);
    expect(shift(at(1, { direction: -1, loop: true }), 1, 9)).toBe(9);
  });
});

describe('what to drop', () => {
  const held = (...frames: number[]) => new Map(frames.map((frame) => [frame, 10]));

  test('nothing while it fits', () => {
    expect(victims(held(1, 2), 20, 20, at(1), 9, new Set())).toEqual([]);
  });

  test('the farthest, what lies behind first', () => {
    expect(victims(held(1, 10, 11, 20), 40, 20, at(10), 99, new Set())).toEqual([1, 20]);
  });

  test('in a loop what was passed long ago comes soonest, so the last passed goes', () => {
    const loop = at(50, { loop: true });
    expect(victims(held(10, 40, 49, 50, 51), 50, 40, loop, 100, new Set())).toEqual([40]);
  });

  test('never what is pinned', () => {
    expect(victims(held(1, 2), 20, 5, at(9), 9, new Set([1, 2]))).toEqual([]);
  });
});

describe('play', () => {
  const screenOf = (ready: (frame: number) => boolean) => {
    const screen = {
      at: 1,
      shown: [] as number[],
      painted: () => screen.at,
      asked: () => screen.at,
      canShow: ready,
      show: (frame: number) => {
        screen.shown.push(frame);
        screen.at = frame;
      },
      ended: () => undefined,
    };
    return screen;
  };

  test('every frame, in order, at the pace of the file', () => {
    const screen = screenOf(() => true);
    const player = new Player(4, { rate: 10, source: 'FrameTime' }, screen);
    player.play(0);
    for (let now = 0; now <= 500; now += 10) player.tick(now);
    expect(screen.shown).toEqual([2, 3, 4, 1, 2, 3]);
  });

  test('a frame that failed late has its time all the same', () => {
    const screen = screenOf(() => true);
    const player = new Player(9, { rate: 10, source: 'FrameTime' }, screen);
    player.play(0);
    player.tick(0);
    player.failed(80);
    player.tick(120);
    expect(screen.shown).toEqual([2]);
    player.tick(180);
    expect(screen.shown).toEqual([2, 3]);
  });

  test('waits for a frame that is not there and does not hurry afterwards', () => {
    let there = false;
    const screen = screenOf(() => there);
    const player = new Player(9, { rate: 10, source: 'FrameTime' }, screen);
    player.play(0);
    for (let now = 0; now <= 1000; now += 10) player.tick(now);
    expect([screen.shown, player.waiting]).toEqual([[], true]);
    there = true;
    for (let now = 1010; now <= 1205; now += 10) player.tick(now);
    expect(screen.shown).toEqual([2, 3]);
  });

  test('stops at the end unless it loops', () => {
    const screen = screenOf(() => true);
    const player = new Player(2, { rate: 10, source: 'FrameTime' }, screen);
    player.loop = false;
    player.play(0);
    for (let now = 0; now <= 500; now += 10) player.tick(now);
    expect([screen.shown, player.playing]).toEqual([[2], false]);
  });
});

test('memory for frames', () => {
  const mb = 2 ** 20;
  expect(frameMemory(8, null)).toBe(512 * mb);
  expect(frameMemory(1, null)).toBe(128 * mb);
  expect(frameMemory(undefined, null)).toBe(512 * mb);
  expect(frameMemory(8, '256')).toBe(256 * mb);
  expect(frameMemory(8, 'x')).toBe(512 * mb);
});

test('addresses', () => {
  const place = { study: '1.2', series: '1.2.3', instance: '1.2.3.4' };
  expect(parseRoute(stackHash(place, 7))).toEqual({ page: 'stack', ...place, frame: 7 });
  expect(parseRoute(stackHash(place))).toEqual({ page: 'stack', ...place, frame: 1 });
  expect(parseRoute('#/study/1.2')).toEqual({ page: 'study', study: '1.2' });
  expect(parseRoute('')).toEqual({ page: 'studies' });
  expect(parseRoute('#/study/<script>')).toEqual({ page: 'studies' });
});
