/** Requests: who asks, how often, how long; and errors as exceptions. */
import {
  type BelljarError,
  ConnectionFailed,
  ofProblem,
  RequestTimeout,
  TooLarge,
  UnexpectedAnswer,
} from './errors.js';
import { parseTemplate, type Template } from './models.js';
import { delay, parseRetryAfter, RETRY_STATUSES } from './retry.js';
import type { SocketConstructor } from './socket.js';

export const API = '/api/v1';
const DEFAULT_URL = 'http://127.0.0.1:3001';
/** The longest body of an error that is read, bytes. */
const MAX_PROBLEM = 64 * 1024;
/** The most pages of a list that are followed. The gateway has fewer sandboxes than this by far. */
const MAX_PAGES = 1000;
/** How long something that was aborted is waited for, so that it can be undone, ms. */
const UNDO_MS = 10_000;

export interface ClientOptions {
  /** Where the gateway is. Default: BELLJAR_URL where there is an environment, else http://127.0.0.1:3001. */
  url?: string | undefined;
  /** Default: BELLJAR_API_KEY where there is an environment. */
  apiKey?: string | undefined;
  /** How long a request may take until its answer begins, seconds, besides what a command itself may take (60). */
  timeout?: number | undefined;
  /** How often a request that may be repeated is repeated (3). */
  retries?: number | undefined;
  /** Instead of the platform's. */
  fetch?: typeof fetch | undefined;
  /** Instead of the platform's, or of the package `ws` where the platform has none, as in Node 20. */
  WebSocket?: SocketConstructor | undefined;
}

/** What every call takes. Aborting leaves nothing running that the call has started. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
}

export type Query = Record<string, string | number | boolean | undefined>;

export interface RequestOptions extends CallOptions {
  query?: Query | undefined;
  /** Sent as JSON. */
  json?: unknown;
  content?: Content | undefined;
  headers?: Record<string, string> | undefined;
  /** Seconds beside `timeout` that the answer may take to begin; Infinity: any time. */
  patience?: number | undefined;
  /** Whether doing it twice is doing it once. Default: all but POST. */
  repeatable?: boolean | undefined;
  /** Takes back what was done, if the caller aborts before the answer has come. */
  undo?: ((answer: unknown) => Promise<unknown>) | undefined;
}

export type Content = string | Uint8Array | Blob | ReadableStream<Uint8Array>;

const environment = (name: string): string | undefined => {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name] || undefined;
};

/** One gateway, and as whom to speak to it. */
export class Client {
  readonly url: string;
  readonly timeout: number;
  readonly retries: number;
  readonly templates: Templates = new Templates(this);
  readonly webSocket: SocketConstructor | undefined;
  readonly #apiKey: string | undefined;
  readonly #fetch: typeof fetch;

  constructor(options: ClientOptions = {}) {
    this.url = (options.url ?? environment('BELLJAR_URL') ?? DEFAULT_URL).replace(/\/+$/, '');
    if (!/^https?:\/\/[^/]/.test(this.url)) {
      throw new TypeError(`url: "${this.url}" is not of the form http://host:port or https://host`);
    }
    this.timeout = options.timeout ?? 60;
    this.retries = options.retries ?? 3;
    if (!(this.timeout > 0)) throw new TypeError('timeout: must be more than 0 seconds');
    if (!(this.retries >= 0)) throw new TypeError('retries: must be 0 or more');
    this.#apiKey = options.apiKey ?? environment('BELLJAR_API_KEY');
    // Called as a function of nobody's: a browser's insists on that.
    const given = options.fetch ?? globalThis.fetch;
    this.#fetch = (input, init) => given(input, init);
    this.webSocket = options.WebSocket;
  }

  /** What a request carries so that the gateway knows who asks. */
  get headers(): Record<string, string> {
    return this.#apiKey === undefined ? {} : { Authorization: `Bearer ${this.#apiKey}` };
  }

  /** The address of a WebSocket. `withKey`: with the key in it, for browsers, which send no headers with it. */
  socketUrl(path: string, withKey: boolean): string {
    const key = withKey && this.#apiKey !== undefined ? `?api_key=${encodeURIComponent(this.#apiKey)}` : '';
    return `ws${this.url.slice('http'.length)}${API}${path}${key}`;
  }

