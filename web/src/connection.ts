/**
 * One visitor's session as a state machine over WebSockets, without a DOM.
 *
 *     idle → starting ⇄ queued → connected ⇄ reconnecting → ended
 *
 * A socket that closes without `exit` or `error` is lost, not ended: the session is attached to again, from the
 * byte after the last one received. Output is acknowledged when the screen has processed it, so a slow screen
 * slows the program down instead of filling memory.
 *
 * Input is sent once. What the lost socket took may or may not have arrived, and nobody can tell, so whatever
 * waited behind it is dropped: a paste with a hole must not go on. What is typed while there is no socket is
 * kept, up to `TYPE_AHEAD_BYTES`, and sent after `ready`.
 *
 * A session that the visitor leaves for another one is ended, or it would hold a sandbox until its timers fire:
 * over its socket, and where that is gone with a request of its own, which nobody waits for.
 */
import { backoff } from './backoff.ts';
import { Heartbeat } from './heartbeat.ts';
import { InputQueue } from './input.ts';
import { Output } from './output.ts';
import {
  CLOSE,
  type ClientMessage,
  type Exit,
  encode,
  type Notice,
  ProtocolError,
  parse,
  type Ready,
  type Refusal,
  SUBPROTOCOL,
} from './protocol.ts';
import type { Lease, LeaseStore } from './store.ts';
import { Timer } from './timer.ts';

/** Input kept while there is no socket. */
export const TYPE_AHEAD_BYTES = 4 * 1024;
/** Input that may wait behind the socket: a paste larger than this is refused. */
export const PASTE_BYTES = 16 * 1024 * 1024;
/** Give the socket no more while it holds this much, so that what is queued here can still be dropped. */
const SOCKET_BYTES = 64 * 1024;
/** A socket does not tell when it has drained, so look again after this. */
const DRAIN_POLL_MS = 10;
/** The gateway's default `detach_timeout`: how long a lost session waits for us. */
const RESUME_MS = 60_000;
/** A socket that lived this long, or carried output, has proved itself: the next loss starts from attempt 0. */
const PROVEN_MS = 5_000;
/** From dialling to an open socket, and from there to `ready` on a session that already runs. */
const ATTEMPT_MS = 10_000;
/** From an open socket to any message while a session starts: pulling an engine out of bed takes long. */
const START_MS = 90_000;
/** How long `close` waits for the gateway's `exit`. */
const CLOSE_MS = 2_000;

/** The part of `WebSocket` that is used, so that tests can stand in for it. */
export interface Socket {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number }) => void) | null;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(): void;
}

export type End =
  | { kind: 'exit'; exit: Exit }
  | { kind: 'error'; error: Refusal; retryAt: number | null }
  | { kind: 'taken_over' }
  /** The gateway could not be reached again in time. */
  | { kind: 'lost' };

/** Times are `Date.now()` values in ms. */
export type State =
  | { name: 'idle' }
  | { name: 'starting'; since: number }
  /** `readyAt`: when the gateway expects our turn; `null` while it cannot tell. */
  | { name: 'queued'; position: number; readyAt: number | null }
  | { name: 'connected'; ready: Ready }
  /** `retryAt` is `null` while an attempt is being made. */
  | { name: 'reconnecting'; attempt: number; retryAt: number | null }
  /** `resumable`: `start` goes back to the same shell. */
  | { name: 'ended'; end: End; resumable: boolean };

export interface Listener {
  state(state: State): void;
  /** `fresh`: the session has just begun, and was not gone back to. */
  ready(ready: Ready, fresh: boolean): void;
  /** Forget the screen and its history: what follows does not continue it. In order with `output`. */
  reset(): void;
  /** Show `bytes`, then call `done`. */
  output(bytes: Uint8Array, done: () => void): void;
  notice(notice: Notice): void;
  latency(ms: number): void;
  /** A guest's screen has the owner's size. In order with `output`, as far as the gateway can tell. */
  size(cols: number, rows: number): void;
  /** So many guests are looking. */
  viewers(count: number): void;
}

