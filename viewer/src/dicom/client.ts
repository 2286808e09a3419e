/**
 * Knows the server: where it is, what may be asked of it, and what its refusals say.
 * QIDO-RS and WADO-RS (PS3.18 10), plus the two private answers under /api, which may be missing.
 */

import type { InstancePlace } from '../route';
import { authorization } from '../token';
import { dateKey } from './dates';
import { unwrapFrame, type FramePart } from './multipart';
import { TAG, type DicomJson, type Keyword } from './json';

/** A refusal, with what the server said about it. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    message: string,
    readonly retryAfter: number | undefined,
    /** The server's own name for the trouble. */
    readonly kind = '',
  ) {
    super(message);
    this.name = 'ServerError';
  }
}

export interface StudyQuery {
  name: string;
  id: string;
  from: string;
  to: string;
  modality: string;
}

export interface InstanceFacts {
  size: number;
  frames: number;
  syntax: { uid: string; name: string };
  origin: 'basic' | 'extended' | 'scan' | 'native';
  complete: boolean;
  fragments: number | null;
}

export interface ServerStatus {
  scanning: boolean;
  /** Who may see some studies alone is not told how many files there are. */
  found?: number;
  registered?: number;
  failed?: number;
  version: string;
}

/** Unquoted on purpose: a quoted value would cost a CORS preflight for every single frame. */
const FRAME_ACCEPT = 'multipart/related; type=application/octet-stream; transfer-syntax=*';

const STUDY_FIELDS: Keyword[] = [
  'StudyDescription',
  'ModalitiesInStudy',
  'PatientBirthDate',
  'PatientSex',
  'NumberOfStudyRelatedInstances',
];

export class Client {
  /** Absolute URL of the DICOMweb root, without a slash at its end. */
  readonly root: string;
  private readonly api: string;

  constructor(root: string, base: string) {
    this.root = new URL(root, base).href.replace(/\/+$/, '');
    this.api = new URL('api', `${this.root.replace(/\/[^/]*$/, '')}/`).href;
  }

  studies(query: StudyQuery, offset: number, limit: number, signal: AbortSignal): Promise<DicomJson[]> {
    const wanted = new URLSearchParams({ limit: String(limit), offset: String(offset) });
    wanted.set('includefield', STUDY_FIELDS.map((keyword) => TAG[keyword]).join(','));
    const keys = studyKeys(query);
    for (const [key, value] of Object.entries(keys)) wanted.set(key, value);
    return this.search(`${this.root}/studies?${wanted}`, signal);
  }

  async study(study: string, signal: AbortSignal): Promise<DicomJson | undefined> {
    const wanted = new URLSearchParams({ StudyInstanceUID: study, limit: '1' });
    wanted.set('includefield', STUDY_FIELDS.map((keyword) => TAG[keyword]).join(','));
    return (await this.search(`${this.root}/studies?${wanted}`, signal))[0];
  }

  series(study: string, signal: AbortSignal): Promise<DicomJson[]> {
    return this.search(
      `${this.root}/studies/${study}/series?includefield=${TAG.SeriesDescription}`,
      signal,
    );
  }

  instances(study: string, series: string, signal: AbortSignal): Promise<DicomJson[]> {
    const fields = [TAG.NumberOfFrames, TAG.Rows, TAG.Columns, TAG.AvailableTransferSyntaxUID];
    return this.search(
      `${this.root}/studies/${study}/series/${series}/instances?includefield=${fields.join(',')}`,
      signal,
    );
  }

  async metadata(place: InstancePlace, signal: AbortSignal): Promise<DicomJson> {
    const [found] = await this.search(`${this.instanceUrl(place)}/metadata`, signal);
    if (!found) throw new ServerError(404, 'Not found', 'The server has no metadata for this instance.', undefined);
    return found;
  }

  frameUrl(place: InstancePlace, frame: number | ''): string {
    return `${this.instanceUrl(place)}/frames/${frame}`;
  }

