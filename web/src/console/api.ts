/** What the console asks the gateway. Knows no state but the key that it presents. */

export interface Overview {
  version: string;
  uptimeMs: number;
  engine: { state: 'starting' | 'ready' | 'down' | 'unsafe'; reason?: string };
  sealed: boolean | null;
  places: { taken: number; max: number };
  pools: { template: string; ready: number; wanted: number }[];
  line: { waiting: number; max: number };
  doorClosed: string | null;
  sessions: Record<string, number>;
  sandboxes: Record<string, number>;
  refusals: Record<string, number>;
  sessionsEnded: Record<string, number>;
  sandboxesEnded: Record<string, number>;
  starts: { count: number; sumMs: number; p50Ms: number | null; p95Ms: number | null };
}

/** A visitor's. */
export interface Session {
  id: string;
  state: 'starting' | 'attached' | 'detached' | 'ended';
  reason?: string;
  template: string;
  client: string;
  createdAt: string;
  expiresAt: string;
  endedAt?: string;
  idleMs: number;
  viewers: number;
  recorded: boolean;
  subject?: string;
}

/** A program's. */
export interface Sandbox {
  id: string;
  template: string;
  image: string;
  status: 'starting' | 'running' | 'stopped' | 'error';
  reason?: string;
  createdAt: string;
  expiresAt: string;
  cwd: string;
}

/** A program's that has ended. */
export interface EndedSandbox {
  id: string;
  template: string;
  image: string;
  owner: string;
  reason: string;
  createdAt: string;
  endedAt: string;
}

export interface Usage {
  id: string;
  cpuMs: number;
  memoryBytes: number;
  memoryLimitBytes: number;
  processes: number;
  uptimeMs: number;
}

export interface Watch {
  session: string;
  share: string;
  token: string;
}

export interface Outcome {
  exitCode: number;
  signal: string | null;
  timedOut: boolean;
  stdout: string;
  stderr: string;
  truncated: boolean;
}

export interface Entry {
  name: string;
  path: string;
  isDir: boolean;
  kind: string;
  size: number;
  modifiedMs: number;
}

/** Entries of a directory that are shown. */
const MAX_ENTRIES = 500;
/** Sessions and sandboxes that are shown, of each. */
export const MAX_ROWS = 500;

/** The gateway says no, in one sentence for people. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }

  /** The key opens nothing here, or none was presented. */
  get isAboutKey(): boolean {
    return this.status === 401 || KEY_CODES.has(this.code);
  }
}

const KEY_CODES = new Set(['key_refused', 'key_expired', 'key_required', 'scope_missing']);

/** The gateway does not answer. */
export class Unreachable extends Error {
  constructor() {
    super('The gateway cannot be reached.');
  }
}

export class Api {
  readonly #root: URL;

  /** `base` is the gateway's address; without a key it serves its own machine, if anybody. */
  constructor(
    base: string,
    readonly key: string | null,
  ) {
    this.#root = new URL('api/v1/', base);
  }

  overview(): Promise<Overview> {
    return this.#json('GET', 'operator/overview');
  }

  async sessions(): Promise<{ sessions: Session[]; total: number }> {
    return this.#json('GET', `operator/sessions?limit=${MAX_ROWS}`);
  }

  usage(): Promise<Usage[]> {
    return this.#json('GET', 'operator/usage');
  }

  async endSession(id: string): Promise<void> {
    await this.#ask('DELETE', `operator/sessions/${encodeURIComponent(id)}`);
  }

  watch(session: string): Promise<Watch> {
    return this.#json('POST', `operator/sessions/${encodeURIComponent(session)}/watch`);
  }

  /** Also from a page that is being closed. */
  async stopWatching({ session, share }: Watch): Promise<void> {
    const path = `operator/sessions/${encodeURIComponent(session)}/watch/${encodeURIComponent(share)}`;
    await this.#ask('DELETE', path, null, { keepalive: true });
  }

  sandboxes(): Promise<Sandbox[]> {
    return this.#json('GET', `sandboxes?limit=${MAX_ROWS}`);
  }

