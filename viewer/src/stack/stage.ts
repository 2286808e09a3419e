/**
 * Knows one opened instance: puts feed, view, player, scrubber, controls and overlay together.
 *
 * Two numbers rule it: the frame ASKED for and the frame PAINTED. They differ only while a frame is
 * under way or has failed, and the page says so whenever they do.
 */

import type { Client, InstanceFacts } from '../dicom/client';
import { number, type DicomJson } from '../dicom/json';
import { withModality, withPalette } from '../dicom/palette';
import { paceOf, type Pace } from '../dicom/rate';
import type { FrameFeed } from '../frames/feed';
import type { InstancePlace } from '../route';
import { h } from '../ui/dom';
import { showHelp } from './help';
import { attachKeys } from './keys';
import { Overlay } from './overlay';
import { Player } from './player';
import { Scrubber } from './scrubber';
import type { Tools } from './tools';
import { Transport } from './transport';
import { StackView, type Renderer } from './view';

/** A drag asks for a frame on every pixel: only where it lingers is anything fetched. */
const LINGER_MS = 60;
const SETTLED_MS = 120;
const SPINNER_AFTER_MS = 150;

export interface StageOptions {
  client: Client;
  place: InstancePlace;
  feed: FrameFeed;
  metadata: Promise<DicomJson>;
  first: number;
  renderer: Renderer;
  onBack: () => void;
  /** The image `by` further on in the study's list. */
  onImage: (by: 1 | -1) => void;
  onFrame: (frame: number) => void;
}

export class Stage {
  readonly element: HTMLDivElement;
  /** Resolves with the first paint, rejects when there will be none. */
  readonly ready: Promise<void>;

  private readonly picture = h('div', { class: 'picture', attrs: { role: 'img', 'aria-label': 'Image' } });
  private readonly overlay = new Overlay();
  private readonly foot = h('div', { class: 'foot' });
  private readonly gone = new AbortController();
  private readonly cleanups: (() => void)[] = [];
  private view: StackView | undefined;
  private player: Player | undefined;
  private scrubber: Scrubber | undefined;
  private transport: Transport | undefined;
  private tools: Tools | undefined;
  private oneFinger: 'frames' | 'window' = 'frames';
  private pace: Pace | undefined;
  private facts: InstanceFacts | undefined;
  private count = 1;
  private asked_: number;
  private painted_: number | null = null;
  private lastAsk = 0;
  private withheld = false;
  /** The frame asked for, when it has no picture to show. */
  private failed: number | null = null;
  private begun = false;
  /** Whether somebody wants it to play who could not wait until it is open. */
  private eager = false;
  private settled = true;
  private settling: ReturnType<typeof setTimeout> | undefined;
  private lingering: ReturnType<typeof setTimeout> | undefined;
  private spinning: ReturnType<typeof setTimeout> | undefined;
  private settleReady: { resolve: () => void; reject: (error: Error) => void } | undefined;

  constructor(private readonly options: StageOptions) {
    this.asked_ = options.first;
    this.element = h(
      'div',
      { class: 'stage' },
      h('div', { class: 'screen', tabIndex: -1 }, this.picture, this.overlay.element),
      this.foot,
    );
    this.ready = new Promise((resolve, reject) => (this.settleReady = { resolve, reject }));
    this.ready.catch(() => undefined);
  }

  /** Call once the element is in the page: the renderer measures it. */
  async start(): Promise<void> {
    this.spinner();
    this.cleanups.push(attachKeys(this.actions(), () => this.count));
    try {
      await this.open(await this.options.metadata);
    } catch (error) {
      this.openFailed(error as Error);
    }
  }

  // -------------------------------------------------------------- what a test may drive

  /** The frame that can be seen: none while a failure hides the picture before it. */
  painted(): number | null {
    return this.withheld ? null : this.painted_;
  }

  /** The frame whose place is shown: that of a failed one is empty. */
  private shown(): number | null {
    return this.failed ?? this.painted();
  }

  asked(): number {
    return this.asked_;
  }

  goto(frame: number): void {
    if (!this.player) return;
    this.pause();
    this.ask(frame);
  }

  play(): void {
    if (!this.player) this.eager = !this.eager;
    if (!this.player || this.count < 2) return;
    if (!this.player.loop && this.asked_ === this.count) this.ask(1);
    this.player.play(performance.now());
    this.steer();
  }

  pause(): void {
    if (!this.player?.playing) return;
    this.player.pause();
    this.steer();
    this.options.onFrame(this.asked_);
  }

  stats(): { bytesFetched: number; framesCached: number; cacheBytes: number; fps: number } {
    const { frames, encoded, decoded } = this.options.feed.memory;
    return {
      bytesFetched: this.options.feed.bytesFetched,
      framesCached: frames,
      cacheBytes: encoded + decoded,
      fps: this.player?.fps(performance.now()) ?? 0,
    };
  }

  close(): void {
    this.gone.abort();
    clearTimeout(this.lingering);
    clearTimeout(this.settling);
    clearTimeout(this.spinning);
    for (const clean of this.cleanups) clean();
    this.scrubber?.close();
    this.view?.close();
    this.options.feed.close();
  }

