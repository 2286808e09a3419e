/** Knows dates as people type them: a year, a month or a day, with or without hyphens. Pure. */

const TYPED = /^(\d{4})(?:-?(\d{2})(?:-?(\d{2}))?)?$/;

export function isDate(typed: string): boolean {
  return typed !== '' && dateKey(typed, 'first') !== '';
}

/** DA of the first or last day that is meant; empty for what is no date. `2024-02` → `20240229`. */
export function dateKey(typed: string, end: 'first' | 'last'): string {
  const found = TYPED.exec(typed.trim());
  if (!found) return '';
  const year = Number(found[1]);
  const month = Number(found[2] ?? (end === 'first' ? 1 : 12));
  if (month < 1 || month > 12) return '';
  const days = new Date(Date.UTC(year, month, 0)).getUTCDate();
  const day = Number(found[3] ?? (end === 'first' ? 1 : days));
  if (day < 1 || day > days) return '';
  return `${found[1]}${String(month).padStart(2, '0')}${String(day).padStart(2, '0')}`;
}
