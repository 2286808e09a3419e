/** Knows the keyboard of the stack page: which key does what, and the list shown as help. */

export interface KeyActions {
  togglePlay(): void;
  step(frames: number): void;
  goto(frame: number): void;
  askFrame(): void;
  reset(): void;
  invert(): void;
  zoom(factor: number): void;
  help(): void;
  back(): void;
  image(by: 1 | -1): void;
}

export const KEY_HELP: [keys: string, action: string][] = [
  ['Space', 'Play or pause'],
  ['← →  or  ↑ ↓', 'One frame back or on'],
  ['Shift + ← →', 'Ten frames back or on'],
  ['Home  End', 'First or last frame'],
  ['G', 'Go to frame number'],
  ['[  ]  or  Page ↑ ↓', 'Previous or next image of the study'],
  ['+  −', 'Zoom in or out'],
  ['I', 'Invert'],
  ['R', 'Reset window, zoom and position'],
  ['?', 'This list'],
  ['Esc', 'Back to the studies'],
];

export const MOUSE_HELP: [gesture: string, action: string][] = [
  ['Left drag', 'Window: across for width, up and down for level'],
  ['Right drag', 'Zoom'],
  ['Middle or Ctrl + left drag', 'Pan'],
  ['Wheel', 'One frame back or on'],
  ['Ctrl + wheel', 'Zoom at the pointer'],
  ['Double click', 'Reset'],
];

export const TOUCH_HELP: [gesture: string, action: string][] = [
  ['One finger', 'Frames: right or down is on, left or up is back'],
  ['One finger, sun button on', 'Window; always so where there is a single frame'],
  ['Two fingers', 'Zoom and pan'],
  ['Three fingers', 'Window'],
  ['Double tap', 'Reset'],
];

export function attachKeys(actions: KeyActions, last: () => number): () => void {
  const listener = (event: KeyboardEvent): void => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target instanceof Element && event.target.closest('input, select, dialog')) return;
    // Space and Enter on a focused button press that button.
    if (event.key === ' ' && event.target instanceof HTMLButtonElement) return;
    const act = actionOf(event, actions, last);
    if (!act) return;
    event.preventDefault();
    act();
  };
  window.addEventListener('keydown', listener);
  return () => window.removeEventListener('keydown', listener);
}

function actionOf(event: KeyboardEvent, actions: KeyActions, last: () => number): (() => void) | undefined {
  const step = event.shiftKey ? 10 : 1;
  switch (event.key) {
    case ' ':
      return () => actions.togglePlay();
    case 'ArrowRight':
    case 'ArrowDown':
      return () => actions.step(step);
    case 'ArrowLeft':
    case 'ArrowUp':
      return () => actions.step(-step);
    case '[':
    case 'PageUp':
      return () => actions.image(-1);
    case ']':
    case 'PageDown':
      return () => actions.image(1);
    case 'Home':
      return () => actions.goto(1);
    case 'End':
      return () => actions.goto(last());
    case 'g':
    case 'G':
      return () => actions.askFrame();
    case 'r':
    case 'R':
      return () => actions.reset();
    case 'i':
    case 'I':
      return () => actions.invert();
    case '+':
    case '=':
      return () => actions.zoom(1.25);
    case '-':
      return () => actions.zoom(0.8);
    case '?':
      return () => actions.help();
    case 'Escape':
      return () => actions.back();
    default:
      return undefined;
  }
}
