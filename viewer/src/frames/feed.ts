/**
 * Knows which frames of one instance are here, which are under way and which failed; fetches them
 * ahead of the play head, decodes the nearest, and lets go of the least needed.
 *
 * Two stores under one cap of real memory: encoded frames as they came (small, many) and decoded
 * images in cornerstone's cache (large, few). The screen is only ever given a decoded image, so no
 * stale request can arrive late and paint over a newer one.
 */

import { cache, type Types } from '@cornerstonejs/core';
import { ServerError, type Client } from '../dicom/client';
import type { FramePart } from '../dicom/multipart';
import type { InstancePlace } from '../route';
import { decodeError } from '../dicom/trouble';
import { decodeFrame, release } from './decode';
import { BEHIND, victims, wanted, type Head } from './order';

/** Browsers open six connections a host over HTTP/1.1; more would only queue where we cannot see. */
const FETCHES = 6;
const DECODES = 3;
/** Share of the cap that encoded frames may take. */
const ENCODED_SHARE = 0.25;
const AHEAD_PAUSED = 12;
const DECODED_AHEAD = 8;
const DECODED_AHEAD_PAUSED = 2;
const SECONDS_AHEAD = 8;
const FEWEST_AHEAD = 48;
const TRIES_WHEN_BUSY = 4;

export type FrameState = 'absent' | 'loading' | 'encoded' | 'decoded' | 'failed';

interface Fetch {
  abort: AbortController;
  promise: Promise<FramePart>;
}

export class FrameFeed {
  onChange: () => void = () => undefined;

  private received = 0;
  private fromCache = 0;
  private readonly opened: number;
  private readonly timings = new PerformanceObserver((seen) => this.notFetched(seen));
  private count = 1;
  private rgba = false;
  private rate = 25;
  private started = false;
  private playing = false;
  private closed = false;
  private head: Head = { frame: 1, direction: 1, loop: false };
  private order: number[] = [];
  private readonly pinned = new Set<number>();

  private readonly encoded = new Map<number, FramePart>();
  private readonly encodedCosts = new Map<number, number>();
  private encodedBytes = 0;
  private readonly decodedCosts = new Map<number, number>();
  private decodedBytes = 0;
  private readonly fetching = new Map<number, Fetch>();
  private readonly decoding = new Map<number, Promise<void>>();
  private readonly failures = new Map<number, Error>();

  /** `cap`: bytes of real memory for encoded and decoded frames together. */
  constructor(
    private readonly client: Client,
    private readonly place: InstancePlace,
    private readonly cap: number,
    opened = performance.now(),
  ) {
    this.timings.observe({ type: 'resource', buffered: true });
    this.opened = opened;
  }

  imageId(frame: number): string {
    return `wadors:${this.client.frameUrl(this.place, frame)}`;
  }

  /** Takes over a request that was sent while this very code was still being loaded. */
  adopt(frame: number, sent: Promise<FramePart>): void {
    this.bytes(frame, sent).catch(() => undefined);
  }

  /** From here on frames can be decoded: their metadata is in place. */
  open(count: number, rate: number, rgba: boolean): void {
    this.count = count;
    this.rate = rate;
    this.rgba = rgba;
  }

  /** Reading ahead begins: the first picture is on the screen. */
  start(): void {
    this.started = true;
    this.pump();
  }

  state(frame: number): FrameState {
    if (this.decodedCosts.has(frame)) return 'decoded';
    // It may be here in code and give no picture. It stays failed until another try ends well.
    if (this.failures.has(frame)) return 'failed';
    if (this.encoded.has(frame)) return 'encoded';
    if (this.fetching.has(frame)) return 'loading';
    return 'absent';
  }

  failure(frame: number): Error | undefined {
    return this.failures.get(frame);
  }

  /** Bodies of frame answers that came over the network. */
  get bytesFetched(): number {
    return Math.max(0, this.received - this.fromCache);
  }

