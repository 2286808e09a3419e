import { describe, expect, test } from 'vitest';
import { ServerError } from '../src/dicom/client';
import { nativeSamples } from '../src/dicom/native';
import { DecodeError, decodeError, frameTrouble } from '../src/dicom/trouble';

const shape = (bitsAllocated: number, columns = 3) => ({ rows: 1, columns, samplesPerPixel: 1, bitsAllocated });
const LITTLE = '1.2.840.10008.1.2.1';

describe('native samples', () => {
  test('32 bits begin at a multiple of four', () => {
    const bytes = new Uint8Array(32).subarray(5, 17);
    bytes[0] = 7;
    const out = nativeSamples({ bytes, syntax: LITTLE }, shape(32));
    expect([out.byteOffset, out.length, out[0]]).toEqual([0, 12, 7]);
  });

  test('one bit: the first pixel is the lowest', () => {
    const bytes = new Uint8Array([0b1000_0001, 0b10]);
    expect([...nativeSamples({ bytes, syntax: LITTLE }, shape(1, 10))]).toEqual([1, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
  });

  test('what is too short or unknown is said', () => {
    expect(() => nativeSamples({ bytes: new Uint8Array(2), syntax: LITTLE }, shape(8))).toThrow(DecodeError);
    expect(() => nativeSamples({ bytes: new Uint8Array(99), syntax: LITTLE }, shape(64))).toThrow('64 bits');
  });
});

describe('trouble', () => {
  test('a decoder that fails means damaged data, whatever it says', () => {
    const told = frameTrouble(3, decodeError(new RangeError('start offset of Uint32Array')));
    expect(told.what).toBe('This frame cannot be shown: its data is damaged');
    expect(told.detail).toContain('Uint32Array');
    expect(frameTrouble(3, decodeError('No decoder for x')).what).toMatch(/^Not supported by this viewer: /);
  });

  test('the server says why', () => {
    const cut = new ServerError(500, 'HTTP 500', 'the file ends', undefined, 'TruncatedError');
    expect(frameTrouble(3, cut).what).toContain('damaged');
    const away = new ServerError(0, 'No answer', 'The server cannot be reached.', undefined);
    expect(frameTrouble(3, away).what).toContain('cannot be reached');
  });
});
