/** Knows the list of studies: search, pages, and what it says while there is nothing to list. */

import { type Client, ServerError, type ServerStatus, type StudyQuery } from '../dicom/client';
import { isDate } from '../dicom/dates';
import { date, number, personName, text, texts, time, type DicomJson } from '../dicom/json';
import { studyHash } from '../route';
import { h, icon, ICON } from '../ui/dom';

const PAGE = 50;
const TYPING_MS = 300;
/** While the server still finds files the list is renewed, more slowly the longer it takes. */
const SOONEST_MS = 1500;
const LATEST_MS = 10_000;
const MODALITIES = ['US', 'XA', 'CT', 'MR', 'NM', 'PT', 'RF', 'MG', 'OT', 'SM', 'ES', 'IVUS', 'OP', 'SC'];

const COLUMNS = ['Patient', 'ID', 'Date', 'Description', 'Modality', 'Images'];

/** Kept while the app lives, so that "back" finds the list as it was left. */
const kept = {
  query: { name: '', id: '', from: '', to: '', modality: '' } as StudyQuery,
  offset: 0,
};

export class StudiesPage {
  readonly element: HTMLElement;
  private readonly body = h('tbody');
  private readonly state = h('div', { class: 'notice', attrs: { role: 'status' } });
  private readonly pager = h('nav', { class: 'pager', attrs: { 'aria-label': 'Pages' } });
  private readonly server = h('span', { class: 'server' });
  private readonly gone = new AbortController();
  private search = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private wait = SOONEST_MS;
  private listed = '';

  constructor(private readonly client: Client) {
    this.element = h(
      'div',
      { class: 'page studies' },
      h('header', { class: 'head' }, h('h1', {}, 'multiframe'), this.server),
      this.form(),
      h(
        'main',
        { class: 'list' },
        h(
          'table',
          { attrs: { 'aria-label': 'Studies' } },
          h('thead', {}, h('tr', {}, ...COLUMNS.map((name) => h('th', { scope: 'col' }, name)))),
          this.body,
        ),
        this.state,
      ),
      this.pager,
    );
  }

  start(): void {
    document.title = 'Studies · multiframe';
    void this.load(true);
  }

  close(): void {
    this.gone.abort();
    this.search.abort();
    clearTimeout(this.timer);
  }

  // -------------------------------------------------------------- searching

  private form(): HTMLFormElement {
    const { query } = kept;
    const field = (name: keyof StudyQuery, label: string, type: string, placeholder = '') =>
      h(
        'label',
        { class: `field ${name}` },
        h('span', {}, label),
        h('input', {
          type,
          placeholder,
          value: query[name],
          autocomplete: 'off',
          spellcheck: false,
          ...(type === 'text' ? { inputMode: 'numeric', maxLength: 10 } : {}),
          on: { input: (event) => this.typed(name, event.target as HTMLInputElement) },
        }),
      );
    const modality = h(
      'select',
      { on: { change: () => this.changed('modality', modality.value) } },
      h('option', { value: '' }, 'Any'),
      ...MODALITIES.map((one) => h('option', { value: one, selected: one === query.modality }, one)),
    );
    return h(
      'form',
      { class: 'search', attrs: { role: 'search' }, on: { submit: (event) => event.preventDefault() } },
      field('name', 'Patient name', 'search', 'Family, given'),
      field('id', 'Patient ID', 'search'),
      field('from', 'From', 'text', 'yyyy-mm-dd'),
      field('to', 'To', 'text', 'yyyy-mm-dd'),
      h('label', { class: 'field modality' }, h('span', {}, 'Modality'), modality),
    );
  }

  /** A date that is still being typed is not searched for: it would find nothing, or all. */
  private typed(name: keyof StudyQuery, input: HTMLInputElement): void {
    const value = input.value.trim();
    const unfinished = (name === 'from' || name === 'to') && value !== '' && !isDate(value);
    input.setAttribute('aria-invalid', String(unfinished));
    if (!unfinished && value !== kept.query[name]) this.changed(name, value);
  }

