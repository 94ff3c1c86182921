import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { backoff } from './backoff.ts';
import { MemoryStore, SESSION, setUp, TOKEN } from './fake-gateway.ts';
import { FRAME_BYTES } from './input.ts';
import { shareStore } from './store.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const LEASE = { session: SESSION, token: TOKEN };
const ENDED = [`https://example.com/sessions/${SESSION}`, TOKEN];

function connected(options: Parameters<typeof setUp>[0] = {}) {
  const all = setUp(options);
  all.connection.start(80, 24);
  all.socket().open();
  all.socket().ready();
  return all;
}

describe('starting', () => {
  it('asks for the template and the size in the URL, and the token stays out of it', () => {
    const { connection, socket } = setUp({
      base: 'http://localhost:3001/belljar/?x=1#y',
      template: 'py & co',
    });
    connection.start(100, 30);
    expect(socket().url).toBe('ws://localhost:3001/belljar/ws?template=py+%26+co&cols=100&rows=30');
    expect(socket().protocol).toBe('belljar.v1');
    socket().open();
    expect(socket().sent).toEqual([]);
  });

  it('goes through the queue to a prompt', () => {
    const { connection, socket, seen, store } = setUp();
    connection.start(80, 24);
    socket().open();
    socket().says({ type: 'queued', position: 3, etaMs: 4000 });
    expect(connection.state).toEqual({ name: 'queued', position: 3, readyAt: Date.now() + 4000 });
    socket().says({ type: 'queued', position: 1, etaMs: null });
    expect(connection.state).toEqual({ name: 'queued', position: 1, readyAt: null });
    socket().ready();
    socket().writes('$ ');
    expect(connection.state.name).toBe('connected');
    expect(seen.screen).toBe('$ ');
    expect(store.lease).toEqual(LEASE);
  });

  it('keeps what is typed in line, and leaves the line for good', () => {
    const { connection, sockets, socket } = setUp();
    connection.start(80, 24);
    socket().open();
    socket().says({ type: 'queued', position: 1, etaMs: null });
    expect(connection.input('ls\r')).toBe(true);
    socket().ready();
    expect(new TextDecoder().decode(socket().typed)).toBe('ls\r');

    connection.restart(80, 24);
    socket().lose(1000);
    socket().open();
    socket().says({ type: 'queued', position: 2, etaMs: null });
    connection.detach();
    expect(connection.state.name).toBe('idle');
    expect(socket().closed).toBe(true);
    const { length } = sockets;
    vi.advanceTimersByTime(120_000);
    expect(sockets).toHaveLength(length);
  });

  it('tells the gateway when the size has changed meanwhile', () => {
    const { connection, socket } = setUp();
    connection.start(80, 24);
    connection.resize(90, 20);
    expect(socket().sent).toEqual([]);
    socket().open();
    socket().ready();
    expect(socket().of('resize')).toEqual([{ type: 'resize', cols: 90, rows: 20 }]);
  });

  it('says why a start was refused, and when to try again', () => {
    const { connection, socket } = setUp();
    connection.start(80, 24);
    socket().open();
    socket().says({ type: 'error', code: 'rate_limited', message: 'Later, please.', retryAfterMs: 5000 });
    expect(connection.state).toMatchObject({
      name: 'ended',
      resumable: false,
      end: { kind: 'error', error: { message: 'Later, please.' }, retryAt: Date.now() + 5000 },
    });
    vi.advanceTimersByTime(120_000);
    expect(connection.state.name).toBe('ended');
  });

  it('gets a second try when a slow start is lost, and more after a wait in line', () => {
    const { connection, socket } = setUp();
    connection.start(80, 24);
    socket().open();
    vi.advanceTimersByTime(70_000);
    socket().lose();
    expect(connection.state.name).toBe('reconnecting');
    vi.advanceTimersByTime(250);
    socket().open();
    socket().says({ type: 'queued', position: 2, etaMs: null });
    vi.advanceTimersByTime(70_000);
    socket().says({ type: 'queued', position: 1, etaMs: null });
    for (let i = 0; i < 5; i += 1) {
      socket().lose();
      expect(connection.state.name).toBe('reconnecting');
      vi.advanceTimersByTime(8_000);
    }
  });

  it('tries again while the gateway is away, and gives up in the end', () => {
    const { connection, sockets, socket } = setUp({ resumeMs: 5000 });
    connection.start(80, 24);
    socket().lose();
    expect(connection.state.name).toBe('reconnecting');
    vi.advanceTimersByTime(250);
    expect(sockets).toHaveLength(2);
    expect(socket().url).toContain('/ws?');
    socket().open();
    expect(connection.state.name).toBe('starting');
    while (connection.state.name !== 'ended') {
      socket().lose();
      vi.advanceTimersByTime(8000);
    }
    expect(connection.state).toMatchObject({ end: { kind: 'lost' } });
  });
});