  get memory(): { encoded: number; decoded: number; frames: number; decodedFrames: number } {
    const either = new Set([...this.encoded.keys(), ...this.decodedCosts.keys()]);
    return {
      encoded: this.encodedBytes,
      decoded: this.decodedBytes,
      frames: either.size,
      decodedFrames: this.decodedCosts.size,
    };
  }

  /**
   * Where the head is now. Requests that no longer serve it are cancelled. `settled`: it is not
   * being dragged about, so its surroundings are worth fetching too.
   */
  steer(head: Head, playing: boolean, settled: boolean, pinned: Iterable<number>): void {
    this.head = head;
    this.playing = playing;
    this.pinned.clear();
    for (const frame of pinned) this.pinned.add(frame);
    this.order = this.started && settled
      ? wanted(head, this.count, playing ? this.framesAhead() : AHEAD_PAUSED, BEHIND)
      : [head.frame];
    const useful = new Set([...this.order, ...this.pinned]);
    for (const [frame, { abort }] of this.fetching) {
      if (!useful.has(frame)) abort.abort();
    }
    this.pump();
  }

  /** Resolves when the frame can be shown. */
  async ready(frame: number): Promise<void> {
    if (this.decodedCosts.has(frame)) return;
    const part = this.encoded.get(frame) ?? (await this.bytes(frame));
    await this.decode(frame, part);
  }

  close(): void {
    this.closed = true;
    this.timings.disconnect();
    for (const { abort } of this.fetching.values()) abort.abort();
    for (const frame of [...this.decodedCosts.keys()]) this.dropDecoded(frame);
    this.encoded.clear();
    this.encodedCosts.clear();
    this.encodedBytes = 0;
  }

  // -------------------------------------------------------------- reading ahead

  private framesAhead(): number {
    const budget = this.cap * ENCODED_SHARE;
    const mean = this.encodedBytes / Math.max(1, this.encoded.size);
    const fitting = Math.floor((0.8 * budget) / Math.max(1, mean));
    return Math.max(DECODED_AHEAD, Math.min(fitting, Math.max(FEWEST_AHEAD, this.rate * SECONDS_AHEAD)));
  }

  private pump(): void {
    if (this.closed) return;
    for (const frame of this.order) {
      if (this.fetching.size >= FETCHES) break;
      if (this.state(frame) === 'absent') this.bytes(frame).catch(() => undefined);
    }
    const ahead = this.playing ? DECODED_AHEAD : DECODED_AHEAD_PAUSED;
    for (const frame of this.order.slice(0, 1 + Math.min(ahead, this.decodedRoom()))) {
      if (this.decoding.size >= DECODES) break;
      const part = this.encoded.get(frame);
      if (!part || this.decodedCosts.has(frame) || this.decoding.has(frame)) continue;
      if (!this.failures.has(frame)) this.decode(frame, part).catch(() => undefined);
    }
    this.onChange();
  }

  /** How many images of this size may be held: a quarter of them ahead is enough, and never none. */
  private decodedRoom(): number {
    const mean = this.decodedBytes / Math.max(1, this.decodedCosts.size);
    const room = (this.cap * (1 - ENCODED_SHARE)) / Math.max(1, mean);
    return Math.max(1, Math.floor(room / 4));
  }

  // -------------------------------------------------------------- fetching

  private bytes(frame: number, sent?: Promise<FramePart>): Promise<FramePart> {
    const running = this.fetching.get(frame);
    if (running && !running.abort.signal.aborted) return running.promise;
    const abort = new AbortController();
    const promise = this.fetch(frame, abort.signal, sent);
    const entry = { abort, promise };
    this.fetching.set(frame, entry);
    const done = (): void => {
      if (this.fetching.get(frame) === entry) this.fetching.delete(frame);
      this.pump();
    };
    promise.then(done, done);
    return promise;
  }