  /** One request and its whole answer as JSON; undefined if it has none. */
  async json(method: string, path: string, options: RequestOptions = {}): Promise<unknown> {
    const response = await this.open(method, path, options);
    return parseJson(response.status, await whole(response, options.signal));
  }

  /** As `json`, where a list has to come. */
  async array(method: string, path: string, options: RequestOptions = {}): Promise<unknown[]> {
    return asArray(await this.json(method, path, options));
  }

  /** One request and its whole answer as bytes. */
  async bytes(method: string, path: string, options: RequestOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    return whole(await this.open(method, path, options), options.signal);
  }

  /** A list over all its pages, or its first `limit` entries. */
  async pages(
    path: string,
    query: Query,
    limit: number | undefined,
    options: CallOptions,
  ): Promise<unknown[]> {
    const entries: unknown[] = [];
    let cursor: string | undefined;
    for (let page = 0; page < MAX_PAGES; page++) {
      const left = limit === undefined ? undefined : limit - entries.length;
      const response = await this.open('GET', path, { ...options, query: { ...query, limit: left, cursor } });
      entries.push(...(await arrayOf(response, options.signal)));
      const next = nextCursor(response.headers.get('link'));
      if (next === undefined || next === cursor || (limit !== undefined && entries.length >= limit)) break;
      cursor = next;
    }
    return entries.slice(0, limit);
  }

  /** One request, with the answer's body still to be read. */
  async open(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
    const { content, signal } = options;
    // What has been read from a stream cannot be sent again.
    const repeatable = (options.repeatable ?? method !== 'POST') && !(content instanceof ReadableStream);
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      let wait: number | undefined;
      try {
        const response = await this.#send(method, path, options);
        if (response.ok) return response;
        const problem = await problemOf(response);
        if (repeatable && RETRY_STATUSES.has(response.status) && attempt < this.retries) {
          wait = delay(attempt, problem.retryAfter);
        }
        if (wait === undefined) throw problem;
      } catch (error) {
        // A timeout is not repeated: the caller has waited as long as it wanted to.
        if (!(error instanceof ConnectionFailed) || error instanceof RequestTimeout) throw error;
        if (repeatable && attempt < this.retries) wait = delay(attempt);
        if (wait === undefined) throw error;
      }
      await sleep(wait, signal);
    }
  }

  async #send(method: string, path: string, options: RequestOptions): Promise<Response> {
    const { signal, undo } = options;
    const timer = new AbortController();
    const patience = (this.timeout + (options.patience ?? 0)) * 1000;
    // A timer of more than 2^31 ms would fire at once.
    const timeout = patience < 2 ** 31 ? setTimeout(() => timer.abort(), patience) : undefined;
    // What can be undone is not broken off: only its answer says what there is to undo.
    const signals = signal === undefined || undo !== undefined ? [timer.signal] : [timer.signal, signal];
    let grace: ReturnType<typeof setTimeout> | undefined;
    const giveUp = () => {
      grace = setTimeout(() => timer.abort(), UNDO_MS);
    };
    if (undo !== undefined) signal?.addEventListener('abort', giveUp, { once: true });
    try {
      const response = await this.#fetched(method, path, options, AbortSignal.any(signals));
      if (undo !== undefined && signal?.aborted) {
        // The caller gave up meanwhile: nobody will ever hear of what was made.
        if (response.ok) await undo(parseJson(response.status, await whole(response))).catch(() => undefined);
        throw signal.reason;
      }
      return response;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (timer.signal.aborted) {
        throw new RequestTimeout(`The gateway did not answer within ${patience / 1000} s.`, { cause: error });
      }
      throw connectionFailed(error);
    } finally {
      clearTimeout(timeout);
      clearTimeout(grace);
      signal?.removeEventListener('abort', giveUp);
    }
  }

  async #fetched(
    method: string,
    path: string,
    options: RequestOptions,
    signal: AbortSignal,
  ): Promise<Response> {
    const { content, json } = options;
    const headers: Record<string, string> = { ...this.headers, ...options.headers };
    if (json !== undefined) headers['Content-Type'] = 'application/json';
    const response = await this.#fetch(`${this.url}${API}${path}${search(options.query)}`, {
      method,
      headers,
      signal,
      // A key is never sent to an address that an answer names.
      redirect: 'error',
      cache: 'no-store',
      body: json !== undefined ? JSON.stringify(json) : ((content as BodyInit | undefined) ?? null),
      ...(content instanceof ReadableStream ? { duplex: 'half' } : {}),
    } as RequestInit);
    if (options.undo === undefined) return response;
    // Whole, so that nothing can break between the answer and whoever takes it.
    return new Response(await response.arrayBuffer(), { status: response.status, headers: response.headers });
  }
}