  // -------------------------------------------------------------- opening

  private async open(metadata: DicomJson): Promise<void> {
    if (this.gone.signal.aborted) return;
    const { client, feed, renderer } = this.options;
    if (number(metadata, 'Rows') === undefined) throw new Error('It has no pixels to show.');
    this.count = Math.max(1, number(metadata, 'NumberOfFrames') ?? 1);
    this.asked_ = Math.min(this.asked_, this.count);
    const pace = paceOf(metadata, this.count);
    this.pace = pace;
    this.overlay.describe(metadata, pace);
    const view = new StackView(this.picture, renderer);
    this.view = view;
    const prepared = await withPalette(metadata, (uri) => client.bulk(uri, this.gone.signal));
    view.describe(withModality(prepared), Array.from({ length: this.count }, (_, index) => feed.imageId(index + 1)));
    feed.open(this.count, pace.rate, view.usesCpu);
    // While a cine plays its clock refreshes the figures.
    feed.onChange = () => (this.player?.playing ? this.scrubber?.refresh() : this.refresh());
    this.controls(pace);
    view.onPainted = (frame) => this.wasPainted(frame);
    view.onChanged = () => this.refresh();
    feed.steer(this.head(), false, false, [this.asked_]);
    this.refresh();
    this.show(this.asked_);
    if (this.eager) this.play();
  }

  private openFailed(error: Error): void {
    if (this.gone.signal.aborted) return;
    this.stopSpinner();
    this.overlay.fail('This image could not be opened', error, () => location.reload());
    this.settleReady?.reject(error);
  }

  private controls(pace: Pace): void {
    const screen = {
      painted: () => (this.failed === null ? this.painted_ : this.failed),
      asked: () => this.asked_,
      canShow: (frame: number) => this.options.feed.state(frame) === 'decoded' || this.nudge(frame),
      show: (frame: number) => this.ask(frame),
      ended: () => this.steer(),
    };
    this.player = new Player(this.count, pace, screen);
    const actions = this.actions();
    this.transport = new Transport(actions, this.count);
    this.scrubber = new Scrubber(
      {
        count: this.count,
        state: (frame) => this.options.feed.state(frame),
        painted: () => this.shown(),
        asked: () => this.asked_,
      },
      (frame) => this.goto(frame),
    );
    this.foot.replaceChildren(this.count > 1 ? this.scrubber.element : '', this.transport.element);
    this.cleanups.push(this.animate());
  }

  private actions() {
    return {
      togglePlay: () => (this.player?.playing ? this.pause() : this.play()),
      step: (frames: number) => this.goto(this.asked_ + frames),
      goto: (frame: number) => this.goto(frame),
      askFrame: () => this.transport?.askFrame(),
      noSuchFrame: () => {
        this.overlay.say(`This image has ${this.count} ${this.count === 1 ? 'frame' : 'frames'}`);
        this.refresh();
      },
      speed: (factor: number) => {
        if (this.player) this.player.speed = factor;
      },
      toggleLoop: () => {
        if (this.player) this.player.loop = !this.player.loop;
        this.refresh();
      },
      toggleFinger: () => {
        this.oneFinger = this.oneFinger === 'frames' ? 'window' : 'frames';
        this.tools?.oneFinger(this.oneFinger);
        this.refresh();
      },
      invert: () => this.view?.invert(),
      reset: () => this.view?.reset(),
      zoom: (factor: number) => this.view?.zoomBy(factor),
      help: () => showHelp(),
      back: () => this.options.onBack(),
      image: (by: 1 | -1) => this.options.onImage(by),
    };
  }

  /** The player's clock, and the figures that change while nothing else does. */
  private animate(): () => void {
    let handle = 0;
    let shown = 0;
    const loop = (now: number): void => {
      handle = requestAnimationFrame(loop);
      if (!this.player?.playing) return;
      this.player.tick(now);
      if (now - shown > 250) {
        shown = now;
        this.refresh();
      }
    };
    handle = requestAnimationFrame(loop);
    return () => cancelAnimationFrame(handle);
  }

  // -------------------------------------------------------------- asking and painting

  private ask(frame: number): void {
    const target = Math.min(this.count, Math.max(1, Math.round(frame)));
    const now = performance.now();
    const dragging = now - this.lastAsk < LINGER_MS || this.painted_ !== this.asked_;
    this.lastAsk = now;
    this.asked_ = target;
    this.overlay.clearFailure();
    this.failed = null;
    // Until the next picture is there it stays empty: the old one must not flash up.
    if (target === this.painted_) this.withhold(false);
    this.settled = false;
    clearTimeout(this.settling);
    clearTimeout(this.lingering);
    if (this.options.feed.state(target) === 'decoded') this.show(target);
    else if (dragging) this.lingering = setTimeout(() => this.show(target), LINGER_MS);
    else this.show(target);
    this.refresh();
  }