export interface Options {
  /** The gateway's base URL: http or https, any path. */
  base: string;
  template: string | null;
  /** A site's permission for one session, asked for when one is started. */
  permission?: () => string | null;
  store: LeaseStore;
  /** The store holds a share of somebody else's session: it is watched, never started, sized or ended. */
  guest?: boolean;
  listener: Listener;
  createSocket(url: string, protocol: string): Socket;
  /** Asks the gateway with `DELETE` to end the session at `url`. */
  endSession(url: string, token: string): void;
  random?: () => number;
  resumeMs?: number;
}

export class Connection {
  #state: State = { name: 'idle' };
  #size = { cols: 80, rows: 24 };
  readonly #input = new InputQueue();
  readonly #output = new Output();
  readonly #encoder = new TextEncoder();
  #lease: Lease | null = null;
  /** A session that nobody goes back to, but that may still live. */
  #abandoned: Lease | null = null;
  #socket: Socket | null = null;
  /** The offset that this socket's `attach` asked for; `null` if it starts a session or replays the history. */
  #from: number | null = null;
  /** This socket goes back to a session instead of starting one. */
  #attaching = false;
  /** Between `ready` and the close of the same socket. */
  #live = false;
  #readOnly = false;
  /** This socket's session has to end before the next one starts. */
  #restarting = false;
  /** Whether the screen shows this session's output up to `#output.received`. */
  #onScreen = false;
  #attempt = 0;
  #lostAt = 0;
  #readyAt = 0;
  #receivedAtReady = 0;
  /** Output before this offset is a replay. */
  #replayEnd = 0;
  readonly #heartbeat = new Heartbeat({
    ping: (id) => this.#send({ type: 'ping', id }),
    latency: (ms) => this.options.listener.latency(ms),
    dead: () => this.#lost(),
  });
  readonly #timers = {
    retry: new Timer(),
    attempt: new Timer(),
    drain: new Timer(),
    close: new Timer(),
  };

  constructor(private readonly options: Options) {}

  get state(): State {
    return this.#state;
  }

  /** What opens the session at hand. */
  get lease(): Lease | null {
    return this.#lease;
  }

  /**
   * What the screen processes now was written before it was attached. Answers that it gives to old queries in
   * there (cursor position, device attributes) must not be sent: nobody waits for them any more, or another
   * screen has given them already.
   */
  get replaying(): boolean {
    return this.#output.processed < this.#replayEnd;
  }

  /** Starts a session, or goes back to the one this tab still holds. Does nothing while one is under way. */
  start(cols: number, rows: number): void {
    if (this.#state.name !== 'idle' && this.#state.name !== 'ended') return;
    this.#size = { cols, rows };
    this.#lease = this.options.store.load() ?? this.#lease;
    this.#attempt = 0;
    this.#lostAt = Date.now();
    if (this.#lease === null) {
      this.#set({ name: 'starting', since: Date.now() });
    } else {
      this.#set({ name: 'reconnecting', attempt: 0, retryAt: null });
    }
    this.#dial();
  }

  /** Throws the session away, if there is one, and starts another. What is typed from now on is for the new one. */
  restart(cols: number, rows: number): void {
    if (this.options.guest) return;
    this.#abandon();
    if (this.#state.name === 'idle' || this.#state.name === 'ended') {
      this.start(cols, rows);
      return;
    }
    this.#size = { cols, rows };
    this.#attempt = 0;
    this.#lostAt = Date.now();
    this.#input.clear();
    const live = this.#live;
    if (live) {
      // The gateway counts sessions: the old one has to be gone before the new one is asked for.
      this.#send({ type: 'close' });
      this.#stop();
      this.#restarting = true;
      this.#timers.close.set(CLOSE_MS, () => this.#lost());
    }
    this.#set({ name: 'starting', since: Date.now() });
    if (!live) this.#dial();
  }

  /** Types `data` into the terminal. False if it was not taken, because there is no session or too much waits. */
  input(data: string | Uint8Array): boolean {
    if (this.#state.name === 'idle' || this.#state.name === 'ended' || this.#readOnly) return false;
    const bytes = typeof data === 'string' ? this.#encoder.encode(data) : data;
    const taken = this.#input.push(bytes, this.#live ? PASTE_BYTES : TYPE_AHEAD_BYTES);
    this.#drain();
    return taken;
  }

  resize(cols: number, rows: number): void {
    if (cols === this.#size.cols && rows === this.#size.rows) return;
    this.#size = { cols, rows };
    if (this.#live && !this.options.guest) this.#send({ type: 'resize', cols, rows });
  }

  /** "I am still here": resets the idle timer. */
  extend(): void {
    if (this.#live) this.#send({ type: 'extend' });
  }

  /** Ends the session for good. */
  close(): void {
    if (this.options.guest) return;
    if (this.#state.name === 'idle' || this.#state.name === 'ended') return;
    this.#abandon();
    if (this.#live) {
      this.#send({ type: 'close' });
      this.#timers.close.set(CLOSE_MS, () => this.#end(exit('closed')));
    } else {
      this.#end(exit('closed'));
    }
  }

  /** Lets go of the socket but not of the session: the same tab may `start` it again for a while. */
  detach(): void {
    this.#drop();
    this.#timers.retry.clear();
    this.#input.clear();
    if (this.#state.name !== 'ended') this.#set({ name: 'idle' });
  }

  /** Tries again at once instead of waiting for the next attempt. */
  retryNow(): void {
    if (this.#state.name === 'reconnecting' && this.#state.retryAt !== null) this.#dial();
  }

  /** The network may have changed: reconnect now, or find out now whether the socket is dead. */
  wake(): void {
    this.retryNow();
    if (this.#live) this.#heartbeat.probe();
  }

  /** Latency is only measured while somebody can see it. */
  setVisible(visible: boolean): void {
    if (this.#heartbeat.setVisible(visible) && visible) this.wake();
  }

  #dial(): void {
    this.#drop();
    this.#timers.retry.clear();
    const lease = this.#lease;
    if (lease === null) this.#endAbandoned();
    if (this.#state.name === 'reconnecting') {
      this.#set({ name: 'reconnecting', attempt: this.#attempt, retryAt: null });
    }
    let socket: Socket;
    try {
      socket = this.options.createSocket(this.#url(lease), SUBPROTOCOL);
    } catch {
      // A page on https may not open ws:, and nothing that we do later changes that.
      this.#end(refused('refused', 'This page may not connect to its gateway.'));
      return;
    }
    this.#attaching = lease !== null;
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    this.#from = lease !== null && this.#onScreen ? this.#output.received : null;
    this.#timers.attempt.set(ATTEMPT_MS, () => this.#lost());
    socket.onopen = () => {
      if (lease === null) {
        if (this.#state.name === 'reconnecting') this.#set({ name: 'starting', since: Date.now() });
        this.#timers.attempt.set(START_MS, () => this.#lost());
        return;
      }
      const from = this.#from === null ? {} : { from: this.#from };
      this.#send({ type: 'attach', token: lease.token, ...from, ...this.#size });
      this.#timers.attempt.set(ATTEMPT_MS, () => this.#lost());
    };
    socket.onmessage = ({ data }) => {
      this.#heartbeat.heard();
      if (typeof data === 'string') this.#message(data);
      else if (data instanceof ArrayBuffer) this.#bytes(new Uint8Array(data));
    };
    socket.onclose = ({ code }) => this.#closed(code);
  }

  #url(lease: Lease | null): string {
    const url = this.#at(lease === null ? '/ws' : `${sessionPath(lease)}/ws`);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    if (lease === null) {
      if (this.options.template !== null) url.searchParams.set('template', this.options.template);
      const permission = this.options.permission?.() ?? null;
      if (permission !== null) url.searchParams.set('embed', permission);
      url.searchParams.set('cols', String(this.#size.cols));
      url.searchParams.set('rows', String(this.#size.rows));
    }
    return url.href;
  }

  /** `path` below the gateway's base URL. */
  #at(path: string): URL {
    const url = new URL(this.options.base);
    url.pathname = url.pathname.replace(/\/+$/, '') + path;
    url.search = '';
    url.hash = '';
    return url;
  }

  #message(text: string): void {
    let message: ReturnType<typeof parse>;
    try {
      message = parse(text);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      console.error(`belljar: ${error.message}`);
      this.#end(
        refused('bad_server_message', 'This page and its gateway do not fit together. Reload the page.'),
      );
      return;
    }
    switch (message.type) {
      case 'ready':
        this.#ready(message);
        break;
      case 'queued': {
        const now = Date.now();
        this.#timers.attempt.set(START_MS, () => this.#lost());
        this.#attempt = 0;
        this.#lostAt = now;
        const readyAt = message.etaMs === null ? null : now + message.etaMs;
        this.#set({ name: 'queued', position: message.position, readyAt });
        break;
      }
      case 'gap':
        this.#output.restart(message.to);
        this.options.listener.reset();
        break;
      case 'notice':
        this.options.listener.notice(message);
        break;
      case 'size':
        this.options.listener.size(message.cols, message.rows);
        break;
      case 'viewers':
        this.options.listener.viewers(message.count);
        break;
      case 'pong':
        this.#heartbeat.pong(message.id);
        break;
      case 'exit':
        this.#forget();
        this.#end({ kind: 'exit', exit: message });
        break;
      case 'error': {
        // Another gateway, or the same one after its restart, will take us.
        if (message.code === 'going_away') {
          this.#lost();
          break;
        }
        if (message.code === 'no_such_session' || message.code === 'token_refused') this.#forget();
        const { retryAfterMs } = message;
        this.#end({
          kind: 'error',
          error: message,
          retryAt: retryAfterMs === null ? null : Date.now() + retryAfterMs,
        });
        break;
      }
      case 'unknown':
        break;
    }
  }

  #ready(ready: Ready): void {
    this.#timers.attempt.clear();
    const token = ready.token ?? this.#lease?.token;
    this.#lease = token === undefined ? null : { session: ready.session, token };
    if (this.#lease !== null) this.options.store.save(this.#lease);

    // A new session's first output is no replay, even if it was there before us.
    const replayEnd = this.#attaching ? (ready.end ?? 0) : 0;
    if (this.#from !== null && ready.offset === this.#output.received) {
      this.#output.resume(ready.offset);
      // What the screen still has from the old socket stays what it was, if nothing was missed.
      if (replayEnd > ready.offset) this.#replayEnd = replayEnd;
    } else {
      this.#output.restart(ready.offset);
      this.options.listener.reset();
      this.#replayEnd = replayEnd;
    }
    this.#onScreen = true;
    this.#live = true;
    this.#readOnly = ready.readOnly;
    this.#readyAt = Date.now();
    this.#receivedAtReady = this.#output.received;
    // The token opens the session: it is nobody else's business.
    const { token: _, ...rest } = ready;
    this.#set({ name: 'connected', ready: rest });
    this.options.listener.ready(rest, !this.#attaching);
    if (this.options.guest) {
      this.options.listener.size(ready.cols, ready.rows);
    } else if (ready.cols !== this.#size.cols || ready.rows !== this.#size.rows) {
      // The size may have changed since it was asked for.
      this.#send({ type: 'resize', ...this.#size });
    }
    this.#heartbeat.start();
    this.#drain();
  }

  #bytes(bytes: Uint8Array): void {
    if (!this.#live) return;
    // The screen reports whole chunks, so none may be half replay and half live.
    const replayed = this.#replayEnd - this.#output.received;
    if (replayed > 0 && replayed < bytes.length) {
      this.#show(bytes.subarray(0, replayed));
      this.#show(bytes.subarray(replayed));
    } else {
      this.#show(bytes);
    }
  }

  #show(bytes: Uint8Array): void {
    const mark = this.#output.receive(bytes.length);
    this.options.listener.output(bytes, () => {
      const offset = this.#output.process(mark);
      if (offset !== null && this.#live) this.#send({ type: 'ack', offset });
    });
  }

  #closed(code: number): void {
    const end = endOf(code);
    if (end === null) {
      this.#lost();
    } else {
      if (GONE.has(code)) this.#forget();
      this.#end(end);
    }
  }

  /** The socket is gone or useless: try again, or give up when the session cannot be there any more. */
  #lost(): void {
    if (this.#restarting) {
      this.#dial();
      return;
    }
    if (this.#timers.close.pending) {
      this.#end(exit('closed'));
      return;
    }
    if (this.#live) {
      const proven = Date.now() - this.#readyAt >= PROVEN_MS || this.#output.received > this.#receivedAtReady;
      if (proven) {
        this.#attempt = 0;
        this.#lostAt = Date.now();
      }
      this.#input.clear();
    }
    this.#drop();
    const left = this.#lostAt + (this.options.resumeMs ?? RESUME_MS) - Date.now();
    // A machine that slept is past its time already, but has not had its one try.
    if (left <= 0 && this.#attempt > 0) {
      this.#end({ kind: 'lost' });
      return;
    }
    const delay = Math.min(backoff(this.#attempt, (this.options.random ?? Math.random)()), Math.max(left, 0));
    this.#attempt += 1;
    this.#timers.retry.set(delay, () => this.#dial());
    this.#set({ name: 'reconnecting', attempt: this.#attempt, retryAt: Date.now() + delay });
  }

  #end(end: End): void {
    if (this.#restarting) {
      this.#dial();
      return;
    }
    this.#drop();
    this.#timers.retry.clear();
    this.#input.clear();
    if (end.kind === 'lost') this.#abandon();
    else if (end.kind === 'exit') this.#endAbandoned();
    this.#set({ name: 'ended', end, resumable: this.#lease !== null });
  }

  /** The session lives, perhaps, but we do not go back to it. */
  #abandon(): void {
    if (this.options.guest) return;
    const left = this.#lease ?? this.options.store.load() ?? this.#abandoned;
    this.#forget();
    this.#abandoned = left;
  }

  #endAbandoned(): void {
    const left = this.#abandoned;
    this.#abandoned = null;
    if (left !== null) this.options.endSession(this.#at(sessionPath(left)).href, left.token);
  }

  /** The session is gone. */
  #forget(): void {
    this.#lease = null;
    this.#abandoned = null;
    this.#onScreen = false;
    this.options.store.clear();
  }

  /** Lets go of the socket without waiting for it: a dead one takes minutes to close. */
  #drop(): void {
    this.#stop();
    this.#timers.close.clear();
    this.#restarting = false;
    const socket = this.#socket;
    if (socket === null) return;
    this.#socket = null;
    socket.onopen = null;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close();
  }

  /** No more input, output or acknowledgements on this socket. */
  #stop(): void {
    this.#timers.attempt.clear();
    this.#timers.drain.clear();
    this.#heartbeat.stop();
    this.#live = false;
  }

  #drain(): void {
    const socket = this.#socket;
    if (!this.#live || socket === null || this.#timers.drain.pending) return;
    while (this.#input.size > 0 && socket.bufferedAmount < SOCKET_BYTES) socket.send(this.#input.take());
    if (this.#input.size > 0) this.#timers.drain.set(DRAIN_POLL_MS, () => this.#drain());
  }

  #send(message: ClientMessage): void {
    this.#socket?.send(encode(message));
  }

  #set(state: State): void {
    this.#state = state;
    this.options.listener.state(state);
  }
}

function sessionPath(lease: Lease): string {
  return `/sessions/${encodeURIComponent(lease.session)}`;
}

function refused(code: string, message: string): End {
  return { kind: 'error', error: { type: 'error', code, message, retryAfterMs: null }, retryAt: null };
}

function exit(reason: string): End {
  return { kind: 'exit', exit: { type: 'exit', code: null, signal: null, reason } };
}

/** Close codes after which there is nothing to go back to. */
const GONE: ReadonlySet<number> = new Set([CLOSE.noSuchSession, CLOSE.idleTimeout, CLOSE.maxDuration]);

/** What a close code means when no `exit` or `error` came before it. `null`: the socket is merely lost. */
function endOf(code: number): End | null {
  switch (code) {
    case CLOSE.takenOver:
      return { kind: 'taken_over' };
    case CLOSE.refused:
      return refused('refused', 'This terminal may not be opened from here.');
    case CLOSE.noSuchSession:
      return refused('no_such_session', 'The session has ended.');
    case CLOSE.idleTimeout:
      return exit('idle_timeout');
    case CLOSE.maxDuration:
      return exit('max_duration');
    case CLOSE.rateLimited:
      return refused('rate_limited', 'Too many terminals were started from here. Try again later.');
    case CLOSE.atCapacity:
      return refused('at_capacity', 'All terminals are taken. Try again in a moment.');
    default:
      return null;
  }
}
