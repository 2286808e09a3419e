/**
 * Knows the token that opens the server: brought behind the `#` of an address, which browsers send to nobody, kept as
 * long as the tab is open, and shown to our own origin alone: `?root=` may name another.
 */

const KEY = 'multiframe.token';

interface Storage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** Splits a hash into the token in it, if there is one, and the rest. */
export function splitToken(hash: string): { token?: string; rest: string } {
  const found = /(^#|[?&])token=([^&]*)(&|$)/.exec(hash);
  if (!found) return { rest: hash };
  const [whole, before = '', token = '', after = ''] = found;
  const rest = hash.replace(whole, after === '&' ? before : '');
  return { token: decodeURIComponent(token), rest: rest === '#' ? '' : rest };
}

/** Takes a token out of the address bar, so that it is neither kept in the history nor passed on with the link. */
export function takeToken(place: Location, history: History, storage: Storage): void {
  const { token, rest } = splitToken(place.hash);
  if (token === undefined) return;
  storage.setItem(KEY, token);
  history.replaceState(history.state, '', place.pathname + place.search + rest);
}

/** The header that shows the token to whoever may see it. */
export function authorization(url: string, origin: string, storage: Storage): Record<string, string> {
  const token = storage.getItem(KEY);
  return token && new URL(url).origin === origin ? { Authorization: `Bearer ${token}` } : {};
}