  private changed(name: keyof StudyQuery, value: string): void {
    kept.query[name] = value;
    kept.offset = 0;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.load(true), TYPING_MS);
  }

  private async load(fresh: boolean): Promise<void> {
    clearTimeout(this.timer);
    this.search.abort();
    this.search = new AbortController();
    const { signal } = this.search;
    if (fresh) {
      this.wait = SOONEST_MS;
      this.element.classList.add('busy');
    }
    try {
      // One more than a page shows tells whether there is a next page.
      const [found, status] = await Promise.all([
        this.client.studies(kept.query, kept.offset, PAGE + 1, signal),
        this.client.status(signal),
      ]);
      if (signal.aborted) return;
      this.show(found, status);
      if (status?.scanning) this.again();
    } catch (error) {
      if (!signal.aborted) this.fail(error as Error);
    }
    this.element.classList.remove('busy');
  }

  private again(): void {
    this.timer = setTimeout(() => void this.load(false), this.wait);
    this.wait = Math.min(LATEST_MS, this.wait * 1.4);
  }

  // -------------------------------------------------------------- showing

  private show(found: DicomJson[], status: ServerStatus | undefined): void {
    this.server.textContent = status ? serverLine(status) : '';
    const rows = found.slice(0, PAGE);
    // A list that has not changed is left alone: focus and scroll position stay.
    const now = JSON.stringify(rows);
    if (now !== this.listed) {
      this.listed = now;
      this.body.replaceChildren(...rows.map(row));
    }
    this.pages(found.length > PAGE);
    this.state.className = 'notice';
    this.state.hidden = rows.length > 0;
    if (rows.length > 0) return;
    const [title, hint] = emptiness(status);
    this.state.replaceChildren(h('strong', {}, title), h('p', {}, hint));
  }

  private fail(error: Error): void {
    this.listed = '';
    this.body.replaceChildren();
    this.pager.replaceChildren();
    this.state.hidden = false;
    this.state.className = 'notice failed';
    this.state.replaceChildren(
      h('strong', {}, error instanceof ServerError ? `The search failed: ${error.title}` : 'The search failed'),
      h('p', {}, error.message),
      h('button', { type: 'button', class: 'button', on: { click: () => void this.load(true) } }, 'Try again'),
    );
  }

  private pages(more: boolean): void {
    if (kept.offset === 0 && !more) {
      this.pager.replaceChildren();
      return;
    }
    const turn = (by: number, name: string, path: string, can: boolean) =>
      h(
        'button',
        {
          type: 'button',
          class: 'icon-button',
          disabled: !can,
          title: name,
          attrs: { 'aria-label': name },
          on: {
            click: () => {
              kept.offset = Math.max(0, kept.offset + by);
              void this.load(true);
            },
          },
        },
        icon(path),
      );
    this.pager.replaceChildren(
      turn(-PAGE, 'Earlier page', ICON.previous, kept.offset > 0),
      h('span', {}, `Page ${kept.offset / PAGE + 1}`),
      turn(PAGE, 'Next page', ICON.next, more),
    );
  }
}

function row(study: DicomJson): HTMLTableRowElement {
  const href = studyHash(text(study, 'StudyInstanceUID'));
  const count = number(study, 'NumberOfStudyRelatedInstances');
  const cells: [className: string, content: string][] = [
    ['id', text(study, 'PatientID')],
    ['date', [date(text(study, 'StudyDate')), time(text(study, 'StudyTime'))].filter(Boolean).join('  ')],
    ['description', text(study, 'StudyDescription')],
    ['modality', texts(study, 'ModalitiesInStudy').join(' ')],
  ];
  const images = h('td', { class: 'images' });
  if (count !== undefined) images.append(String(count), h('span', {}, count === 1 ? ' image' : ' images'));
  const line = h(
    'tr',
    {},
    h('td', { class: 'name' }, h('a', { href }, personName(text(study, 'PatientName')) || 'No name')),
    ...cells.map(([className, content]) => h('td', { class: className }, content)),
    images,
  );
  line.addEventListener('click', (event) => {
    if (!(event.target as Element).closest('a') && !getSelection()?.toString()) location.hash = href;
  });
  return line;
}

function emptiness(status: ServerStatus | undefined): [title: string, hint: string] {
  const asked = Object.values(kept.query).some((value) => value !== '');
  const found = status?.found === undefined ? '' : `${status.found} found so far. `;
  if (status?.scanning) return ['Still reading files', `${found}The list fills by itself.`];
  if (asked) return ['No study matches', 'Try fewer letters of the name, or a wider span of dates.'];
  return ['No studies here', 'The server has found no DICOM files in its folders.'];
}

function serverLine({ scanning, found, failed, version }: ServerStatus): string {
  const files = `${found} ${found === 1 ? 'file' : 'files'}`;
  const parts = [
    found === undefined ? '' : scanning ? `reading files: ${found} so far` : files,
    failed ? `${failed} unreadable` : '',
    version,
  ];
  return parts.filter(Boolean).join('  ·  ');
}
