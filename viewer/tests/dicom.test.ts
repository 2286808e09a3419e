import { describe, expect, test } from 'vitest';
import { studyKeys } from '../src/dicom/client';
import { dateKey, isDate } from '../src/dicom/dates';
import { withColourSaid } from '../src/dicom/jpegcolour';
import { bytes, date, number, personName, text, time } from '../src/dicom/json';
import { syntaxOf, unwrapFrame } from '../src/dicom/multipart';
import { entriesOf, withPalette } from '../src/dicom/palette';
import { paceOf } from '../src/dicom/rate';

const utf8 = (value: string) => new TextEncoder().encode(value) as Uint8Array<ArrayBuffer>;

describe('DICOM JSON', () => {
  const data = {
    '00100010': { vr: 'PN', Value: [{ Alphabetic: 'Doe^Jane^M' }] },
    '00181063': { vr: 'DS', Value: ['33.3'] },
    '00280008': { vr: 'IS', Value: [540] },
  };

  test('values, as text and as numbers', () => {
    expect(personName(text(data, 'PatientName'))).toBe('Doe, Jane M');
    expect(number(data, 'FrameTime')).toBe(33.3);
    expect(number(data, 'NumberOfFrames')).toBe(540);
    expect(number(data, 'Rows')).toBeUndefined();
    expect(text(data, 'PatientID')).toBe('');
  });

  test('dates, times, sizes', () => {
    expect(date('20261104')).toBe('2026-11-04');
    expect(date('sometime')).toBe('sometime');
    expect(time('093015.25')).toBe('09:30');
    expect([0, 999, 1000, 999_600, 1_500_000_000].map(bytes)).toEqual(['0 B', '999 B', '1.00 kB', '1.00 MB', '1.50 GB']);
  });
});

describe('pace', () => {
  test('attributes speak in their order', () => {
    const all = {
      '00082144': { Value: ['24'] },
      '00180040': { Value: ['30'] },
      '00181063': { Value: ['20'] },
    };
    expect(paceOf(all, 9)).toEqual({ rate: 24, source: 'RecommendedDisplayFrameRate' });
    expect(paceOf({ '00181063': { Value: ['20'] } }, 9)).toEqual({ rate: 50, source: 'FrameTime' });
    expect(paceOf({}, 9)).toEqual({ rate: 25, source: 'default' });
  });

  test('a zero is not a rate', () => {
    expect(paceOf({ '00180040': { Value: [0] }, '00181063': { Value: [0] } }, 9).source).toBe('default');
  });

  test('a vector gives each frame its own time', () => {
    const pace = paceOf({ '00181065': { Value: [0, 10, 30] } }, 3);
    expect(pace).toEqual({ rate: 50, source: 'FrameTimeVector', durations: [10, 30, 20] });
    expect(paceOf({ '00181065': { Value: [0, 10, 30] } }, 4).source).toBe('default');
  });
});

describe('a frame in its wrapping', () => {
  const type = 'multipart/related; type="application/octet-stream"; boundary=b';
  const part = '--b\r\nContent-Type: image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50\r\n\r\n';

  test('first part, without the line break before the boundary', () => {
    const { bytes: frame, syntax } = unwrapFrame(type, utf8(`${part}--a\r\n-b\r\n--b\r\nmore\r\n--b--`));
    expect(new TextDecoder().decode(frame)).toBe('--a\r\n-b');
    expect(syntax).toBe('1.2.840.10008.1.2.4.50');
  });

  test('a single part is the frame', () => {
    const { bytes: frame, syntax } = unwrapFrame('image/jphc; transfer-syntax=1.2.840.10008.1.2.4.202', utf8('x'));
    expect([frame.length, syntax]).toEqual([1, '1.2.840.10008.1.2.4.202']);
  });

  test('cut short is an error, not a shorter frame', () => {
    expect(() => unwrapFrame(type, utf8(`${part}abc`))).toThrow('cut short');
    expect(() => unwrapFrame(type, utf8('--b'))).toThrow('cut short');
  });

  test('a syntax that nobody names is an error', () => {
    expect(() => syntaxOf('image/x-own')).toThrow('image/x-own');
    expect(syntaxOf('image/jls')).toBe('1.2.840.10008.1.2.4.80');
  });
});

describe('colour of a JPEG', () => {
  const bare = new Uint8Array([0xff, 0xd8, 0xff, 0xdb, 0, 2, 0xff, 0xda, 0, 2]);
  const jfif = new Uint8Array([0xff, 0xd8, 0xff, 0xe0, 0, 2, 0xff, 0xda, 0, 2]);

  test('RGB without a marker is given one', () => {
    const said = withColourSaid(bare, 'RGB');
    expect([...said.subarray(0, 4)]).toEqual([0xff, 0xd8, 0xff, 0xee]);
    expect(said.length).toBe(bare.length + 16);
    expect([...said.subarray(18)]).toEqual([...bare.subarray(2)]);
  });

  test('anything else stays as it is', () => {
    expect(withColourSaid(bare, 'YBR_FULL_422')).toBe(bare);
    expect(withColourSaid(jfif, 'RGB')).toBe(jfif);
  });
});

describe('palette', () => {
  test('words of 16 bits, words of 8, packed bytes', () => {
    expect(entriesOf(new Uint8Array([0, 1, 0, 255]), 2)).toEqual([1, 255]);
    expect(entriesOf(new Uint8Array([1, 0, 255, 0]), 2)).toEqual([1, 255]);
    expect(entriesOf(new Uint8Array([1, 255]), 2)).toEqual([1, 255]);
  });

  test('inline and bulk tables become numbers', async () => {
    const data = {
      '00280004': { Value: ['PALETTE COLOR'] },
      '00281101': { Value: [2, 0, 16] },
      '00281201': { InlineBinary: btoa('\x00\x01\x00\xff') },
      '00281202': { BulkDataURI: 'green' },
    };
    const out = await withPalette(data, async (uri) => {
      expect(uri).toBe('green');
      return new Uint8Array([0, 2, 0, 3]);
    });
    expect(out['00281201']?.Value).toEqual([1, 255]);
    expect(out['00281202']?.Value).toEqual([2, 3]);
  });
});

test('search keys', () => {
  const nothing = { name: '', id: '', from: '', to: '', modality: '' };
  expect(studyKeys(nothing)).toEqual({});
  expect(studyKeys({ ...nothing, name: 'doe, jane', id: '12' })).toEqual({ PatientName: '*doe^jane*', PatientID: '*12*' });
  expect(studyKeys({ ...nothing, name: 'D?e*' })).toEqual({ PatientName: 'D?e*' });
  expect(studyKeys({ ...nothing, from: '2026-11-01' })).toEqual({ StudyDate: '20261101-' });
  expect(studyKeys({ ...nothing, from: '2026-11-01', to: '2026-11-01' })).toEqual({ StudyDate: '20261101' });
});

describe('dates as they are typed', () => {
  test('a day, a month, a year', () => {
    expect(dateKey('2024-02-03', 'first')).toBe('20240203');
    expect(dateKey('20240203', 'last')).toBe('20240203');
    expect([dateKey('2024-02', 'first'), dateKey('2024-02', 'last')]).toEqual(['20240201', '20240229']);
    expect([dateKey('2023', 'first'), dateKey('2023', 'last')]).toEqual(['20230101', '20231231']);
  });

  test('what is no date', () => {
    for (const typed of ['', '202', '2024-1', '2024-13', '2023-02-29', '03/02/2024', '2024-02-03-']) {
      expect(isDate(typed)).toBe(false);
    }
  });
});
