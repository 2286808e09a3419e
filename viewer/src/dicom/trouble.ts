/** Knows how to say in plain words why a frame cannot be shown. Pure. */

import { ServerError } from './client';

/** The server's names for files that are not what they should be. */
const DAMAGE = new Set(['TruncatedError', 'FragmentError', 'OffsetTableError', 'FormatError', 'DecodeError']);

/** A frame that came whole over the network but gives no picture. */
export class DecodeError extends Error {
  constructor(
    readonly kind: 'damaged' | 'unsupported',
    detail: string,
  ) {
    super(detail);
    this.name = 'DecodeError';
  }
}

/** Whatever a decoder threw: only some of it means that the frame may be whole all the same. */
export function decodeError(thrown: unknown): DecodeError {
  if (thrown instanceof DecodeError) return thrown;
  const said = thrown instanceof Error ? thrown.message : String(thrown);
  return new DecodeError(/no decoder|not supported|unsupported|not implemented/i.test(said) ? 'unsupported' : 'damaged', said);
}

/** The sentence for the user, and beneath it in small what the server or the decoder said. */
export function frameTrouble(frame: number, error: Error): { what: string; detail: string } {
  const detail = `Frame ${frame}: ${error.message}`;
  if (error instanceof DecodeError) {
    return error.kind === 'damaged'
      ? { what: 'This frame cannot be shown: its data is damaged', detail }
      : { what: `Not supported by this viewer: ${error.message}`, detail: `Frame ${frame}` };
  }
  if (error instanceof ServerError) {
    if (error.status === 0) return { what: 'This frame cannot be shown: the server cannot be reached', detail: `Frame ${frame}` };
    const why = DAMAGE.has(error.kind)
      ? 'its data is damaged'
      : 'the server cannot send it';
    return { what: `This frame cannot be shown: ${why}`, detail: `${detail} (${error.title})` };
  }
  return { what: 'This frame cannot be shown', detail };
}
