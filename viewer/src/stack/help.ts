/** Knows the help: what keys and gestures do, in a dialog over everything. */

import { h } from '../ui/dom';
import { KEY_HELP, MOUSE_HELP, TOUCH_HELP } from './keys';

export function showHelp(): void {
  const close = h('button', { type: 'button', class: 'button' }, 'Close');
  const dialog = h(
    'dialog',
    { class: 'help', attrs: { 'aria-label': 'Keys and gestures' } },
    h('header', {}, h('h1', {}, 'Keys and gestures'), close),
    h(
      'div',
      { class: 'columns' },
      section('Keys', KEY_HELP),
      h('div', {}, section('Mouse', MOUSE_HELP), section('Touch', TOUCH_HELP)),
    ),
  );
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => dialog.remove());
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
}

function section(title: string, rows: [string, string][]): HTMLElement {
  const lines = rows.flatMap(([keys, action]) => [h('dt', {}, keys), h('dd', {}, action)]);
  return h('section', {}, h('h2', {}, title), h('dl', {}, ...lines));
}
