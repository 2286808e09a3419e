/** Knows what stands in the corners of the picture, and what lies over it: waiting, trouble, help. */

import { ServerError, type InstanceFacts } from '../dicom/client';
import { bytes, date, number, personName, text, time, type DicomJson } from '../dicom/json';
import type { Pace } from '../dicom/rate';
import { frameTrouble } from '../dicom/trouble';
import { h } from '../ui/dom';
import type { Window } from './view';

const SAID_MS = 4000;

export interface Readings {
  painted: number | null;
  asked: number;
  count: number;
  window: Window | undefined;
  zoom: number;
  bytesFetched: number;
  facts: InstanceFacts | undefined;
}

export class Overlay {
  readonly element: HTMLDivElement;
  private readonly patient = h('div', { class: 'corner top left' });
  private readonly study = h('div', { class: 'corner top right' });
  private readonly frame = h('div', { class: 'frame-line' });
  private readonly view = h('div');
  private readonly size = h('div');
  private readonly file = h('div');
  private readonly spinner = h('div', { class: 'spinner', attrs: { role: 'status' }, hidden: true }, h('i'), h('span'));
  private readonly trouble = h('div', { class: 'trouble', attrs: { role: 'alert' }, hidden: true });
  private readonly notice = h('div', { class: 'say', attrs: { role: 'status' }, hidden: true });
  private last = '';
  private hiding: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.element = h(
      'div',
      { class: 'overlay' },
      this.patient,
      this.study,
      h('div', { class: 'corner bottom left' }, this.frame, this.view),
      h('div', { class: 'corner bottom right' }, this.file, this.size),
      this.spinner,
      this.trouble,
      this.notice,
    );
  }

  describe(data: DicomJson, pace: Pace): void {
    const born = [text(data, 'PatientSex'), date(text(data, 'PatientBirthDate'))].filter(Boolean);
    this.patient.replaceChildren(
      line(personName(text(data, 'PatientName')) || 'No name', 'strong'),
      line(text(data, 'PatientID')),
      line(born.join('  ')),
    );
    const when = [date(text(data, 'StudyDate')), time(text(data, 'StudyTime'))].filter(Boolean);
    this.study.replaceChildren(
      line(text(data, 'InstitutionName')),
      line(text(data, 'StudyDescription'), 'strong'),
      line(when.join('  ')),
      line(seriesLine(data)),
      line(text(data, 'SeriesDescription')),
    );
    const said = pace.source === 'default' ? 'rate not given' : 'rate of the file';
    this.file.title = `${pace.rate.toFixed(1)} frames a second: ${said}`;
  }

  /** Cheap to call on every paint: the page is touched only where the text changed. */
  read(readings: Readings): void {
    const { painted, asked, count, window, zoom, facts } = readings;
    const frame = `${painted ?? '–'} / ${count}`;
    const wanted = asked === painted ? '' : `  →  ${asked}`;
    const levels = window ? `W ${round(window.width)}  L ${round(window.centre)}   ` : '';
    const view = `${levels}${Math.round(zoom * 100)} %`;
    const all = [frame, wanted, view, readings.bytesFetched, facts?.size].join('|');
    if (all === this.last) return;
    this.last = all;
    this.frame.textContent = frame + wanted;
    this.view.textContent = view;
    this.size.textContent = fetched(readings.bytesFetched, facts?.size);
    this.file.textContent = facts ? facts.syntax.name : '';
  }

  /** `frame` undefined: nothing is waited for. */
  wait(frame: number | undefined): void {
    this.spinner.hidden = frame === undefined;
    if (frame !== undefined) (this.spinner.lastElementChild as HTMLElement).textContent = `Frame ${frame}`;
  }

  fail(what: string, error: Error, retry: (() => void) | undefined): void {
    this.trouble.hidden = false;
    const title = error instanceof ServerError ? error.title : undefined;
    this.trouble.replaceChildren(
      h('strong', {}, what),
      h('p', {}, error.message),
      title ? h('p', { class: 'code' }, title) : '',
      retry ? h('button', { class: 'button', type: 'button', on: { click: retry } }, 'Try again') : '',
    );
  }

  /** A frame's own trouble: what it means, then in small what was said. */
  failFrame(frame: number, error: Error, retry: () => void): void {
    const { what, detail } = frameTrouble(frame, error);
    this.trouble.hidden = false;
    this.trouble.replaceChildren(
      h('strong', {}, what),
      h('p', { class: 'code' }, detail),
      h('button', { class: 'button', type: 'button', on: { click: retry } }, 'Try again'),
    );
  }

  /** Said for a moment. */
  say(what: string): void {
    clearTimeout(this.hiding);
    this.notice.textContent = what;
    this.notice.hidden = false;
    this.hiding = setTimeout(() => (this.notice.hidden = true), SAID_MS);
  }

  clearFailure(): void {
    this.trouble.hidden = true;
  }
}

function line(content: string, className = ''): HTMLElement {
  return h('div', { class: className }, content);
}

function seriesLine(data: DicomJson): string {
  const series = number(data, 'SeriesNumber');
  const instance = number(data, 'InstanceNumber');
  return [
    text(data, 'Modality'),
    series === undefined ? '' : `Se ${series}`,
    instance === undefined ? '' : `Im ${instance}`,
  ]
    .filter(Boolean)
    .join('  ');
}

function round(value: number): string {
  return Math.abs(value) >= 10 ? String(Math.round(value)) : value.toFixed(1);
}

/** Frame bytes that came over the network: what is fetched twice counts twice. */
function fetched(count: number, size: number | undefined): string {
  return size ? `${bytes(count)} of ${bytes(size)} fetched` : `${bytes(count)} fetched`;
}
