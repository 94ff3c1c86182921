/** WebSockets on every platform: a browser's, Node's own (22 and later), or those of the package `ws`. */
import type { Client } from './client.js';
import { AuthError, ConnectionFailed, NotFound, NotRunning } from './errors.js';

/** What is used of a WebSocket. */
export interface SocketLike {
  binaryType: string;
  readonly readyState: number;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: 'open' | 'error', listener: () => void): void;
  addEventListener(type: 'message', listener: (event: { data: unknown }) => void): void;
  addEventListener(type: 'close', listener: (event: { code: number; reason: string }) => void): void;
}

export type SocketConstructor = new (url: string) => SocketLike;

/**
 * The most that may wait to be read, bytes. A browser's WebSocket cannot be told to wait, so a reader that is
 * slower than this for long is told so instead.
 */
export const MAX_WAITING = 16 << 20;

/** The most that is typed at once, bytes: half of what the gateway takes. */
const MAX_TYPED = 32 * 1024;

/** What is typed, in pieces that the gateway takes. */
export function* pieces(data: string | Uint8Array): Generator<Uint8Array<ArrayBuffer>> {
  // Always as bytes: text is for control.
  const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : new Uint8Array(data);
  for (let at = 0; at < bytes.length; at += MAX_TYPED) yield bytes.slice(at, at + MAX_TYPED);
}

const OPEN = 1;
const CLOSED = 3;

/** A WebSocket with raw bytes both ways. */
export class Socket {
  readonly #socket: SocketLike;
  readonly #waiting: Uint8Array[] = [];
  #size = 0;
  #wake: (() => void) | undefined;
  #end: { error?: Error } | undefined;

  private constructor(socket: SocketLike) {
    this.#socket = socket;
    socket.binaryType = 'arraybuffer';
    socket.addEventListener('message', (event) => this.#took(bytesOf(event.data)));
    socket.addEventListener('close', (event) => this.#ended(errorOf(event)));
  }

  static async open(client: Client, path: string, signal?: AbortSignal): Promise<Socket> {
    const Constructor = await constructorOf(client);
    const url = client.socketUrl(path, true);
    signal?.throwIfAborted();
    const raw = new Constructor(url);
    const socket = new Socket(raw);
    await new Promise<void>((resolve, reject) => {
      const stop = (error: unknown) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
        reject(error);
        raw.close();
      };
      const abort = () => stop(signal?.reason);
      const late = `The gateway did not open a WebSocket within ${client.timeout} s.`;
      const timer = setTimeout(() => stop(new ConnectionFailed(late)), client.timeout * 1000);
      signal?.addEventListener('abort', abort, { once: true });
      raw.addEventListener('open', () => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
        resolve();
      });
      // A browser does not say why: neither can this.
      raw.addEventListener('error', () =>
        stop(new ConnectionFailed('The gateway did not open a WebSocket.')),
      );
    });
    return socket;
  }

  send(data: string | Uint8Array): void {
    if (this.#socket.readyState !== OPEN) {
      throw this.#end?.error ?? new ConnectionFailed('The terminal is closed.');
    }
    for (const piece of pieces(data)) this.#socket.send(piece);
  }

  /** The next frame; undefined at the end. */
  async receive(): Promise<Uint8Array | undefined> {
    for (;;) {
      const data = this.#waiting.shift();
      if (data !== undefined) {
        this.#size -= data.length;
        return data;
      }
      if (this.#end?.error !== undefined) throw this.#end.error;
      if (this.#end !== undefined) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async close(): Promise<void> {
    if (this.#socket.readyState === CLOSED) return;
    await new Promise<void>((resolve) => {
      // Whoever does not say goodbye is not waited for longer than this.
      const timer = setTimeout(resolve, 5_000);
      this.#socket.addEventListener('close', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#ended();
      this.#socket.close(1000);
    });
  }

  #took(data: Uint8Array): void {
    if (this.#end !== undefined) return;
    this.#waiting.push(data);
    this.#size += data.length;
    if (this.#size > MAX_WAITING) {
      this.#ended(new ConnectionFailed(`More than ${MAX_WAITING} bytes of output were waiting to be read.`));
      this.#socket.close(1000);
    }
    this.#wake?.();
  }

  #ended(error?: Error): void {
    this.#end ??= error === undefined ? {} : { error };
    this.#wake?.();
  }
}

async function constructorOf(client: Client): Promise<SocketConstructor> {
  if (client.webSocket !== undefined) return client.webSocket;
  const { WebSocket } = globalThis as { WebSocket?: unknown };
  if (WebSocket !== undefined) return WebSocket as SocketConstructor;
  try {
    // A name that bundlers for browsers do not follow.
    const name = 'ws';
    const module = (await import(/* @vite-ignore */ name)) as { default: unknown };
    return module.default as SocketConstructor;
  } catch (error) {
    const message = 'This platform has no WebSocket: install the package "ws", or use Node 22.';
    throw new ConnectionFailed(message, { cause: error });
  }
}

function bytesOf(data: unknown): Uint8Array {
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  return new TextEncoder().encode(String(data));
}

function errorOf(event: { code: number; reason: string }): Error | undefined {
  if (event.code === 1000 || event.code === 1005) return undefined;
  const details = { code: event.reason };
  // What the gateway says when it closes.
  if (event.reason === 'sandbox_ended') return new NotRunning('The sandbox ended meanwhile.', details);
  if (event.reason === 'taken_over') {
    return new ConnectionFailed('Somebody else reads this terminal faster: connect to it again.', details);
  }
  const message = `The gateway closed the terminal: ${event.reason || event.code}.`;
  if (event.code === 4003) return new AuthError(message, details);
  return event.code === 4004 ? new NotFound(message, details) : new ConnectionFailed(message, details);
}
