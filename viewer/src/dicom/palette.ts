/**
 * Knows palettes (PS3.3 C.7.9): DICOM JSON gives their tables as inline or bulk binary, the image
 * loader wants numbers. Pure but for the fetch it is given.
 */

import { text, values, type DicomJson } from './json';

const TABLES = ['00281201', '00281202', '00281203'];
const DESCRIPTOR = '00281101';

/** The same metadata with tables as 8-bit numbers; untouched when the image has no palette. */
export async function withPalette(
  metadata: DicomJson,
  fetchBulk: (uri: string) => Promise<Uint8Array>,
): Promise<DicomJson> {
  if (text(metadata, 'PhotometricInterpretation') !== 'PALETTE COLOR') return metadata;
  const said = Number(metadata[DESCRIPTOR]?.Value?.[0] ?? 0);
  const entries = said === 0 ? 65_536 : said;
  const out = { ...metadata };
  for (const tag of TABLES) {
    const table = metadata[tag];
    if (!table || table.Value) continue;
    if (table.InlineBinary !== undefined) out[tag] = { vr: 'OW', Value: entriesOf(fromBase64(table.InlineBinary), entries) };
    else if (table.BulkDataURI) out[tag] = { vr: 'OW', Value: entriesOf(await fetchBulk(table.BulkDataURI), entries) };
  }
  return out;
}

/** Entries are words, or bytes packed two a word; words may hold 16 or, against the rule, 8 bits. */
export function entriesOf(bytes: Uint8Array, entries: number): number[] {
  if (bytes.length < 2 * entries) return [...bytes.subarray(0, entries)];
  const words = Array.from({ length: entries }, (_, at) => (bytes[2 * at] ?? 0) | ((bytes[2 * at + 1] ?? 0) << 8));
  return words.some((word) => word > 255) ? words.map((word) => word >> 8) : words;
}

/** Inline binary is little endian (PS3.18 F.2.7). */
function fromBase64(data: string): Uint8Array {
  return Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
}

/** The loader expects every object to name a modality; what has none is given an empty one. */
export function withModality(metadata: DicomJson): DicomJson {
  return values(metadata, 'Modality').length > 0
    ? metadata
    : { ...metadata, '00080060': { vr: 'CS', Value: [''] } };
}