describe('output', () => {
  it('acknowledges what the screen has processed, in steps', () => {
    const { socket, seen } = connected();
    const chunk = new Uint8Array(6000);
    for (let i = 0; i < 4; i += 1) socket().writes(chunk);
    expect(socket().of('ack')).toEqual([]);
    seen.process(2);
    expect(socket().of('ack')).toEqual([]);
    seen.process(1);
    expect(socket().of('ack')).toEqual([{ type: 'ack', offset: 18_000 }]);
    seen.process();
    expect(socket().of('ack').at(-1)).toEqual({ type: 'ack', offset: 24_000 });
  });

  it('counts from the offset of ready', () => {
    const { connection, socket, seen } = setUp();
    connection.start(80, 24);
    socket().open();
    socket().ready({ offset: 1_000_000 });
    socket().writes('abc');
    seen.process();
    expect(socket().of('ack')).toEqual([{ type: 'ack', offset: 1_000_003 }]);
  });

  it('takes control-shaped output for output', () => {
    const { connection, socket, seen } = connected();
    socket().writes('{"type":"exit","reason":"exited"}');
    expect(connection.state.name).toBe('connected');
    expect(seen.screen).toBe('{"type":"exit","reason":"exited"}');
  });

  it('stops when the gateway speaks nonsense', () => {
    const log = vi.spyOn(console, 'error').mockImplementation(() => {});
    const { connection, socket } = connected();
    socket().says({ type: 'gap', from: 'here', to: 'there' });
    expect(connection.state).toMatchObject({ name: 'ended', end: { error: { code: 'bad_server_message' } } });
    expect(log).toHaveBeenCalledWith('belljar: gap.from: must be an integer');
    log.mockRestore();
  });
});

describe('a guest', () => {
  const SHARE = { session: SESSION, token: 'shared-with-me' };

  function watching() {
    const all = setUp({ guest: true, store: shareStore(SHARE) });
    all.connection.start(80, 24);
    all.socket().open();
    all.socket().ready({ token: SHARE.token, readOnly: true, cols: 132, rows: 43 });
    return all;
  }

  it('attaches with its share, and takes the size of the owner', () => {
    const { connection, socket, seen } = watching();
    expect(socket().url).toBe(`wss://example.com/sessions/${SESSION}/ws`);
    expect(socket().of('attach')[0]).toMatchObject({ token: SHARE.token });
    socket().says({ type: 'size', cols: 100, rows: 30 });
    connection.resize(100, 30);
    expect(seen.sizes).toEqual([
      [132, 43],
      [100, 30],
    ]);
    expect(socket().of('resize')).toEqual([]);
    expect(connection.input('ls')).toBe(false);
    expect(socket().frames).toEqual([]);
  });

  it('comes back after a loss and never ends what is not its own', () => {
    const { connection, socket, seen } = watching();
    connection.restart(80, 24);
    connection.close();
    expect(socket().of('close')).toEqual([]);
    socket().lose();
    for (let i = 0; i < 40 && connection.state.name !== 'ended'; i += 1) {
      vi.advanceTimersByTime(8000);
      socket().lose();
    }
    expect(connection.state).toMatchObject({ name: 'ended', end: { kind: 'lost' } });
    expect(seen.ended).toEqual([]);
    connection.start(80, 24);
    socket().open();
    expect(socket().of('attach')[0]).toMatchObject({ token: SHARE.token });
  });

  it('is told that its share was revoked', () => {
    const { connection, socket } = watching();
    socket().says({ type: 'error', code: 'share_revoked', message: 'Not any more.' });
    expect(connection.state).toMatchObject({ name: 'ended', end: { error: { code: 'share_revoked' } } });
  });
});

