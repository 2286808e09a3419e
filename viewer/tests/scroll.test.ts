import { describe, expect, test } from 'vitest';
import { Ratchet, alongTheDrag } from '../src/stack/scroll';

describe('scrolling', () => {
  test('a wheel notch is one frame, however large', () => {
    const wheel = new Ratchet();
    expect([100, 240, -120, 60].map((units) => wheel.notch(units))).toEqual([1, 1, -1, 1]);
  });

  test('small units add up, and turning round starts anew', () => {
    const wheel = new Ratchet();
    expect([20, 20, 20, 20].map((units) => wheel.notch(units))).toEqual([0, 0, 1, 0]);
    expect([-30, -30].map((units) => wheel.notch(units) + 0)).toEqual([0, -1]);
  });

  test('a finger loses nothing of its way', () => {
    const finger = new Ratchet();
    expect([5, 5, 5, 40].map((pixels) => finger.turn(pixels, 10))).toEqual([0, 1, 0, 4]);
  });

  test('the longer axis of a drag counts; few frames take longer ways', () => {
    expect(alongTheDrag(3, -8, 400, 600, 3000)).toEqual({ along: -8, perFrame: 6 });
    expect(alongTheDrag(9, -8, 400, 600, 20)).toEqual({ along: 9, perFrame: 20 });
    expect(alongTheDrag(9, 0, 400, 600, 2).perFrame).toBe(24);
  });
});
