/**
 * Knows one study: a rail with its series and instances, and beside it the stack that was chosen.
 * The rail is asked for behind the first picture when an address leads straight to an instance;
 * when it leads to the study only, the first instance that can be seen is opened. On a narrow screen
 * the rail lies over the stack, and a button brings it.
 */

import type { Client } from '../dicom/client';
import { bytes, date, number, personName, text, texts, time, type DicomJson } from '../dicom/json';
import { frameMemory } from '../frames/cap';
import { isAt, stackHash, type InstancePlace } from '../route';
import type { Stage } from '../stack/stage';
import { h, icon, ICON } from '../ui/dom';

/** Syntaxes whose frames share one stream (MPEG-2, H.264, HEVC): there is no frame to ask for. */
const VIDEO = /^1\.2\.840\.10008\.1\.2\.4\.10[0-8](\.\d)?$/;

export interface Opened {
  stage: Stage;
  place: InstancePlace;
}

export class StudyPage {
  readonly element: HTMLElement;
  opened: Opened | undefined;

  private readonly rail = h('nav', { class: 'rail', id: 'rail', attrs: { 'aria-label': 'Images of this study' } });
  private readonly railButton = h(
    'button',
    {
      type: 'button',
      class: 'button rail-button',
      attrs: { 'aria-controls': 'rail', 'aria-expanded': 'false' },
      on: { click: () => this.showRail(!this.element.classList.contains('railed')) },
    },
    icon(ICON.images),
    'Images',
  );
  private readonly main = h('main', { class: 'main' });
  private readonly title = h('div', { class: 'who' });
  private readonly gone = new AbortController();
  private readonly entries = new Map<string, HTMLAnchorElement>();
  private readonly sizes = new IntersectionObserver((seen) => this.seen(seen), { rootMargin: '200px' });
  /** The instance the address names; it may still be on its way. */
  private current: string | undefined;
  private railed = false;
  /** Nothing was chosen: the first image that turns up is opened. */
  private choosing = false;
  private opening = 0;

  constructor(
    private readonly client: Client,
    readonly study: string,
    private readonly options: URLSearchParams,
  ) {
    this.element = h(
      'div',
      { class: 'page study' },
      h(
        'header',
        { class: 'head' },
        h(
          'a',
          { class: 'icon-button back', href: '#/', title: 'Studies (Esc)', attrs: { 'aria-label': 'Studies' } },
          icon(ICON.back),
        ),
        this.title,
        this.railButton,
      ),
      h('div', { class: 'split' }, this.rail, this.main),
    );
  }

  /** No image is named: opens the first. Its code is fetched while the server is asked for its name. */
  async choose(): Promise<void> {
    this.opening++;
    this.closeStage();
    this.current = undefined;
    this.mark();
    this.main.replaceChildren();
    this.choosing = true;
    loadStage().catch(() => undefined);
    if (this.railed) this.openFirst();
    else await this.fillRail();
    if (!this.choosing || this.gone.signal.aborted) return;
    this.main.replaceChildren(h('div', { class: 'notice' }, h('p', {}, 'There is no image to show.')));
    this.showRail(true);
  }

  /** The instance and the wanted frame first; the code that shows them, and the rail, meanwhile. */
  async open(place: InstancePlace, frame: number): Promise<Stage | undefined> {
    this.choosing = false;
    if (this.opened?.place.instance === place.instance && this.opened.stage.painted() !== null) {
      this.opened.stage.goto(frame);
      return this.opened.stage;
    }
    const turn = ++this.opening;
    this.closeStage();
    this.showRail(false);
    this.current = place.instance;
    this.mark();
    this.main.replaceChildren();
    const { signal } = this.gone;
    const asked = performance.now();
    const metadata = this.client.metadata(place, signal);
    const sent = this.client.frame(place, frame, signal);
    metadata.catch(() => undefined);
    sent.catch(() => undefined);
    const [{ Stage }, { FrameFeed }] = await loadStage();
    if (turn !== this.opening || signal.aborted) return undefined;
    const deviceGb = (navigator as { deviceMemory?: number }).deviceMemory;
    const feed = new FrameFeed(this.client, place, frameMemory(deviceGb, this.options.get('cache')), asked);
    feed.adopt(frame, sent);
    const wish = this.options.get('render');
    const stage = new Stage({
      client: this.client,
      place,
      feed,
      metadata,
      first: frame,
      renderer: wish === 'cpu' || wish === 'gpu' ? wish : 'auto',
      onBack: () => (location.hash = '#/'),
      onImage: (by) => this.turn(by),
      onFrame: (shown) => {
        // Who has just gone elsewhere is not taken back by a frame that was still on its way.
        if (isAt(place, location.hash)) history.replaceState(null, '', stackHash(place, shown));
      },
    });
    this.opened = { stage, place };
    this.main.replaceChildren(stage.element);
    void stage.start();
    stage.ready.then(() => this.fillRail(), () => this.fillRail());
    return stage;
  }

  close(): void {
    this.gone.abort();
    this.sizes.disconnect();
    this.closeStage();
  }

  private closeStage(): void {
    this.opened?.stage.close();
    this.opened = undefined;
  }

  /** The address is replaced: "back" leads to the list, not to an address that opens an image anew. */
  private openFirst(): void {
    const [first] = this.entries.values();
    if (!first || !this.choosing) return;
    this.choosing = false;
    location.replace(first.hash);
  }