it('tells an owner how many are looking', () => {
  const { socket, seen } = connected();
  socket().says({ type: 'viewers', count: 2 });
  expect(seen.viewerCounts).toEqual([2]);
});

describe('a lost socket', () => {
  it.each([1000, 1001, 1005, 1006, 1009, 1011])(
    'is resumed from the next byte after close code %i',
    (code) => {
      const { connection, socket, seen } = connected();
      socket().writes('hello ');
      socket().lose(code);
      expect(connection.state.name).toBe('reconnecting');
      vi.advanceTimersByTime(250);
      expect(socket().url).toBe(`wss://example.com/sessions/${SESSION}/ws`);
      socket().open();
      expect(socket().sent[0]).toEqual({ type: 'attach', token: TOKEN, from: 6, cols: 80, rows: 24 });
      socket().ready({ offset: 6 });
      socket().writes('world');
      expect(seen.screen).toBe('hello world');
      expect(seen.resets).toBe(1);
      expect(connection.replaying).toBe(false);
    },
  );

  it('acknowledges on the new socket what the screen got on the old one, but nothing twice', () => {
    const { socket, seen } = connected();
    socket().writes(new Uint8Array(100));
    socket().lose();
    vi.advanceTimersByTime(250);
    socket().open();
    socket().ready({ offset: 100 });
    seen.process();
    expect(socket().of('ack')).toEqual([]);
    socket().writes(new Uint8Array(50));
    seen.process();
    expect(socket().of('ack')).toEqual([{ type: 'ack', offset: 150 }]);
  });

  it('loses and repeats nothing over twenty cuts', () => {
    const { socket, seen } = connected();
    const stream = Array.from({ length: 10_000 }, (_, i) => String.fromCharCode(33 + (i % 90))).join('');
    let at = 0;
    for (let cut = 0; cut < 20; cut += 1) {
      const part = stream.slice(at, at + 37 * (cut + 1));
      socket().writes(part);
      at += part.length;
      if (cut % 3 === 0) seen.process();
      socket().lose();
      vi.advanceTimersByTime(250);
      socket().open();
      expect(socket().sent[0]?.from).toBe(at);
      socket().ready({ offset: at });
    }
    socket().writes(stream.slice(at));
    expect(seen.screen).toBe(stream);
  });

  it('starts the screen over after a gap, and old chunks acknowledge nothing', () => {
    const { socket, seen } = connected();
    socket().writes('x'.repeat(500));
    socket().lose();
    vi.advanceTimersByTime(250);
    socket().open();
    socket().ready({ offset: 500 });
    socket().says({ type: 'gap', from: 500, to: 9000 });
    seen.process();
    expect(socket().of('ack')).toEqual([]);
    socket().writes('fresh');
    expect(seen.screen).toBe('fresh');
    seen.process();
    expect(socket().of('ack')).toEqual([{ type: 'ack', offset: 9005 }]);
    socket().lose();
    vi.advanceTimersByTime(500);
    socket().open();
    expect(socket().sent[0]?.from).toBe(9005);
  });

  it('starts the screen over when the gateway goes on from somewhere else', () => {
    const { socket, seen } = connected();
    socket().writes(new Uint8Array(20_000));
    socket().lose();
    vi.advanceTimersByTime(250);
    socket().open();
    socket().ready({ offset: 0 });
    seen.process();
    expect(socket().of('ack')).toEqual([]);
    socket().writes('abcdef');
    expect(seen.screen).toBe('abcdef');
    seen.process();
    expect(socket().of('ack').at(-1)).toEqual({ type: 'ack', offset: 6 });
  });

  it('is tried again when the gateway says that it is going away', () => {
    const { connection, sockets, socket } = connected();
    socket().lose(1001);
    vi.advanceTimersByTime(250);
    socket().open();
    socket().says({ type: 'error', code: 'going_away', message: 'The service is restarting.' });
    expect(connection.state).toMatchObject({ name: 'reconnecting', attempt: 2 });
    vi.advanceTimersByTime(500);
    expect(sockets).toHaveLength(3);
  });

  it('waits longer from attempt to attempt, and says when the next one is', () => {
    const { connection, sockets, socket } = connected({ random: () => 0.999 });
    const waits: number[] = [];
    for (let i = 0; i < 7; i += 1) {
      socket().lose();
      const { state } = connection;
      if (state.name !== 'reconnecting' || state.retryAt === null) throw new Error(state.name);
      waits.push(state.retryAt - Date.now());
      vi.advanceTimersByTime(state.retryAt - Date.now());
      expect(connection.state).toMatchObject({ retryAt: null, attempt: i + 1 });
    }
    expect(waits).toEqual([250, 500, 999, 1998, 3996, 7992, 7992]);
    expect(sockets).toHaveLength(8);
  });

  it('does not hammer a gateway that accepts and fails at once', () => {
    const { connection, sockets, socket } = connected();
    const began = Date.now();
    while (connection.state.name !== 'ended' && sockets.length < 50) {
      socket().open();
      socket().ready();
      socket().lose(1011);
      vi.advanceTimersByTime(8000);
    }
    expect(connection.state).toMatchObject({ end: { kind: 'lost' } });
    expect(sockets.length).toBeLessThan(15);
    expect(Date.now() - began).toBeGreaterThan(60_000);
  });

  it('tries at once when asked to or when the network is back', () => {
    const { connection, sockets, socket } = connected();
    socket().lose();
    connection.retryNow();
    expect(sockets).toHaveLength(2);
    connection.retryNow();
    expect(sockets).toHaveLength(2);
    socket().lose();
    connection.wake();
    expect(sockets).toHaveLength(3);
  });

  it('gets one try even when the machine slept past the time', () => {
    const { connection, sockets, socket } = connected();
    vi.advanceTimersByTime(6000);
    vi.setSystemTime(Date.now() + 3_600_000);
    socket().lose();
    vi.advanceTimersByTime(250);
    expect(sockets).toHaveLength(2);
    socket().open();
    socket().says({ type: 'error', code: 'no_such_session', message: 'It has ended.' });
    socket().lose(4004);
    expect(connection.state).toMatchObject({ name: 'ended', resumable: false });
  });

  it('is noticed by its silence', () => {
    const { connection, socket } = connected();
    vi.advanceTimersByTime(14_000);
    expect(connection.state.name).toBe('connected');
    socket().writes('a sign of life');
    vi.advanceTimersByTime(14_000);
    expect(connection.state.name).toBe('connected');
    vi.advanceTimersByTime(1_500);
    expect(connection.state.name).toBe('reconnecting');
  });

  it('is noticed sooner when the network changed', () => {
    const { connection, socket } = connected();
    socket().says({ type: 'pong', id: 1 });
    connection.wake();
    vi.advanceTimersByTime(4_000);
    expect(connection.state.name).toBe('reconnecting');
  });

  it('never opens, or opens and never answers: the attempt ends by itself', () => {
    const { connection, sockets, socket } = connected();
    socket().lose();
    vi.advanceTimersByTime(250);
    const stuck = socket();
    vi.advanceTimersByTime(10_000);
    expect(stuck.closed).toBe(true);
    vi.advanceTimersByTime(500);
    expect(sockets).toHaveLength(3);
    socket().open();
    vi.advanceTimersByTime(10_000);
    expect(connection.state).toMatchObject({ name: 'reconnecting', attempt: 3 });
  });
});

