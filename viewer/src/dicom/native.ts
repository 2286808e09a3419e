/**
 * Knows what native frames need before the image loader can read them: 32-bit samples that begin at
 * a multiple of four, and 1-bit samples (PS3.5 8.1.1: the first pixel in the lowest bit) a byte each.
 */

import type { FramePart } from './multipart';
import { DecodeError } from './trouble';

const NATIVE = new Set([
  '1.2.840.10008.1.2',
  '1.2.840.10008.1.2.1',
  '1.2.840.10008.1.2.2',
]);

export interface Shape {
  rows: number;
  columns: number;
  samplesPerPixel: number;
  bitsAllocated: number;
}

export function nativeSamples({ bytes, syntax }: FramePart, shape: Shape): Uint8Array<ArrayBuffer> {
  if (!NATIVE.has(syntax)) return bytes;
  const { bitsAllocated } = shape;
  if (![1, 8, 16, 32].includes(bitsAllocated)) {
    throw new DecodeError('unsupported', `${bitsAllocated} bits a sample`);
  }
  const samples = shape.rows * shape.columns * shape.samplesPerPixel;
  const wanted = Math.ceil((samples * bitsAllocated) / 8);
  if (bytes.length < wanted) {
    throw new DecodeError('damaged', `it has ${bytes.length} bytes, the header asks for ${wanted}.`);
  }
  if (bitsAllocated === 1) return unpacked(bytes, samples);
  // The loader looks at the whole buffer where it finds no alignment: only the samples may be in it.
  return bytes.byteOffset % 4 === 0 || bitsAllocated === 8 ? bytes : bytes.slice(0, wanted);
}

function unpacked(bytes: Uint8Array, samples: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(samples);
  for (let at = 0; at < samples; at++) out[at] = ((bytes[at >> 3] as number) >> (at & 7)) & 1;
  return out;
}