  /** To the image before or after this one. */
  private turn(by: 1 | -1): void {
    const uids = [...this.entries.keys()];
    const at = uids.indexOf(this.current ?? '');
    const next = this.entries.get(uids[at + by] ?? '');
    if (at < 0 || !next) return;
    next.scrollIntoView({ block: 'nearest' });
    location.replace(next.hash);
  }

  /** Of no effect where there is room for it at all times. */
  private showRail(shown: boolean): void {
    this.element.classList.toggle('railed', shown);
    this.railButton.setAttribute('aria-expanded', String(shown));
  }

  // -------------------------------------------------------------- the rail

  private async fillRail(): Promise<void> {
    if (this.railed) return;
    this.railed = true;
    const { signal } = this.gone;
    try {
      const [about, series] = await Promise.all([
        this.client.study(this.study, signal),
        this.client.series(this.study, signal),
      ]);
      if (about) this.describe(about);
      if (series.length === 0) {
        this.rail.replaceChildren(h('div', { class: 'notice' }, h('strong', {}, 'No images in this study')));
        return;
      }
      const ordered = series.sort((a, b) => (number(a, 'SeriesNumber') ?? 0) - (number(b, 'SeriesNumber') ?? 0));
      for (const one of ordered) await this.addSeries(one, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.railed = false;
      this.rail.append(
        h(
          'div',
          { class: 'notice failed', attrs: { role: 'alert' } },
          h('strong', {}, 'The list of images could not be had'),
          h('p', {}, (error as Error).message),
          h(
            'button',
            {
              type: 'button',
              class: 'button',
              on: {
                click: () => {
                  this.rail.replaceChildren();
                  void this.fillRail();
                },
              },
            },
            'Try again',
          ),
        ),
      );
    }
  }

  private describe(study: DicomJson): void {
    const name = personName(text(study, 'PatientName')) || 'No name';
    const when = [date(text(study, 'StudyDate')), time(text(study, 'StudyTime'))].filter(Boolean).join(' ');
    this.title.replaceChildren(
      h('strong', {}, name),
      h('span', {}, text(study, 'PatientID')),
      h('span', { class: 'wide' }, text(study, 'StudyDescription')),
      h('span', { class: 'wide' }, when),
    );
    document.title = `${name} · multiframe`;
  }

  private async addSeries(series: DicomJson, signal: AbortSignal): Promise<void> {
    const uid = text(series, 'SeriesInstanceUID');
    const instances = await this.client.instances(this.study, uid, signal);
    instances.sort((a, b) => (number(a, 'InstanceNumber') ?? 0) - (number(b, 'InstanceNumber') ?? 0));
    const label = [text(series, 'Modality'), text(series, 'SeriesDescription') || 'No description'];
    this.rail.append(
      h(
        'section',
        {},
        h('h2', {}, h('b', {}, label[0] ?? ''), ` ${label[1]}`),
        ...instances.map((instance) => this.entry(instance, uid)),
      ),
    );
    this.mark();
    this.openFirst();
  }

  private entry(instance: DicomJson, series: string): HTMLElement {
    const uid = text(instance, 'SOPInstanceUID');
    const count = number(instance, 'NumberOfFrames') ?? 1;
    const columns = number(instance, 'Columns');
    const title = `Image ${number(instance, 'InstanceNumber') ?? '–'}`;
    const reason = unviewable(instance);
    if (reason) {
      return h('div', { class: 'entry off' }, h('strong', {}, title), h('span', {}, reason));
    }
    const size = h('span', { class: 'size' });
    const entry = h(
      'a',
      {
        class: 'entry',
        href: stackHash({ study: this.study, series, instance: uid }),
        on: {
          click: (event) => {
            this.showRail(false);
            if (this.current === uid) event.preventDefault();
          },
        },
      },
      h('strong', {}, title),
      h('span', { class: 'frames' }, count === 1 ? '1 frame' : `${count} frames`),
      h('span', {}, columns ? `${columns} × ${number(instance, 'Rows') ?? '?'}` : ''),
      size,
    );
    entry.dataset['instance'] = uid;
    this.entries.set(uid, entry);
    this.sizes.observe(entry);
    return entry;
  }

  /** File sizes are a courtesy of this server and are asked for only where they can be seen. */
  private seen(entries: IntersectionObserverEntry[]): void {
    for (const { isIntersecting, target } of entries) {
      const uid = (target as HTMLElement).dataset['instance'];
      if (!isIntersecting || !uid) continue;
      this.sizes.unobserve(target);
      void this.client.facts(uid, this.gone.signal).then((facts) => {
        const size = target.querySelector('.size');
        if (facts && size) size.textContent = bytes(facts.size);
      });
    }
  }

  private mark(): void {
    for (const [uid, entry] of this.entries) {
      if (uid === this.current) entry.setAttribute('aria-current', 'true');
      else entry.removeAttribute('aria-current');
    }
  }
}

/** All that shows an image, cornerstone included: not needed for the list of studies. */
function loadStage() {
  return Promise.all([import('../stack/stage'), import('../frames/feed')]);
}

/** Why an instance has no frames to look at; undefined when it has. */
function unviewable(instance: DicomJson): string | undefined {
  const syntaxes = texts(instance, 'AvailableTransferSyntaxUID');
  if (syntaxes.some((uid) => VIDEO.test(uid))) return 'Video, not viewable here';
  const pixels = number(instance, 'Rows') !== undefined || number(instance, 'NumberOfFrames') !== undefined;
  return pixels ? undefined : 'No pixels, not viewable';
}