describe('the end', () => {
  it('comes with exit, and the lease is forgotten', () => {
    const { connection, sockets, socket, store } = connected();
    socket().says({ type: 'exit', code: 3, signal: null, reason: 'exited' });
    socket().lose(1000);
    expect(connection.state).toMatchObject({ name: 'ended', resumable: false, end: { exit: { code: 3 } } });
    expect(store.lease).toBeNull();
    vi.advanceTimersByTime(60_000);
    expect(sockets).toHaveLength(1);
    connection.start(80, 24);
    expect(socket().url).toContain('/ws?');
  });

  it('is not the end of the session when another window took over', () => {
    const { connection, sockets, socket, seen } = connected();
    socket().writes('one ');
    socket().says({ type: 'notice', code: 'taken_over', message: 'Opened elsewhere.' });
    socket().lose(4001);
    expect(connection.state).toMatchObject({ name: 'ended', resumable: true, end: { kind: 'taken_over' } });
    vi.advanceTimersByTime(60_000);
    expect(sockets).toHaveLength(1);
    connection.start(80, 24);
    socket().open();
    expect(socket().sent[0]).toMatchObject({ type: 'attach', from: 4 });
    socket().ready({ offset: 4 });
    socket().writes('two');
    expect(seen.screen).toBe('one two');
  });

  it.each([
    [4003, { kind: 'error' }],
    [4004, { kind: 'error', error: { code: 'no_such_session' } }],
    [4008, { kind: 'exit', exit: { reason: 'idle_timeout' } }],
    [4009, { kind: 'exit', exit: { reason: 'max_duration' } }],
    [4029, { kind: 'error', error: { code: 'rate_limited' } }],
    [4030, { kind: 'error', error: { code: 'at_capacity' } }],
  ])('is understood from close code %i alone', (code, end) => {
    const { connection, socket } = connected();
    socket().lose(code);
    expect(connection.state).toMatchObject({ name: 'ended', end });
  });

  it('is asked for with close, and does not wait for ever', () => {
    const { connection, socket, store } = connected();
    connection.close();
    expect(socket().of('close')).toHaveLength(1);
    expect(store.lease).toBeNull();
    vi.advanceTimersByTime(2_000);
    expect(connection.state).toMatchObject({ name: 'ended', end: { exit: { reason: 'closed' } } });
  });

  it('comes before the new session of a restart, which gets all that is typed meanwhile', () => {
    const { connection, sockets, socket, seen } = connected();
    socket().writes('old');
    connection.restart(80, 24);
    expect(connection.state.name).toBe('starting');
    connection.input('new\r');
    socket().writes('late');
    expect(seen.screen).toBe('old');
    expect(sockets).toHaveLength(1);
    socket().says({ type: 'exit', code: null, signal: 'SIGHUP', reason: 'closed' });
    expect(sockets).toHaveLength(2);
    expect(sockets[0]?.of('close')).toHaveLength(1);
    expect(sockets[0]?.frames).toEqual([]);
    expect(socket().url).toContain('/ws?');
    socket().open();
    socket().ready();
    expect(new TextDecoder().decode(socket().typed)).toBe('new\r');
    expect(seen.screen).toBe('');
    vi.advanceTimersByTime(10_000);
    expect(connection.state.name).toBe('connected');
  });

  it('is not waited for long when restarting', () => {
    const { connection, sockets, socket } = connected();
    connection.restart(80, 24);
    vi.advanceTimersByTime(2_000);
    expect(sockets).toHaveLength(2);
    socket().lose();
    expect(connection.state.name).toBe('reconnecting');
    connection.restart(80, 24);
    expect(sockets).toHaveLength(3);
    expect(connection.state.name).toBe('starting');
  });

  it('ignores what a dropped socket still says', () => {
    const { connection, sockets, socket, seen } = connected();
    const old = socket();
    connection.detach();
    expect(connection.state.name).toBe('idle');
    old.writes('late');
    old.lose();
    expect(seen.screen).toBe('');
    expect(sockets).toHaveLength(1);
  });
});

