/**
 * Knows how one frame is wrapped in a DICOMweb answer: multipart/related (RFC 2387) or a single
 * part, and how its Transfer Syntax is said (PS3.18 8.7.3). Pure.
 *
 * Only the first part is read: the viewer asks for one frame a request.
 */

export interface FramePart {
  bytes: Uint8Array<ArrayBuffer>;
  syntax: string;
}

/** Media types that name a syntax by themselves (PS3.18 table 8.7.3-5, first of each). */
const SYNTAX_OF_TYPE: Record<string, string> = {
  'image/jpeg': '1.2.840.10008.1.2.4.50',
  'image/dicom-rle': '1.2.840.10008.1.2.5',
  'image/x-dicom-rle': '1.2.840.10008.1.2.5',
  'image/jls': '1.2.840.10008.1.2.4.80',
  'image/jp2': '1.2.840.10008.1.2.4.90',
  'image/jphc': '1.2.840.10008.1.2.4.201',
  'image/jxl': '1.2.840.10008.1.2.4.110',
  'application/octet-stream': '1.2.840.10008.1.2.1',
};

export function unwrapFrame(contentType: string, body: Uint8Array<ArrayBuffer>): FramePart {
  if (!/^\s*multipart\//i.test(contentType)) {
    return { bytes: body, syntax: syntaxOf(contentType) };
  }
  const headersEnd = find(body, '\r\n\r\n', 0);
  if (headersEnd < 0) throw new Error('The answer is cut short: its part has no header block.');
  const lines = ascii(body, 0, headersEnd).split('\r\n');
  const delimiter = lines.find((line) => line.startsWith('--'))?.trimEnd();
  if (!delimiter) throw new Error('The answer is not multipart: it has no boundary line.');
  const start = headersEnd + 4;
  const end = find(body, `\r\n${delimiter}`, start);
  if (end < 0) throw new Error('The answer is cut short: its closing boundary is missing.');
  const header = lines.find((line) => /^content-type:/i.test(line)) ?? '';
  return { bytes: body.subarray(start, end), syntax: syntaxOf(header.slice(13)) };
}

export function syntaxOf(contentType: string): string {
  const [type = '', ...parameters] = contentType.split(';').map((piece) => piece.trim());
  for (const parameter of parameters) {
    const found = /^transfer-syntax\s*=\s*"?([0-9.]+)"?$/i.exec(parameter);
    if (found?.[1]) return found[1];
  }
  const syntax = SYNTAX_OF_TYPE[type.toLowerCase()];
  if (!syntax) throw new Error(`The answer names no known Transfer Syntax: "${contentType.trim()}".`);
  return syntax;
}

function find(body: Uint8Array, wanted: string, from: number): number {
  const first = wanted.charCodeAt(0);
  for (let at = body.indexOf(first, from); at >= 0; at = body.indexOf(first, at + 1)) {
    if (matches(body, wanted, at)) return at;
  }
  return -1;
}

function matches(body: Uint8Array, wanted: string, at: number): boolean {
  if (at + wanted.length > body.length) return false;
  for (let i = 1; i < wanted.length; i++) {
    if (body[at + i] !== wanted.charCodeAt(i)) return false;
  }
  return true;
}

function ascii(body: Uint8Array, from: number, to: number): string {
  let out = '';
  for (let i = from; i < Math.min(to, body.length); i++) out += String.fromCharCode(body[i] ?? 0);
  return out;
}
