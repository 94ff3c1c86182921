/** `sb.files`: what is on the sandbox's disks. */
import {
  arrayOf,
  type CallOptions,
  type Client,
  type Content,
  connectionFailed,
  type Query,
} from './client.js';
import { NotFound, TooLarge } from './errors.js';
import { FileChanges } from './events.js';
import { type FileChange, type FileInfo, parseFile } from './models.js';
import { EventStream } from './stream.js';

/** The most entries that the gateway lists. */
const MAX_ENTRIES = 10_000;

const BYTES = { 'Content-Type': 'application/octet-stream' };
const TAR = { 'Content-Type': 'application/x-tar' };

/** What can be uploaded. A stream is read as fast as the gateway takes it, and never whole in memory. */
export type Source = Content | AsyncIterable<Uint8Array>;

export interface ReadOptions extends CallOptions {
  offset?: number | undefined;
  length?: number | undefined;
}

export interface WriteOptions extends CallOptions {
  /** Permission bits, as `0o755`. */
  mode?: number | undefined;
  /** Makes the directories that are missing above (true). */
  mkdirs?: boolean | undefined;
}

/** Paths are the sandbox's; relative ones start at its working directory. */
export class Files {
  readonly #client: Client;
  readonly #path: string;

  constructor(client: Client, sandbox: string) {
    this.#client = client;
    this.#path = `/sandboxes/${sandbox}/files`;
  }

  /** A file's bytes, or `length` of them from `offset` on. */
  async read(path: string, options: ReadOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    const { offset, length, signal } = options;
    return this.#client.bytes('GET', this.#path, { query: { path, offset, length }, signal });
  }

  /** A file's text. Throws a `TypeError` if it is not UTF-8. */
  async readText(path: string, options: CallOptions = {}): Promise<string> {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(await this.read(path, options));
  }

  /** Writes a file, whole or not at all. */
  async write(path: string, data: Source, options: WriteOptions = {}): Promise<void> {
    const { mode, mkdirs = true, signal } = options;
    const query = { path, mode: mode?.toString(8), mkdirs };
    await this.#client.open('PUT', this.#path, { query, content: contentOf(data), headers: BYTES, signal });
  }

  /**
   * What is in a directory; `depth` 2 also what is in its directories, and so on. At most `limit` entries; without
   * one, more than 10,000 are an error.
   */
  async list(
    path = '.',
    options: CallOptions & { depth?: number; limit?: number } = {},
  ): Promise<FileInfo[]> {
    const { depth = 1, limit, signal } = options;
    return this.#infos('list', { path, depth, limit }, signal);
  }

  /** What below `path` (the working directory) fits a pattern, with `*`, `?` and `**`. `limit` as for `list`. */
  async glob(
    pattern: string,
    path = '.',
    options: CallOptions & { limit?: number } = {},
  ): Promise<FileInfo[]> {
    return this.#infos('glob', { path, pattern, limit: options.limit }, options.signal);
  }

  async stat(path: string, options: CallOptions = {}): Promise<FileInfo> {
    return parseFile(await this.#client.json('GET', `${this.#path}/stat`, { ...options, query: { path } }));
  }

  /** Whether there is something. Throws `NotFound` if the sandbox itself is gone. */
  async exists(path: string, options: CallOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, options);
      return true;
    } catch (error) {
      if (error instanceof NotFound && error.code === 'not_found') return false;
      throw error;
    }
  }

  /** Makes a directory, and those above it. That it is there already is all right. */
  async mkdir(path: string, options: CallOptions = {}): Promise<void> {
    // Twice is once, therefore it may be repeated.
    const request = { ...options, query: { path }, repeatable: true };
    await this.#client.open('POST', `${this.#path}/mkdir`, request);
  }

  async move(source: string, target: string, options: CallOptions = {}): Promise<void> {
    const json = { from: source, to: target };
    await this.#client.open('POST', `${this.#path}/move`, { ...options, json });
  }

  /** Removes a file or an empty directory; `recursive`: a directory with what is in it. */
  async remove(path: string, options: CallOptions & { recursive?: boolean } = {}): Promise<void> {
    const { recursive = false, signal } = options;
    await this.#client.open('DELETE', this.#path, { query: { path, recursive }, signal });
  }

  /** What happens to a path from now on, until the loop is left. */
  watch(path = '.', options: CallOptions & { recursive?: boolean } = {}): EventStream<FileChange> {
    const { recursive = false, signal } = options;
    const query = { path, recursive };
    const headers = { Accept: 'text/event-stream' };
    return new EventStream(
      (_, signal) => this.#client.open('GET', `${this.#path}/watch`, { query, headers, signal }),
      new FileChanges(),
      { signal },
    );
  }

  /** As `write`, source first. In Node a local file is `await openAsBlob(path)` of `node:fs`. */
  async upload(source: Source, path: string, options: WriteOptions = {}): Promise<void> {
    await this.write(path, source, options);
  }

  /** A file's bytes as they come, for what is too large for `read`. */
  async download(path: string, options: ReadOptions = {}): Promise<ReadableStream<Uint8Array>> {
    const { offset, length, signal } = options;
    return bodyOf(await this.#client.open('GET', this.#path, { query: { path, offset, length }, signal }));
  }

  /** A directory as a tar archive. It is the sandbox's: unpack it with care. */
  async pack(path: string, options: CallOptions = {}): Promise<ReadableStream<Uint8Array>> {
    return bodyOf(await this.#client.open('GET', `${this.#path}/archive`, { ...options, query: { path } }));
  }

  /** Unpacks a tar archive into a directory of the sandbox. */
  async unpack(archive: Source, path: string, options: CallOptions = {}): Promise<void> {
    const request = { ...options, query: { path }, content: contentOf(archive), headers: TAR };
    await this.#client.open('PUT', `${this.#path}/archive`, request);
  }

  async #infos(route: string, query: Query, signal?: AbortSignal): Promise<FileInfo[]> {
    const { limit = MAX_ENTRIES } = query;
    const path = `${this.#path}/${route}`;
    const response = await this.#client.open('GET', path, { query: { ...query, limit }, signal });
    const entries = await arrayOf(response, signal);
    if (query.limit === undefined && response.headers.get('x-truncated') === 'true') {
      throw new TooLarge(`There are more than ${MAX_ENTRIES} entries: set a limit.`, { code: 'too_large' });
    }
    return entries.map(parseFile);
  }
}

function contentOf(source: Source): Content {
  if (typeof source === 'string' || !(Symbol.asyncIterator in source)) return source as Content;
  if (source instanceof ReadableStream) return source;
  const pieces = source[Symbol.asyncIterator]();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await pieces.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await pieces.return?.();
    },
  });
}

/** The body, with our errors. */
function bodyOf(response: Response): ReadableStream<Uint8Array> {
  const reader = (response.body ?? new Blob([]).stream()).getReader();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await reader.read().catch((error) => {
        throw error instanceof DOMException ? error : connectionFailed(error);
      });
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel(reason) {
      await reader.cancel(reason);
    },
  });
}