describe('an old session that may still live', () => {
  function lost() {
    const all = connected({ resumeMs: 1000 });
    while (all.connection.state.name !== 'ended') {
      all.socket().lose();
      vi.advanceTimersByTime(8000);
    }
    return all;
  }

  it('is ended when the visitor starts again after giving up, once, and without its token in a URL', () => {
    const { connection, sockets, socket, seen } = lost();
    expect(connection.state).toMatchObject({ end: { kind: 'lost' }, resumable: false });
    expect(seen.ended).toEqual([]);
    connection.start(80, 24);
    expect(seen.ended).toEqual([ENDED]);
    expect(socket().url).toContain('/ws?');
    socket().lose();
    vi.advanceTimersByTime(250);
    expect(socket().url).toContain('/ws?');
    expect(seen.ended).toHaveLength(1);
    expect(sockets.every(({ url }) => !url.includes(TOKEN))).toBe(true);
  });

  it('is ended when it is thrown away after an error or while its socket is lost', () => {
    const { connection, socket, seen } = connected({ base: 'https://example.com/jar/?x=1' });
    socket().says({ type: 'error', code: 'engine_unavailable', message: 'Not now.' });
    expect(connection.state).toMatchObject({ resumable: true });
    connection.restart(80, 24);
    expect(seen.ended).toEqual([[`https://example.com/jar/sessions/${SESSION}`, TOKEN]]);
    socket().open();
    socket().ready();
    socket().lose();
    connection.restart(80, 24);
    expect(seen.ended).toHaveLength(2);
    expect(socket().url).toContain('/ws?');
  });

  it('is ended when it is closed while its socket is lost or dead', () => {
    for (const lose of [true, false]) {
      const { connection, socket, seen } = connected();
      if (lose) socket().lose();
      connection.close();
      vi.advanceTimersByTime(2_000);
      expect(connection.state).toMatchObject({ name: 'ended', end: { exit: { reason: 'closed' } } });
      expect(seen.ended).toEqual([ENDED]);
    }
  });

  it('is ended when its socket does not answer a restart', () => {
    const { connection, sockets, seen } = connected();
    connection.restart(80, 24);
    expect(seen.ended).toEqual([]);
    vi.advanceTimersByTime(2_000);
    expect(seen.ended).toEqual([ENDED]);
    expect(sockets).toHaveLength(2);
  });

  it('is left alone when it is known to be gone, or when the visitor goes back to it', () => {
    const gone = connected();
    gone.connection.restart(80, 24);
    gone.socket().says({ type: 'exit', code: null, signal: 'SIGHUP', reason: 'closed' });
    gone.socket().open();
    gone.socket().ready();
    gone.socket().lose();
    vi.advanceTimersByTime(250);
    gone.socket().open();
    gone.socket().says({ type: 'error', code: 'no_such_session', message: 'It has ended.' });
    gone.connection.start(80, 24);
    expect(gone.seen.ended).toEqual([]);

    const back = connected();
    back.socket().lose(4001);
    back.connection.start(80, 24);
    expect(back.socket().url).toContain(SESSION);
    expect(back.seen.ended).toEqual([]);
  });
});