  endedSandboxes(): Promise<EndedSandbox[]> {
    return this.#json('GET', `operator/sandboxes/ended?limit=${MAX_ROWS}`);
  }

  sandbox(id: string): Promise<Sandbox> {
    return this.#json('GET', at(id, ''));
  }

  create(order: { template?: string; image?: string; timeout: number }): Promise<Sandbox> {
    return this.#json('POST', 'sandboxes', order);
  }

  async endSandbox(id: string): Promise<void> {
    await this.#ask('DELETE', at(id, ''));
  }

  async templates(): Promise<string[]> {
    const templates = await this.#json<{ name: string }[]>('GET', 'templates');
    return templates.map(({ name }) => name);
  }

  run(id: string, command: string): Promise<Outcome> {
    return this.#json('POST', at(id, '/commands'), { command });
  }

  /** A new terminal's number. */
  async openTerminal(id: string, cols: number, rows: number): Promise<string> {
    const made = await this.#json<{ id: string }>('POST', at(id, '/pty'), { cols, rows });
    return made.id;
  }

  async resizeTerminal(id: string, terminal: string, cols: number, rows: number): Promise<void> {
    await this.#ask('POST', at(id, `/pty/${terminal}/resize`), { cols, rows });
  }

  async closeTerminal(id: string, terminal: string): Promise<void> {
    await this.#ask('DELETE', at(id, `/pty/${terminal}`), null, { keepalive: true });
  }

  /** A page's socket can set no header, and a key must not stand in an address: it goes as a subprotocol. */
  terminal(id: string, terminal: string): WebSocket {
    const url = new URL(at(id, `/pty/${terminal}`), this.#root);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const offers = this.key === null ? [] : [`belljar.key.${this.key}`];
    return new WebSocket(url, ['belljar.pty', ...offers]);
  }

  async files(id: string, path: string): Promise<{ entries: Entry[]; more: boolean }> {
    const answer = await this.#ask('GET', at(id, '/files/list', { path, limit: String(MAX_ENTRIES) }));
    const entries = (await answer.json()) as Entry[];
    return { entries, more: answer.headers.get('x-truncated') === 'true' };
  }

  async download(id: string, path: string): Promise<Blob> {
    return (await this.#ask('GET', at(id, '/files', { path }))).blob();
  }

  async upload(id: string, path: string, content: Blob): Promise<void> {
    await this.#ask('PUT', at(id, '/files', { path }), content);
  }

  async remove(id: string, path: string): Promise<void> {
    await this.#ask('DELETE', at(id, '/files', { path }));
  }

  async #json<T>(method: string, path: string, body: unknown = null): Promise<T> {
    return (await this.#ask(method, path, body)).json() as Promise<T>;
  }

  async #ask(
    method: string,
    path: string,
    body: unknown = null,
    options: RequestInit = {},
  ): Promise<Response> {
    const headers: Record<string, string> = {};
    if (this.key !== null) headers.authorization = `Bearer ${this.key}`;
    const raw = body instanceof Blob;
    if (body !== null) headers['content-type'] = raw ? 'application/octet-stream' : 'application/json';
    const content = body === null || raw ? (body as Blob | null) : JSON.stringify(body);
    const request = { ...options, method, headers, body: content };
    const answer = await fetch(new URL(path, this.#root), request).catch(() => null);
    if (answer === null) throw new Unreachable();
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => null);
    // A proxy's own words, for a gateway that does not answer it.
    if (told === null && answer.status >= 502) throw new Unreachable();
    const message = typeof told?.message === 'string' ? told.message : 'The gateway did not do it.';
    throw new Refusal(answer.status, typeof told?.error === 'string' ? told.error : '', message);
  }
}

/** The address of a sandbox, or below it. */
function at(id: string, path: string, query: Record<string, string> = {}): string {
  const search = new URLSearchParams(query).toString();
  return `sandboxes/${encodeURIComponent(id)}${path}${search === '' ? '' : `?${search}`}`;
}