  private show(frame: number): void {
    this.steer();
    if (this.painted_ !== frame) this.spinner();
    else this.stopSpinner();
    this.options.feed.ready(frame).then(
      () => (this.asked_ === frame && !this.gone.signal.aborted ? this.view?.show(frame) : undefined),
    ).catch((error: Error) => this.frameFailed(frame, error));
  }

  private frameFailed(frame: number, error: Error): void {
    if (this.asked_ !== frame || this.gone.signal.aborted || error.name === 'AbortError') return;
    this.stopSpinner();
    this.withhold(true);
    this.failed = frame;
    this.overlay.failFrame(frame, error, () => this.goto(frame));
    this.picture.setAttribute('aria-label', `Frame ${frame} of ${this.count} cannot be shown`);
    this.settleReady?.reject(error);
    this.begin();
    if (this.player?.playing) this.player.failed(performance.now());
    else this.settle(frame);
    this.refresh();
  }

  /** An old picture under a new number would be worse than none. */
  private withhold(hidden: boolean): void {
    this.withheld = hidden;
    this.picture.classList.toggle('withheld', hidden);
  }

  private wasPainted(frame: number): void {
    const first = this.painted_ === null;
    const now = performance.now();
    if (this.failed !== this.asked_ && (frame === this.asked_ || frame !== this.painted_)) this.withhold(false);
    if (this.painted_ !== frame) this.player?.painted(now);
    this.painted_ = frame;
    if (frame === this.asked_) this.stopSpinner();
    if (this.failed === null) this.picture.setAttribute('aria-label', `Frame ${frame} of ${this.count}`);
    this.refresh();
    if (first) this.opened();
    if (this.player?.playing) this.player.tick(now);
    else if (frame === this.asked_ && this.failed === null) this.settle(frame);
  }

  /** The head rests: its surroundings are fetched, and the address says where it is. */
  private settle(frame: number): void {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      this.settled = true;
      this.steer();
      this.options.onFrame(frame);
    }, SETTLED_MS);
  }

  /** What is not needed for the first picture is asked for behind it. */
  private opened(): void {
    this.settleReady?.resolve();
    this.begin();
    void this.handle().catch(() => undefined);
  }

  /** The first frame is settled, for good or ill: the others may be read ahead. */
  private begin(): void {
    if (this.begun) return;
    this.begun = true;
    this.options.feed.start();
    this.steer();
    this.options.client.facts(this.options.place.instance, this.gone.signal).then((facts) => {
      this.facts = facts;
      this.refresh();
    }, () => undefined);
  }

  /** Mouse, wheel and fingers; the keyboard and the controls do without. */
  private async handle(): Promise<void> {
    const { attachTools } = await import('./tools');
    if (this.gone.signal.aborted) return;
    const { step, reset } = this.actions();
    const tools = attachTools(this.picture, this.count, { scroll: step, reset });
    if (this.oneFinger === 'window') tools.oneFinger('window');
    this.tools = tools;
    this.cleanups.push(() => tools.detach());
  }

  /** The frame that play waits for may have failed before: showing it is what tries again. */
  private nudge(frame: number): boolean {
    this.steer();
    return this.options.feed.state(frame) === 'failed';
  }

  private head() {
    return this.player?.head ?? { frame: this.asked_, direction: 1 as const, loop: false };
  }

  /** While a cine runs freely the next frame is always asked for: that is not worth telling. */
  private inStep(): boolean {
    return !!this.player?.playing && !this.player.waiting && this.options.feed.state(this.asked_) === 'decoded';
  }

  private steer(): void {
    const pinned = this.painted_ === null ? [this.asked_] : [this.asked_, this.painted_];
    const playing = this.player?.playing ?? false;
    this.options.feed.steer(this.head(), playing, playing || this.settled, pinned);
    this.scrubber?.refresh();
  }

  private spinner(): void {
    clearTimeout(this.spinning);
    this.spinning = setTimeout(() => this.overlay.wait(this.asked_), SPINNER_AFTER_MS);
  }

  private stopSpinner(): void {
    clearTimeout(this.spinning);
    this.overlay.wait(undefined);
  }

  private refresh(): void {
    const { feed } = this.options;
    this.overlay.read({
      painted: this.shown(),
      asked: this.inStep() ? (this.painted() ?? this.asked_) : this.asked_,
      count: this.count,
      window: this.painted_ === null ? undefined : this.view?.window,
      zoom: this.painted_ === null ? 1 : (this.view?.zoom ?? 1),
      bytesFetched: feed.bytesFetched,
      facts: this.facts,
    });
    this.transport?.show({
      playing: this.player?.playing ?? false,
      waiting: this.player?.waiting ?? false,
      loop: this.player?.loop ?? true,
      inverted: this.view?.isInverted ?? false,
      fingerWindows: this.oneFinger === 'window',
      painted: this.shown(),
      count: this.count,
      fps: this.player?.fps(performance.now()) ?? 0,
      rate: (this.pace?.rate ?? 0) * (this.player?.speed ?? 1),
    });
    this.scrubber?.refresh();
  }
}