describe('a reload', () => {
  it('finds the shell again and replays its history', () => {
    const { connection, socket, seen } = setUp({ store: new MemoryStore(LEASE) });
    connection.start(80, 24);
    expect(connection.state.name).toBe('reconnecting');
    expect(socket().url).toBe(`wss://example.com/sessions/${SESSION}/ws`);
    socket().open();
    expect(socket().sent).toEqual([{ type: 'attach', token: TOKEN, cols: 80, rows: 24 }]);
    socket().ready({ offset: 5000 });
    socket().writes('$ X=42\r\n$ ');
    expect(seen.screen).toBe('$ X=42\r\n$ ');
    expect(seen.resets).toBe(1);
  });

  it('knows to the byte when the history is on the screen', () => {
    const { connection, socket, seen } = setUp({ store: new MemoryStore(LEASE) });
    connection.start(80, 24);
    socket().open();
    socket().ready({ offset: 5000, end: 5010 });
    socket().writes('old');
    socket().writes('history' + 'live');
    expect(seen.screen).toBe('oldhistorylive');
    expect(connection.replaying).toBe(true);
    seen.process(1);
    expect(connection.replaying).toBe(true);
    seen.process(1);
    expect(connection.replaying).toBe(false);
    seen.process();
    expect(socket().of('ack').at(-1)).toEqual({ type: 'ack', offset: 5014 });
  });

  it('replays nothing where nothing is older than the socket, or the gateway does not say', () => {
    for (const end of [5000, null]) {
      const { connection, socket } = setUp({ store: new MemoryStore(LEASE) });
      connection.start(80, 24);
      socket().open();
      socket().ready({ offset: 5000, end });
      socket().writes('live');
      expect(connection.replaying).toBe(false);
    }
  });

  it('goes on with a replay that was cut', () => {
    const { connection, socket, seen } = setUp({ store: new MemoryStore(LEASE) });
    connection.start(80, 24);
    socket().open();
    socket().ready({ offset: 0, end: 10 });
    socket().writes('01234');
    socket().lose();
    expect(connection.replaying).toBe(true);
    vi.advanceTimersByTime(250);
    socket().open();
    socket().ready({ offset: 5, end: 12 });
    socket().writes('56789ab');
    seen.process(1);
    expect(connection.replaying).toBe(true);
    socket().lose();
    vi.advanceTimersByTime(250);
    socket().open();
    socket().ready({ offset: 12 });
    expect(connection.replaying).toBe(true);
    seen.process(1);
    expect(connection.replaying).toBe(false);
  });

  it('does not wait for history that the gateway has dropped', () => {
    const { connection, socket } = setUp({ store: new MemoryStore(LEASE) });
    connection.start(80, 24);
    socket().open();
    socket().ready({ offset: 0, end: 9000 });
    expect(connection.replaying).toBe(true);
    socket().says({ type: 'gap', from: 0, to: 9000 });
    expect(connection.replaying).toBe(false);
  });

  it('is not what a new session begins with', () => {
    const { connection, socket } = setUp();
    connection.start(80, 24);
    socket().open();
    socket().ready({ end: 40 });
    expect(connection.replaying).toBe(false);
  });

  it('says that the session has ended when it has, and starts a new one when asked', () => {
    const store = new MemoryStore(LEASE);
    const { connection, socket } = setUp({ store });
    connection.start(80, 24);
    socket().open();
    socket().lose(4004);
    expect(connection.state).toMatchObject({ name: 'ended', resumable: false });
    expect(store.lease).toBeNull();
    connection.start(80, 24);
    expect(socket().url).toContain('/ws?');
  });

  it('keeps the session when only this attempt was refused', () => {
    const { connection, socket } = setUp({ store: new MemoryStore(LEASE) });
    connection.start(80, 24);
    socket().open();
    socket().says({ type: 'error', code: 'engine_unavailable', message: 'Not now.', retryAfterMs: 1000 });
    expect(connection.state).toMatchObject({ name: 'ended', resumable: true });
    connection.start(80, 24);
    expect(socket().url).toContain(SESSION);
  });
});

