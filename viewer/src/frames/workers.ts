/**
 * Knows two faults of dicom-image-loader 5.14 and keeps them from mattering.
 *
 * First: what goes wrong in its createImage after a worker has answered (a palette that is missing,
 * a picture of no size) rejects nothing: the error surfaces only as an unhandled rejection and the
 * image stays "loading" for ever. So while decodes are under way such an error ends them all, and
 * each is tried once more, one after the other: only the guilty one fails again.
 *
 * Second: the HTJ2K decoder of dicom-image-loader allocates a fresh decoder for every frame and
 * never frees it, so a worker's 2 GB WebAssembly heap is full after some hundreds of frames and
 * every later frame fails.
 *
 * What leaks is about a frame's decoded and encoded size. Once that adds up, new decodes wait
 * until none is under way, and the workers are replaced by fresh ones.
 */

import { getWebWorkerManager } from '@cornerstonejs/core';

const POOL = 'dicomImageLoader';
const LEAK_ALLOWED = 128 * 2 ** 20;
const LEAKY = new Set([
  '1.2.840.10008.1.2.4.201',
  '1.2.840.10008.1.2.4.202',
  '1.2.840.10008.1.2.4.203',
]);

let leaked = 0;
let running = 0;
let drained: (() => void)[] = [];
let replacing: Promise<void> | undefined;
const waiting = new Set<(error: Error) => void>();
/** Errors that ended several decodes at once. */
const shared = new WeakSet<Error>();
let retrying: Promise<unknown> = Promise.resolve();

addEventListener('unhandledrejection', (event) => {
  const error = event.reason instanceof Error ? event.reason : new Error(String(event.reason));
  if (waiting.size === 0 || error.name === 'AbortError') return;
  event.preventDefault();
  if (waiting.size > 1) shared.add(error);
  for (const reject of waiting) reject(error);
});

export async function inFreshWorker<T extends { sizeInBytes: number }>(
  syntax: string,
  encodedBytes: number,
  decode: () => Promise<T>,
): Promise<T> {
  try {
    return await once(syntax, encodedBytes, decode);
  } catch (error) {
    if (!(error instanceof Error && shared.has(error))) throw error;
    const again = retrying.then(() => once(syntax, encodedBytes, decode));
    retrying = again.catch(() => undefined);
    return again;
  }
}

async function once<T extends { sizeInBytes: number }>(
  syntax: string,
  encodedBytes: number,
  decode: () => Promise<T>,
): Promise<T> {
  while (replacing) await replacing;
  if (leaked > LEAK_ALLOWED) {
    replacing = replaceWorkers().finally(() => (replacing = undefined));
    await replacing;
  }
  running++;
  const failure = Promise.withResolvers<never>();
  waiting.add(failure.reject);
  try {
    const image = await Promise.race([decode(), failure.promise]);
    if (LEAKY.has(syntax)) leaked += image.sizeInBytes + encodedBytes;
    return image;
  } finally {
    waiting.delete(failure.reject);
    running--;
    if (running === 0) {
      for (const tell of drained) tell();
      drained = [];
    }
  }
}

/** Decodes in workers that have decoded nothing before. */
export function inNewWorker<T extends { sizeInBytes: number }>(
  syntax: string,
  encodedBytes: number,
  decode: () => Promise<T>,
): Promise<T> {
  leaked = Infinity;
  return inFreshWorker(syntax, encodedBytes, decode);
}

async function replaceWorkers(): Promise<void> {
  if (running > 0) await new Promise<void>((resolve) => drained.push(resolve));
  (getWebWorkerManager() as { terminate(name: string): void }).terminate(POOL);
  leaked = 0;
}
