/** Knows the row of controls under the picture. It shows state and passes on wishes, no more. */

import { h, icon, ICON } from '../ui/dom';

export interface TransportActions {
  togglePlay(): void;
  step(frames: number): void;
  goto(frame: number): void;
  noSuchFrame(): void;
  speed(factor: number): void;
  toggleLoop(): void;
  toggleFinger(): void;
  invert(): void;
  reset(): void;
  help(): void;
}

export interface TransportState {
  playing: boolean;
  waiting: boolean;
  loop: boolean;
  inverted: boolean;
  fingerWindows: boolean;
  painted: number | null;
  count: number;
  fps: number;
  rate: number;
}

const SPEEDS = [0.25, 0.5, 1, 1.5, 2, 4];

export class Transport {
  readonly element: HTMLDivElement;
  private readonly play: HTMLButtonElement;
  private readonly loop: HTMLButtonElement;
  private readonly invert: HTMLButtonElement;
  private readonly finger: HTMLButtonElement;
  private readonly field: HTMLInputElement;
  private readonly total = h('span', { class: 'total' });
  private readonly fps = h('output', { class: 'fps', attrs: { 'aria-label': 'Frames a second, achieved' } });
  private playing: boolean | undefined;

  constructor(actions: TransportActions, count: number) {
    this.play = button('Play (Space)', ICON.play, () => actions.togglePlay(), 'play');
    this.loop = button('Loop', ICON.loop, () => actions.toggleLoop());
    this.invert = button('Invert (I)', ICON.invert, () => actions.invert());
    this.finger = button('One finger changes the window', ICON.window, () => actions.toggleFinger(), 'finger');
    this.field = frameField(actions, count);
    const speed = h(
      'select',
      {
        attrs: { 'aria-label': 'Speed' },
        on: { change: (event) => actions.speed(Number((event.target as HTMLSelectElement).value)) },
      },
      ...SPEEDS.map((one) => h('option', { value: String(one), selected: one === 1 }, `${one}×`)),
    );
    const single = count <= 1;
    for (const one of [this.play, this.loop, speed]) one.disabled = single;
    this.finger.hidden = single;
    this.element = h(
      'div',
      { class: 'transport' },
      h(
        'div',
        { class: 'group' },
        button('First frame (Home)', ICON.first, () => actions.goto(1), 'edge'),
        button('Back one frame (←)', ICON.previous, () => actions.step(-1)),
        this.play,
        button('On one frame (→)', ICON.next, () => actions.step(1)),
        button('Last frame (End)', ICON.last, () => actions.goto(count), 'edge'),
      ),
      h('div', { class: 'group counter' }, this.field, this.total),
      h('div', { class: 'group pace' }, this.fps, speed, this.loop),
      h(
        'div',
        { class: 'group tools' },
        this.finger,
        this.invert,
        button('Reset view (R)', ICON.reset, () => actions.reset()),
        button('Help (?)', ICON.help, () => actions.help(), 'helps'),
      ),
    );
    this.total.textContent = `/ ${count}`;
  }

  /** The frame number becomes a field to type in. */
  askFrame(): void {
    this.field.focus();
    this.field.select();
  }

  show(state: TransportState): void {
    if (this.playing !== state.playing) {
      this.playing = state.playing;
      this.play.replaceChildren(icon(state.playing ? ICON.pause : ICON.play));
      label(this.play, state.playing ? 'Pause (Space)' : 'Play (Space)');
    }
    this.loop.setAttribute('aria-pressed', String(state.loop));
    this.invert.setAttribute('aria-pressed', String(state.inverted));
    this.finger.setAttribute('aria-pressed', String(state.fingerWindows));
    if (document.activeElement !== this.field) {
      const frame = state.painted === null ? '–' : String(state.painted);
      if (this.field.value !== frame) this.field.value = frame;
    }
    const text = state.playing ? `${state.fps.toFixed(1)} fps` : `${trim(state.rate)} fps`;
    if (this.fps.textContent !== text) this.fps.textContent = text;
    this.fps.classList.toggle('late', state.waiting);
    this.fps.title = state.playing
      ? `Painted per second; the file asks for ${trim(state.rate)}`
      : 'Frame rate of playback';
  }
}

function frameField(actions: TransportActions, count: number): HTMLInputElement {
  const field = h('input', {
    class: 'frame-field',
    type: 'text',
    inputMode: 'numeric',
    autocomplete: 'off',
    attrs: { 'aria-label': `Frame number, 1 to ${count}` },
  });
  field.style.width = `calc(${String(count).length}ch + 1.25rem)`;
  field.addEventListener('focus', () => field.select());
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') {
      const frame = Number.parseInt(field.value, 10);
      const typed = field.value.trim();
      field.blur();
      if (frame >= 1 && frame <= count) actions.goto(frame);
      else if (typed !== '') actions.noSuchFrame();
    }
    if (event.key === 'Escape') {
      event.stopPropagation();
      field.blur();
    }
  });
  return field;
}

function button(name: string, path: string, act: () => void, className = ''): HTMLButtonElement {
  const made = h('button', { type: 'button', class: `icon-button ${className}`.trim(), on: { click: act } }, icon(path));
  label(made, name);
  return made;
}

function label(target: HTMLButtonElement, name: string): void {
  target.title = name;
  target.setAttribute('aria-label', name);
}

function trim(rate: number): string {
  return rate.toFixed(1).replace(/\.0$/, '');
}