describe('input', () => {
  it('goes out as UTF-8, whole', () => {
    const { connection, socket } = connected();
    connection.input('é🫙');
    expect([...socket().typed]).toEqual([0xc3, 0xa9, 0xf0, 0x9f, 0xab, 0x99]);
  });

  it('splits a 1 MiB paste into frames, in step with the socket', () => {
    const { connection, socket } = connected();
    const paste = new Uint8Array(1 << 20).map((_, i) => i * 31);
    const transport = socket();
    let taken = 0;
    const send = transport.send.bind(transport);
    transport.send = (data) => {
      send(data);
      if (typeof data !== 'string') transport.bufferedAmount += data.length;
    };
    expect(connection.input(paste)).toBe(true);
    expect(connection.input('\x03')).toBe(true);
    while (taken < paste.length + 1) {
      expect(transport.bufferedAmount).toBeLessThanOrEqual(64 * 1024 + FRAME_BYTES);
      taken += transport.bufferedAmount;
      transport.bufferedAmount = 0;
      vi.advanceTimersByTime(10);
    }
    expect(Math.max(...transport.frames.map((frame) => frame.length))).toBe(FRAME_BYTES);
    const { typed } = transport;
    expect(typed).toHaveLength(paste.length + 1);
    expect(paste.findIndex((byte, i) => byte !== typed[i])).toBe(-1);
    expect(typed.at(-1)).toBe(3);
  });

  it('refuses a paste that is too large, whole', () => {
    const { connection, socket } = connected();
    expect(connection.input(new Uint8Array(16 * 1024 * 1024 + 1))).toBe(false);
    expect(socket().frames).toEqual([]);
  });

  it('keeps what is typed before ready and while the socket is lost, within bounds', () => {
    const { connection, socket } = setUp();
    expect(connection.input('too early')).toBe(false);
    connection.start(80, 24);
    connection.input('ls\r');
    socket().open();
    expect(socket().frames).toEqual([]);
    socket().ready();
    expect(new TextDecoder().decode(socket().typed)).toBe('ls\r');
    socket().lose();
    connection.input('pwd\r');
    expect(connection.input('x'.repeat(4096))).toBe(false);
    vi.advanceTimersByTime(250);
    socket().open();
    socket().ready({ offset: 0 });
    expect(new TextDecoder().decode(socket().typed)).toBe('pwd\r');
  });

  it('does not go on with a paste that lost its beginning', () => {
    const { connection, socket } = connected();
    socket().bufferedAmount = 1 << 20;
    connection.input('half of a paste');
    socket().lose();
    vi.advanceTimersByTime(250);
    socket().open();
    socket().ready();
    vi.advanceTimersByTime(100);
    expect(socket().frames).toEqual([]);
  });

  it('of one session never reaches the next', () => {
    const { connection, socket } = connected();
    socket().bufferedAmount = 1 << 20;
    connection.input('rm -r .\r');
    socket().says({ type: 'exit', code: 0, signal: null, reason: 'exited' });
    connection.start(80, 24);
    socket().open();
    socket().ready();
    expect(socket().frames).toEqual([]);
  });

  it('is not sent by a watcher', () => {
    const { connection, socket } = setUp();
    connection.start(80, 24);
    socket().open();
    socket().ready({ readOnly: true });
    expect(connection.input('x')).toBe(false);
    expect(socket().frames).toEqual([]);
  });
});

describe('latency', () => {
  it('is measured every five seconds while somebody can see it', () => {
    const { connection, socket, seen } = connected();
    const answer = (ms: number) => {
      vi.advanceTimersByTime(ms);
      socket().says({ type: 'pong', id: socket().of('ping').at(-1)?.id });
    };
    answer(12);
    vi.advanceTimersByTime(5000);
    answer(30);
    expect(seen.latencies).toEqual([12, 30]);
    connection.setVisible(false);
    vi.advanceTimersByTime(60_000);
    expect(socket().of('ping')).toHaveLength(2);
    expect(connection.state.name).toBe('connected');
    connection.setVisible(true);
    expect(socket().of('ping')).toHaveLength(3);
  });
});

it('backs off with full jitter between nothing and eight seconds', () => {
  expect(backoff(0, 0.5)).toBe(125);
  expect(backoff(3, 0.999)).toBe(1998);
  expect(backoff(60, 1)).toBe(8000);
  expect(backoff(60, 0)).toBe(0);
});
