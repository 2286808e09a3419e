/** Knows how to make elements: the one place that writes to the DOM by tag name. */

type Child = Node | string | null | undefined | false;

type Props<K extends keyof HTMLElementTagNameMap> = {
  class?: string;
  attrs?: Record<string, string>;
  on?: { [E in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[E]) => void };
} & Partial<Omit<HTMLElementTagNameMap[K], 'style' | 'attributes' | 'children'>>;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props<K> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const { class: className, attrs, on, ...rest } = props;
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attrs ?? {})) element.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on ?? {})) {
    element.addEventListener(name, listener as EventListener);
  }
  Object.assign(element, rest);
  element.append(...children.filter((child): child is Node | string => !!child));
  return element;
}

/** An icon from one SVG path on a 24 x 24 grid; decorative, so hidden from screen readers. */
export function icon(path: string): SVGSVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  svg.classList.add('icon');
  const shape = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  shape.setAttribute('d', path);
  svg.append(shape);
  return svg;
}

export const ICON = {
  play: 'M8 5.5v13l11-6.5z',
  pause: 'M7 5.5h3.5v13H7zM13.5 5.5H17v13h-3.5z',
  first: 'M6 6h2v12H6zM19 6.5v11L9.5 12z',
  last: 'M16 6h2v12h-2zM5 6.5v11l9.5-5.5z',
  previous: 'M15.5 6v12L7 12z',
  next: 'M8.5 6v12l8.5-6z',
  loop: 'M7 7h10v3l4-4-4-4v3H5v6h2V7zm10 10H7v-3l-4 4 4 4v-3h12v-6h-2v4z',
  back: 'M14.5 5.5 16 7l-5 5 5 5-1.5 1.5L8 12z',
  reset: 'M12 5V2L7.5 6 12 10V7a5 5 0 1 1-5 5H5a7 7 0 1 0 7-7z',
  invert: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zm0 2v14a7 7 0 0 1 0-14z',
  window: 'M12 7a5 5 0 1 0 0 10 5 5 0 0 0 0-10zm0 2v6a3 3 0 0 0 0-6zM11 2h2v3h-2zm0 17h2v3h-2zM2 11h3v2H2zm17 0h3v2h-3zM4.2 5.6l1.4-1.4 2.1 2.1-1.4 1.4zm12.1 12.1 1.4-1.4 2.1 2.1-1.4 1.4zM4.2 18.4l2.1-2.1 1.4 1.4-2.1 2.1zM16.3 6.3l2.1-2.1 1.4 1.4-2.1 2.1z',
  images: 'M4 5h4v4H4zm6 1h10v2H10zM4 10h4v4H4zm6 1h10v2H10zM4 15h4v4H4zm6 1h10v2H10z',
  help: 'M12 2.5a9.5 9.5 0 1 0 0 19 9.5 9.5 0 0 0 0-19zm0 2a7.5 7.5 0 1 1 0 15 7.5 7.5 0 0 1 0-15zM11 16h2v2h-2zm1-9.5c-2.1 0-3.6 1.4-3.6 3.3h2c0-.9.7-1.5 1.6-1.5s1.6.6 1.6 1.4c0 .7-.4 1.1-1.2 1.7-.9.6-1.4 1.3-1.4 2.4v.7h2v-.5c0-.6.3-.9 1.1-1.5.9-.6 1.5-1.4 1.5-2.8 0-1.8-1.5-3.2-3.6-3.2z',
  search: 'M10.5 4a6.5 6.5 0 0 1 5.1 10.5l4.5 4.4-1.4 1.4-4.4-4.4A6.5 6.5 0 1 1 10.5 4zm0 2a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9z',
} as const;