  private async fetch(frame: number, signal: AbortSignal, sent?: Promise<FramePart>): Promise<FramePart> {
    try {
      const part = await (sent ?? this.fetchPatiently(frame, signal));
      this.received += part.bytes.buffer.byteLength;
      if (!this.closed) this.keepEncoded(frame, part);
      return part;
    } catch (error) {
      if (!signal.aborted) this.failures.set(frame, error as Error);
      throw error;
    }
  }

  /**
   * Only beside the answer, before or after it, does the browser tell that it came out of its own
   * HTTP cache. Of another origin it may not tell; what comes from there counts as fetched.
   */
  private notFetched(seen: PerformanceObserverEntryList): void {
    const frames = this.client.frameUrl(this.place, '');
    for (const entry of seen.getEntries() as PerformanceResourceTiming[]) {
      if (entry.startTime < this.opened || !entry.name.startsWith(frames)) continue;
      // An answer of 304 transfers its headers only.
      if (entry.transferSize < entry.encodedBodySize) this.fromCache += entry.decodedBodySize;
    }
    this.onChange();
  }

  /** 503 means "busy, come back": the server's memory is spoken for just now. */
  private async fetchPatiently(frame: number, signal: AbortSignal): Promise<FramePart> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.client.frame(this.place, frame, signal);
      } catch (error) {
        const busy = error instanceof ServerError && error.status === 503;
        if (!busy || attempt >= TRIES_WHEN_BUSY) throw error;
        await pause(1000 * Math.min(error.retryAfter ?? attempt, 10), signal);
      }
    }
  }

  private keepEncoded(frame: number, part: FramePart): void {
    this.encoded.set(frame, part);
    this.encodedCosts.set(frame, part.bytes.buffer.byteLength);
    this.encodedBytes += part.bytes.buffer.byteLength;
    const budget = this.cap * ENCODED_SHARE;
    for (const victim of this.leastNeeded(this.encodedCosts, this.encodedBytes, budget)) {
      this.encodedBytes -= this.encodedCosts.get(victim) ?? 0;
      this.encodedCosts.delete(victim);
      this.encoded.delete(victim);
    }
  }

  // -------------------------------------------------------------- decoding

  private decode(frame: number, part: FramePart): Promise<void> {
    const running = this.decoding.get(frame);
    if (running) return running;
    const work = decodeFrame(this.imageId(frame), part, this.rgba).then(
      (image) => this.keepDecoded(frame, image),
      (error: unknown) => {
        const failure = decodeError(error);
        this.failures.set(frame, failure);
        throw failure;
      },
    );
    this.decoding.set(frame, work);
    const done = (): void => {
      this.decoding.delete(frame);
      this.pump();
    };
    work.then(done, done);
    return work;
  }

  private keepDecoded(frame: number, image: Types.IImage): void {
    if (this.closed) {
      release(image);
      return;
    }
    const cost = image.sizeInBytes;
    const budget = Math.max(this.cap * (1 - ENCODED_SHARE), cost * 3);
    // Room is made first: the newcomer must not stand beside what it replaces.
    for (const victim of this.leastNeeded(this.decodedCosts, this.decodedBytes + cost, budget)) {
      this.dropDecoded(victim);
    }
    cache.setMaxCacheSize(Math.max(cache.getMaxCacheSize(), budget + cost));
    cache.putImageSync(image.imageId, image);
    this.decodedCosts.set(frame, cost);
    this.failures.delete(frame);
    this.decodedBytes += cost;
  }

  private dropDecoded(frame: number): void {
    const imageId = this.imageId(frame);
    const image = cache.getImage(imageId);
    if (image) {
      cache.removeImageLoadObject(imageId);
      release(image);
    }
    this.decodedBytes -= this.decodedCosts.get(frame) ?? 0;
    this.decodedCosts.delete(frame);
  }

  private leastNeeded(costs: Map<number, number>, used: number, budget: number): number[] {
    return victims(costs, used, budget, this.head, this.count, this.pinned);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    });
  });
}
