import { describe, expect, it } from 'vitest';
import { isAt, stackHash } from '../src/route';

const PLACE = { study: '1.2', series: '1.2.3', instance: '1.2.3.4' };

describe('the address of an instance', () => {
  it('is known at any frame, and no other is', () => {
    expect(isAt(PLACE, stackHash(PLACE))).toBe(true);
    expect(isAt(PLACE, stackHash(PLACE, 7))).toBe(true);
    for (const hash of ['', '#', '#/', '#/study/1.2', stackHash({ ...PLACE, instance: '1.2.3.45' }, 7)]) {
      expect(isAt(PLACE, hash)).toBe(false);
    }
  });
});
