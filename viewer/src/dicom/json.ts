/**
 * Knows the DICOM JSON Model (PS3.18 F): how to take one value out of it, and how to write
 * dates, times and person names for people. Pure: no network, no page.
 */

export interface Element {
  vr?: string;
  Value?: unknown[];
  BulkDataURI?: string;
  InlineBinary?: string;
}

export type DicomJson = Record<string, Element | undefined>;

/** The tags this viewer reads, by keyword. */
export const TAG = {
  SOPClassUID: '00080016',
  SOPInstanceUID: '00080018',
  StudyDate: '00080020',
  StudyTime: '00080030',
  AccessionNumber: '00080050',
  Modality: '00080060',
  ModalitiesInStudy: '00080061',
  InstitutionName: '00080080',
  StudyDescription: '00081030',
  SeriesDescription: '0008103E',
  RecommendedDisplayFrameRate: '00082144',
  AvailableTransferSyntaxUID: '00083002',
  PatientName: '00100010',
  PatientID: '00100020',
  PatientBirthDate: '00100030',
  PatientSex: '00100040',
  CineRate: '00180040',
  FrameTime: '00181063',
  FrameTimeVector: '00181065',
  StudyInstanceUID: '0020000D',
  SeriesInstanceUID: '0020000E',
  SeriesNumber: '00200011',
  InstanceNumber: '00200013',
  NumberOfStudyRelatedSeries: '00201206',
  NumberOfStudyRelatedInstances: '00201208',
  NumberOfSeriesRelatedInstances: '00201209',
  SamplesPerPixel: '00280002',
  PhotometricInterpretation: '00280004',
  NumberOfFrames: '00280008',
  Rows: '00280010',
  Columns: '00280011',
  BitsAllocated: '00280100',
} as const;

export type Keyword = keyof typeof TAG;

export function values(data: DicomJson, keyword: Keyword): unknown[] {
  return data[TAG[keyword]]?.Value ?? [];
}

/** The first value as text; a person name as its alphabetic group; empty when absent. */
export function text(data: DicomJson, keyword: Keyword): string {
  return asText(values(data, keyword)[0]);
}

export function texts(data: DicomJson, keyword: Keyword): string[] {
  return values(data, keyword).map(asText).filter((one) => one !== '');
}

/** The first value as a number. DS and IS may stand as JSON strings (PS3.18 F.2.3). */
export function number(data: DicomJson, keyword: Keyword): number | undefined {
  return numbers(data, keyword)[0];
}

export function numbers(data: DicomJson, keyword: Keyword): number[] {
  return values(data, keyword)
    .map((value) => (typeof value === 'number' ? value : Number.parseFloat(asText(value))))
    .filter(Number.isFinite);
}

function asText(value: unknown): string {
  if (typeof value === 'string') return value.trim();
  if (typeof value === 'number') return String(value);
  if (value !== null && typeof value === 'object') {
    const name = value as { Alphabetic?: string; Ideographic?: string; Phonetic?: string };
    return (name.Alphabetic ?? name.Ideographic ?? name.Phonetic ?? '').trim();
  }
  return '';
}

/** `Doe^Jane^M^Dr` → `Doe, Jane M, Dr`. */
export function personName(raw: string): string {
  const [family = '', given = '', middle = '', prefix = '', suffix = ''] = raw
    .split('^')
    .map((part) => part.trim());
  const called = [given, middle].filter(Boolean).join(' ');
  return [family, called, prefix, suffix].filter(Boolean).join(', ');
}

/** DA `20261104` → `2026-11-04`; anything else is given back as it stands. */
export function date(raw: string): string {
  const found = /^(\d{4})\.?(\d{2})\.?(\d{2})$/.exec(raw);
  return found ? `${found[1]}-${found[2]}-${found[3]}` : raw;
}

/** TM `093015.25` → `09:30`. */
export function time(raw: string): string {
  const found = /^(\d{2}):?(\d{2})/.exec(raw);
  return found ? `${found[1]}:${found[2]}` : raw;
}

/** Bytes in decimal units, three significant digits: `1.50 GB`. */
export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  let value = count;
  let unit = 'B';
  for (const next of ['kB', 'MB', 'GB', 'TB']) {
    if (value < 999.5) break;
    value /= 1000;
    unit = next;
  }
  return `${value.toPrecision(3)} ${unit}`;
}
