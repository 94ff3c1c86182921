/** Events that come as long as they come. */
import { connectionFailed, sleep } from './client.js';
import { ConnectionFailed } from './errors.js';
import type { Events } from './events.js';
import { delay } from './retry.js';

type Reader = ReadableStreamDefaultReader<Uint8Array>;

export interface StreamOptions {
  signal?: AbortSignal | undefined;
  /** How often in a row a broken connection is made anew, where that loses nothing. */
  retries?: number;
}

/**
 * Events, one after the other, for `for await`. It connects by `connect`, or when it is first asked for one, and lets go of its
 * connection after the last, when the loop is left, or by `close`.
 */
export class EventStream<E> implements AsyncIterableIterator<E> {
  readonly #open: (position: number | undefined, signal: AbortSignal) => Promise<Response>;
  readonly #events: Events<E>;
  readonly #options: StreamOptions;
  readonly #closing = new AbortController();
  readonly #signal: AbortSignal;
  readonly #ready: E[] = [];
  #reader: Reader | undefined;
  #failures = 0;

  constructor(
    open: (position: number | undefined, signal: AbortSignal) => Promise<Response>,
    events: Events<E>,
    options: StreamOptions = {},
  ) {
    this.#open = open;
    this.#events = events;
    this.#options = options;
    const { signal } = options;
    this.#signal =
      signal === undefined ? this.#closing.signal : AbortSignal.any([this.#closing.signal, signal]);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<E, undefined>> {
    try {
      for (;;) {
        const event = this.#ready.shift();
        if (event !== undefined) return { done: false, value: event };
        if (this.#closing.signal.aborted) return { done: true, value: undefined };
        this.#options.signal?.throwIfAborted();
        if (this.#events.ended) return this.return();
        await this.#read();
      }
    } catch (error) {
      // Closed by another while it waited: that is an end.
      if (this.#closing.signal.aborted) return { done: true, value: undefined };
      await this.close();
      throw this.#options.signal?.aborted ? this.#options.signal.reason : error;
    }
  }

  /** Connects now: what is watched or run begins before this is done. */
  async connect(): Promise<this> {
    this.#reader ??= await this.#open(this.#events.position, this.#signal).then(readerOf);
    return this;
  }

  /** What `for await` calls when its loop is left. */
  async return(): Promise<IteratorResult<E, undefined>> {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Lets go of the connection; a command in the foreground ends with it. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#ready.length = 0;
    await this.#disconnect();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Reads some more, which may not be enough for an event. */
  async #read(): Promise<void> {
    try {
      await this.connect();
      const { done, value } = await (this.#reader as Reader).read().catch((error) => {
        throw this.#signal.aborted ? error : connectionFailed(error);
      });
      if (done) {
        throw new ConnectionFailed('The stream of events broke off before its end.');
      }
      this.#ready.push(...this.#events.feed(value));
      if (this.#ready.length > 0) this.#failures = 0;
    } catch (error) {
      await this.#disconnect();
      const wait = delay(this.#failures);
      const again =
        error instanceof ConnectionFailed &&
        this.#events.position !== undefined &&
        this.#failures < (this.#options.retries ?? 0);
      if (!again || wait === undefined) throw error;
      this.#failures++;
      await sleep(wait, this.#signal);
      this.#events.reconnected();
    }
  }

  async #disconnect(): Promise<void> {
    const reader = this.#reader;
    this.#reader = undefined;
    await reader?.cancel().catch(() => undefined);
  }
}

function readerOf(response: Response): Reader {
  return (response.body ?? new Blob([]).stream()).getReader();
}
