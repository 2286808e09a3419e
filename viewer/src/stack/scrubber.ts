/**
 * Knows how to draw the line of all frames: which are here, which are coming, where the picture is;
 * and turns a drag over it into frame numbers. It decides nothing about loading.
 */

import type { FrameState } from '../frames/feed';
import { h } from '../ui/dom';

const HEIGHT = 30;
const TRACK = { top: 11, height: 8 };

export interface ScrubberSource {
  count: number;
  state(frame: number): FrameState;
  painted(): number | null;
  asked(): number;
}

const RANK: Record<FrameState, number> = { absent: 0, loading: 1, encoded: 2, decoded: 3, failed: 4 };

export class Scrubber {
  readonly element: HTMLDivElement;
  private readonly canvas = h('canvas');
  private readonly context = this.canvas.getContext('2d');
  private readonly resizing = new ResizeObserver(() => this.draw());
  private queued = false;
  private colours: Record<string, string> | undefined;

  constructor(
    private readonly source: ScrubberSource,
    private readonly seek: (frame: number) => void,
  ) {
    this.element = h(
      'div',
      {
        class: 'scrubber',
        tabIndex: 0,
        attrs: {
          role: 'slider',
          'aria-label': 'Frame',
          'aria-valuemin': '1',
          'aria-valuemax': String(source.count),
        },
      },
      this.canvas,
    );
    this.listen();
    this.resizing.observe(this.element);
  }

  /** Draws once before the next screen refresh, however often it is called. */
  refresh(): void {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.draw();
    });
  }

  close(): void {
    this.resizing.disconnect();
  }

  private listen(): void {
    const { element } = this;
    const at = (event: PointerEvent): number => {
      const box = element.getBoundingClientRect();
      const share = (event.clientX - box.left) / Math.max(1, box.width);
      return Math.min(this.source.count, Math.max(1, Math.ceil(share * this.source.count)));
    };
    element.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      element.setPointerCapture(event.pointerId);
      this.seek(at(event));
    });
    element.addEventListener('pointermove', (event) => {
      if (element.hasPointerCapture(event.pointerId)) this.seek(at(event));
    });
  }

  private draw(): void {
    const { context, canvas } = this;
    const width = this.element.clientWidth;
    if (!context || width === 0) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(HEIGHT * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    this.drawTrack(context, width);
    this.drawHeads(context, width);
    const painted = this.source.painted();
    this.element.setAttribute('aria-valuenow', String(painted ?? this.source.asked()));
    this.element.setAttribute('aria-valuetext', `Frame ${painted ?? '–'} of ${this.source.count}`);
  }

  /** Column by column, not frame by frame: 8000 frames may share 300 pixels. */
  private drawTrack(context: CanvasRenderingContext2D, width: number): void {
    const { count } = this.source;
    const colours = this.palette();
    let from = 0;
    let current = this.columnState(0, width, count);
    for (let x = 1; x <= width; x++) {
      const next = x < width ? this.columnState(x, width, count) : undefined;
      if (next === current) continue;
      context.fillStyle = colours[current] ?? '';
      context.fillRect(from, TRACK.top, x - from, TRACK.height);
      from = x;
      if (next) current = next;
    }
  }

  /** What the frames under one column have in common: the least loaded, but trouble shows first. */
  private columnState(x: number, width: number, count: number): FrameState {
    const first = Math.floor((x / width) * count) + 1;
    const last = Math.max(first, Math.floor(((x + 1) / width) * count));
    let least: FrameState = 'failed';
    let loading = false;
    for (let frame = first; frame <= last; frame++) {
      const state = this.source.state(frame);
      if (state === 'failed') return 'failed';
      if (state === 'loading') loading = true;
      if (RANK[state] < RANK[least]) least = state;
    }
    return loading ? 'loading' : least;
  }

  private drawHeads(context: CanvasRenderingContext2D, width: number): void {
    const colours = this.palette();
    const { count } = this.source;
    const painted = this.source.painted();
    const asked = this.source.asked();
    const place = (frame: number): number =>
      count <= 1 ? 1 : Math.min(width - 2, Math.max(1, ((frame - 0.5) / count) * width));
    if (asked !== painted) {
      context.strokeStyle = colours['head'] ?? '';
      context.lineWidth = 1;
      context.strokeRect(place(asked) - 1.5, 5.5, 3, HEIGHT - 11);
    }
    if (painted !== null) {
      context.fillStyle = colours['head'] ?? '';
      context.fillRect(place(painted) - 1.5, 4, 3, HEIGHT - 8);
    }
  }

  private palette(): Record<string, string> {
    if (this.colours) return this.colours;
    const style = getComputedStyle(document.documentElement);
    const read = (name: string): string => style.getPropertyValue(name).trim();
    this.colours = {
      absent: read('--track'),
      loading: read('--track-loading'),
      encoded: read('--track-encoded'),
      decoded: read('--accent'),
      failed: read('--trouble'),
      head: read('--text-strong'),
    };
    return this.colours;
  }
}
