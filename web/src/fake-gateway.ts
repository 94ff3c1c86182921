/** Stands in for `WebSocket` and for the gateway behind it, one instance per socket. Tests only. */
import { Connection, type Listener, type Options, type Socket, type State } from './connection.ts';
import type { Notice, Ready } from './protocol.ts';
import type { Lease, LeaseStore } from './store.ts';

export const SESSION = `sess_${'a'.repeat(32)}`;
export const TOKEN = 'resume-me';

export class FakeSocket implements Socket {
  binaryType = 'blob';
  bufferedAmount = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;
  closed = false;
  readonly sent: Record<string, unknown>[] = [];
  readonly frames: Uint8Array[] = [];

  constructor(
    readonly url: string,
    readonly protocol: string,
  ) {}

  send(data: string | Uint8Array): void {
    if (typeof data === 'string') this.sent.push(JSON.parse(data));
    else this.frames.push(data);
  }

  close(): void {
    this.closed = true;
  }

  open(): void {
    this.onopen?.();
  }

  says(message: Record<string, unknown>): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  /** Without `end` in `fields`, nothing is replayed. */
  ready(fields: Record<string, unknown> = {}): void {
    this.says({
      type: 'ready',
      session: SESSION,
      token: TOKEN,
      offset: 0,
      end: fields.offset ?? 0,
      cols: 80,
      rows: 24,
      readOnly: false,
      idleTimeoutMs: 300_000,
      remainingMs: 1_800_000,
      window: 262_144,
      ...fields,
    });
  }

  writes(bytes: string | Uint8Array): void {
    const data = typeof bytes === 'string' ? new TextEncoder().encode(bytes) : bytes;
    this.onmessage?.({ data: data.slice().buffer });
  }

  lose(code = 1006): void {
    this.onclose?.({ code });
  }

  of(type: string): Record<string, unknown>[] {
    return this.sent.filter((message) => message.type === type);
  }

  get typed(): Uint8Array {
    const all = new Uint8Array(this.frames.reduce((sum, frame) => sum + frame.length, 0));
    let at = 0;
    for (const frame of this.frames) {
      all.set(frame, at);
      at += frame.length;
    }
    return all;
  }
}

export class MemoryStore implements LeaseStore {
  constructor(public lease: Lease | null = null) {}
  load = () => this.lease;
  save = (lease: Lease) => {
    this.lease = lease;
  };
  clear = () => {
    this.lease = null;
  };
}

/** Records what the element would show. Output waits in `unprocessed` until `process` is called. */
export class Recorder implements Listener {
  readonly states: State[] = [];
  readonly notices: Notice[] = [];
  readonly latencies: number[] = [];
  readies: Ready[] = [];
  /** What the connection asked for with `DELETE`, in order: URL and token. */
  readonly ended: [string, string][] = [];
  screen = '';
  resets = 0;
  readonly #unprocessed: (() => void)[] = [];

  state = (state: State) => void this.states.push(state);
  ready = (ready: Ready) => void this.readies.push(ready);
  reset = () => {
    this.resets += 1;
    this.screen = '';
  };
  output = (bytes: Uint8Array, done: () => void) => {
    this.screen += new TextDecoder('latin1').decode(bytes);
    this.#unprocessed.push(done);
  };
  notice = (notice: Notice) => void this.notices.push(notice);
  latency = (ms: number) => void this.latencies.push(ms);
  readonly sizes: [number, number][] = [];
  viewerCounts: number[] = [];
  size = (cols: number, rows: number) => void this.sizes.push([cols, rows]);
  viewers = (count: number) => void this.viewerCounts.push(count);
  endSession = (url: string, token: string) => void this.ended.push([url, token]);

  /** The screen catches up with `chunks` of the output. */
  process(chunks = Number.POSITIVE_INFINITY): void {
    for (const done of this.#unprocessed.splice(0, chunks)) done();
  }
}

export function setUp(options: Partial<Options> = {}) {
  const sockets: FakeSocket[] = [];
  const seen = new Recorder();
  const store = new MemoryStore();
  const connection = new Connection({
    base: 'https://example.com/',
    template: null,
    store,
    listener: seen,
    createSocket: (url, protocol) => {
      const socket = new FakeSocket(url, protocol);
      sockets.push(socket);
      return socket;
    },
    endSession: seen.endSession,
    random: () => 1,
    ...options,
  });
  const socket = () => sockets.at(-1) as FakeSocket;
  return { connection, sockets, socket, seen, store };
}
