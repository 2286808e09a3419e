/**
 * Knows mouse, pen and fingers over the picture, and what each does:
 * left drag window, right drag zoom, middle or ctrl drag pan, wheel scroll;
 * one finger window, two fingers zoom and pan, double click or tap reset.
 */

export interface Moves {
  window(dx: number, dy: number): void;
  zoom(factor: number, at: [number, number] | undefined): void;
  pan(dx: number, dy: number): void;
  scroll(frames: number): void;
  reset(): void;
}

type Drag = 'window' | 'zoom' | 'pan';

const ZOOM_PER_PIXEL = 1.006;
/** A mouse wheel notch is some 100 units, a touchpad sends many small ones. */
const WHEEL_UNITS_A_FRAME = 60;
const DOUBLE_TAP_MS = 300;
const DOUBLE_TAP_PX = 24;

export function attachGestures(element: HTMLElement, moves: Moves): () => void {
  const gone = new AbortController();
  const { signal } = gone;
  const pointers = new Map<number, { x: number; y: number }>();
  let drag: Drag | undefined;
  let wheel = 0;
  let tap = { at: 0, x: 0, y: 0 };

  const place = (event: PointerEvent): [number, number] => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  element.addEventListener(
    'pointerdown',
    (event) => {
      element.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      drag = dragOf(event);
      if (event.pointerType === 'touch' && pointers.size === 1) tap = doubleTap(event, tap, moves);
      event.preventDefault();
      element.focus({ preventScroll: true });
    },
    { signal },
  );
  element.addEventListener(
    'pointermove',
    (event) => {
      const last = pointers.get(event.pointerId);
      if (!last) return;
      const dx = event.clientX - last.x;
      const dy = event.clientY - last.y;
      if (pointers.size === 2) pinch(event, pointers, element, moves);
      else if (drag === 'window') moves.window(dx, dy);
      else if (drag === 'pan') moves.pan(dx, dy);
      else if (drag === 'zoom') moves.zoom(ZOOM_PER_PIXEL ** -dy, undefined);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    },
    { signal },
  );
  const up = (event: PointerEvent): void => {
    pointers.delete(event.pointerId);
    // The finger that stays after a pinch must not start to change the window.
    drag = undefined;
  };
  element.addEventListener('pointerup', up, { signal });
  element.addEventListener('pointercancel', up, { signal });
  element.addEventListener('contextmenu', (event) => event.preventDefault(), { signal });
  element.addEventListener('dblclick', () => moves.reset(), { signal });
  element.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault();
      if (event.ctrlKey) {
        moves.zoom(1.003 ** -event.deltaY, place(event as unknown as PointerEvent));
        return;
      }
      const units = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * 30 : event.deltaY;
      if (Math.sign(units) !== Math.sign(wheel)) wheel = 0;
      wheel += units;
      const frames = Math.trunc(wheel / WHEEL_UNITS_A_FRAME);
      if (frames === 0) return;
      // A notch is one frame however the system scales it; only small units add up.
      wheel = Math.abs(units) >= WHEEL_UNITS_A_FRAME ? 0 : wheel - frames * WHEEL_UNITS_A_FRAME;
      moves.scroll(Math.sign(frames));
    },
    { signal, passive: false },
  );
  return () => gone.abort();
}

function dragOf(event: PointerEvent): Drag {
  if (event.button === 1 || event.ctrlKey || event.metaKey) return 'pan';
  return event.button === 2 ? 'zoom' : 'window';
}

function doubleTap(event: PointerEvent, last: { at: number; x: number; y: number }, moves: Moves) {
  const near = Math.hypot(event.clientX - last.x, event.clientY - last.y) < DOUBLE_TAP_PX;
  if (near && event.timeStamp - last.at < DOUBLE_TAP_MS) {
    moves.reset();
    return { at: 0, x: 0, y: 0 };
  }
  return { at: event.timeStamp, x: event.clientX, y: event.clientY };
}

function pinch(
  event: PointerEvent,
  pointers: Map<number, { x: number; y: number }>,
  element: HTMLElement,
  moves: Moves,
): void {
  const still = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  const last = pointers.get(event.pointerId);
  if (!still || !last) return;
  const before = Math.hypot(last.x - still.x, last.y - still.y);
  const after = Math.hypot(event.clientX - still.x, event.clientY - still.y);
  const box = element.getBoundingClientRect();
  const middle: [number, number] = [
    (event.clientX + still.x) / 2 - box.left,
    (event.clientY + still.y) / 2 - box.top,
  ];
  if (before > 0 && after > 0) moves.zoom(after / before, middle);
  moves.pan((event.clientX - last.x) / 2, (event.clientY - last.y) / 2);
}