/** `client.templates`: what sandboxes can be started from. */
export class Templates {
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  async list(options: CallOptions = {}): Promise<Template[]> {
    return (await this.#client.array('GET', '/templates', options)).map(parseTemplate);
  }

  async get(name: string, options: CallOptions = {}): Promise<Template> {
    return parseTemplate(await this.#client.json('GET', `/templates/${segment(name)}`, options));
  }

  /** Builds a template from the text of a Dockerfile. `timeout` in seconds (600). */
  async build(
    name: string,
    dockerfile: string,
    options: CallOptions & { timeout?: number } = {},
  ): Promise<Template> {
    const { timeout = 600, signal } = options;
    const json = { name, dockerfile };
    return parseTemplate(await this.#client.json('POST', '/templates', { json, patience: timeout, signal }));
  }

  async delete(name: string, options: CallOptions = {}): Promise<void> {
    await this.#client.json('DELETE', `/templates/${segment(name)}`, options);
  }
}

/** One part of a path, so that no id can become two of them. */
export function segment(value: string | number): string {
  const text = String(value);
  if (['', '.', '..'].includes(text)) throw new TypeError(`"${text}" is not an id`);
  return encodeURIComponent(text);
}

/** What a broken connection looks like to the caller. */
export function connectionFailed(error: unknown): BelljarError {
  const { cause } = error as { cause?: { message?: string } };
  const why = cause?.message ?? (error instanceof Error ? error.message : String(error));
  return new ConnectionFailed(`The connection to the gateway failed: ${why}`, { cause: error });
}

/** Seconds; ends early, with the signal's reason, if it is aborted. */
export function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, seconds * 1000);
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
  });
}

/** Without fields that are undefined. */
export function defined<T extends object>(fields: T): Partial<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Partial<T>;
}

async function whole(response: Response, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw connectionFailed(error);
  }
}

function parseJson(status: number, body: Uint8Array): unknown {
  if (status === 204) return undefined;
  try {
    return JSON.parse(new TextDecoder().decode(body));
  } catch (error) {
    throw new UnexpectedAnswer("The gateway's answer is not JSON.", { status, cause: error });
  }
}

/** An answer that has to be a list. */
export async function arrayOf(response: Response, signal?: AbortSignal): Promise<unknown[]> {
  return asArray(parseJson(response.status, await whole(response, signal)));
}

function asArray(value: unknown): unknown[] {
  if (!Array.isArray(value)) throw new UnexpectedAnswer("The gateway's answer is not a list.");
  return value;
}

async function problemOf(response: Response): Promise<BelljarError> {
  let problem: unknown;
  try {
    problem = JSON.parse(new TextDecoder().decode(await first(response, MAX_PROBLEM)));
  } catch {
    // A proxy's page, or a body that broke off: the status says enough.
  }
  return ofProblem(response.status, problem, parseRetryAfter(response.headers.get('retry-after')));
}

async function first(response: Response, limit: number): Promise<Uint8Array> {
  const reader = response.body?.getReader();
  const chunks: Uint8Array[] = [];
  let size = 0;
  while (reader !== undefined) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    size += value.length;
    if (size > limit) {
      await reader.cancel();
      throw new TooLarge(`more than ${limit} bytes`);
    }
  }
  const body = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.length;
  }
  return body;
}

function search(query: Query | undefined): string {
  const pairs = Object.entries(query ?? {}).filter(([, value]) => value !== undefined);
  const text = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)])).toString();
  return text === '' ? '' : `?${text}`;
}

/** Only the cursor is taken from the link to the next page: a key is never sent to an address that it names. */
function nextCursor(link: string | null): string | undefined {
  for (const part of (link ?? '').split(/,(?=\s*<)/)) {
    const found = /^\s*<([^>]*)>.*;\s*rel="?next"?/.exec(part)?.[1];
    const cursor = found && new URL(found, 'http://gateway.invalid').searchParams.get('cursor');
    if (cursor) return cursor;
  }
  return undefined;
}