  async frame(place: InstancePlace, frame: number, signal: AbortSignal): Promise<FramePart> {
    const answer = await request(this.frameUrl(place, frame), FRAME_ACCEPT, signal);
    const body = new Uint8Array(await answer.arrayBuffer());
    return unwrapFrame(answer.headers.get('Content-Type') ?? '', body);
  }

  /** Relative addresses are relative to the DICOMweb root's own folder. */
  async bulk(uri: string, signal: AbortSignal): Promise<Uint8Array> {
    const accept = 'multipart/related; type=application/octet-stream';
    const answer = await request(new URL(uri, `${this.root}/`).href, accept, signal);
    const body = new Uint8Array(await answer.arrayBuffer());
    return unwrapFrame(answer.headers.get('Content-Type') ?? '', body).bytes;
  }

  facts(instance: string, signal: AbortSignal): Promise<InstanceFacts | undefined> {
    return this.optional<InstanceFacts>(`${this.api}/instances/${instance}`, signal);
  }

  status(signal: AbortSignal): Promise<ServerStatus | undefined> {
    return this.optional<ServerStatus>(`${this.api}/status`, signal);
  }

  private instanceUrl(place: InstancePlace): string {
    return `${this.root}/studies/${place.study}/series/${place.series}/instances/${place.instance}`;
  }

  /** 204 and `[]` both mean: nothing matches (PS3.18 10.6.3). */
  private async search(url: string, signal: AbortSignal): Promise<DicomJson[]> {
    const answer = await request(url, 'application/dicom+json', signal);
    if (answer.status === 204) return [];
    const body = await answer.text();
    return body === '' ? [] : (JSON.parse(body) as DicomJson[]);
  }

  /** The private answers are a courtesy: any DICOMweb server without them will do. */
  private async optional<T>(url: string, signal: AbortSignal): Promise<T | undefined> {
    try {
      const answer = await request(url, 'application/json', signal);
      return (await answer.json()) as T;
    } catch {
      return undefined;
    }
  }
}

/** Search keys of PS3.18 table 10.6.1-5; names and IDs match anywhere in the value. */
export function studyKeys(query: StudyQuery): Record<string, string> {
  const keys: Record<string, string> = {};
  const name = query.name.trim();
  const id = query.id.trim();
  const from = dateKey(query.from, 'first');
  const to = dateKey(query.to, 'last');
  if (name) keys['PatientName'] = wildcard(name.replace(/\s*,\s*|\s+/g, '^'));
  if (id) keys['PatientID'] = wildcard(id);
  if (from || to) keys['StudyDate'] = from === to ? from : `${from}-${to}`;
  if (query.modality) keys['ModalitiesInStudy'] = query.modality;
  return keys;
}

function wildcard(value: string): string {
  return /[*?]/.test(value) ? value : `*${value}*`;
}

async function request(url: string, accept: string, signal: AbortSignal): Promise<Response> {
  let answer: Response;
  try {
    const headers = { Accept: accept, ...authorization(url, location.origin, sessionStorage) };
    answer = await fetch(url, { headers, signal });
  } catch (cause) {
    if (signal.aborted) throw cause;
    throw new ServerError(0, 'No answer', 'The server cannot be reached.', undefined);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer: Response): Promise<ServerError> {
  const body = await answer.text().catch(() => '');
  const retryAfter = Number.parseFloat(answer.headers.get('Retry-After') ?? '');
  const wait = Number.isFinite(retryAfter) ? retryAfter : undefined;
  const title = `HTTP ${answer.status}${answer.statusText ? ` ${answer.statusText}` : ''}`;
  try {
    const said = JSON.parse(body) as { error?: string; message?: string };
    return new ServerError(answer.status, title, said.message ?? said.error ?? title, wait, said.error);
  } catch {
    return new ServerError(answer.status, title, 'The server gave no reason.', wait);
  }
}
