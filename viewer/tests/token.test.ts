import { describe, expect, it } from 'vitest';
import { authorization, splitToken } from '../src/token';

describe('a token behind the #', () => {
  it('is taken out, and the route stays', () => {
    expect(splitToken('#token=mf_a-b')).toEqual({ token: 'mf_a-b', rest: '' });
    expect(splitToken('#/study/1.2?token=t')).toEqual({ token: 't', rest: '#/study/1.2' });
    expect(splitToken('#/study/1.2?token=t&frame=7')).toEqual({ token: 't', rest: '#/study/1.2?frame=7' });
    expect(splitToken('#/study/1.2?frame=7&token=a%2Bb')).toEqual({ token: 'a+b', rest: '#/study/1.2?frame=7' });
    expect(splitToken('#/study/1.2')).toEqual({ rest: '#/study/1.2' });
    expect(splitToken('')).toEqual({ rest: '' });
  });

  it('is shown to our own origin alone', () => {
    const storage = { getItem: () => 't', setItem: () => undefined };
    const here = 'https://images.example.org';
    expect(authorization(`${here}/dicom-web/studies`, here, storage)).toEqual({ Authorization: 'Bearer t' });
    for (const other of ['https://evil.example/', 'http://images.example.org/', 'https://images.example.org.evil.example/'])
      expect(authorization(other, here, storage)).toEqual({});
    expect(authorization(here, here, { ...storage, getItem: () => null })).toEqual({});
  });
});
