/** Knows the help: what keys and gestures do, in a dialog over everything. */

import { h } from '../ui/dom';
import { KEY_HELP, POINTER_HELP } from './keys';

export function showHelp(): void {
  const close = h('button', { type: 'button', class: 'button' }, 'Close');
  const dialog = h(
    'dialog',
    { class: 'help', attrs: { 'aria-label': 'Keys and gestures' } },
    h('h2', {}, 'Keys'),
    list(KEY_HELP),
    h('h2', {}, 'Mouse and touch'),
    list(POINTER_HELP),
    close,
  );
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => dialog.remove());
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
}

function list(rows: [string, string][]): HTMLElement {
  return h('dl', {}, ...rows.flatMap(([keys, action]) => [h('dt', {}, keys), h('dd', {}, action)]));
}
