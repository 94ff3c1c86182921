import { describe, expect, it } from 'vitest';
import { encode, ProtocolError, parse } from './protocol.ts';

const READY = {
  type: 'ready',
  session: `sess_${'0123456789abcdef'.repeat(2)}`,
  token: 'secret',
  offset: 0,
  end: 512,
  cols: 80,
  rows: 24,
  readOnly: false,
  recorded: true,
  idleTimeoutMs: 300_000,
  expiresAt: '2026-01-01T00:00:00.000Z',
  remainingMs: 1_800_000,
  window: 262_144,
};

describe('parse', () => {
  it('reads every message of the protocol', () => {
    const { expiresAt: _, ...ready } = READY;
    expect(parse(JSON.stringify(READY))).toEqual(ready);
    for (const message of [
      { type: 'queued', position: 3, etaMs: 4000 },
      { type: 'gap', from: 0, to: 1000 },
      { type: 'notice', code: 'idle_warning', message: 'Still there?', remainingMs: 60_000 },
      { type: 'size', cols: 100, rows: 30 },
      { type: 'viewers', count: 2 },
      { type: 'pong', id: 1 },
      { type: 'exit', code: 0, signal: null, reason: 'exited' },
      { type: 'exit', code: null, signal: 'SIGKILL', reason: 'out_of_memory' },
      { type: 'error', code: 'rate_limited', message: 'Later.', retryAfterMs: 1000 },
    ]) {
      expect(parse(JSON.stringify(message))).toEqual(message);
    }
  });

  it('takes absent optional fields for null', () => {
    expect(parse('{"type":"exit","reason":"closed"}')).toEqual({
      type: 'exit',
      code: null,
      signal: null,
      reason: 'closed',
    });
    const { token: _, end: __, ...watcher } = READY;
    expect(parse(JSON.stringify(watcher))).not.toHaveProperty('token');
    expect(parse(JSON.stringify(watcher))).toHaveProperty('end', null);
  });

  it('lets what it does not know through, for a newer gateway', () => {
    expect(parse('{"type":"weather","rain":true}')).toEqual({ type: 'unknown', name: 'weather' });
    expect(parse('{"type":"pong","id":1,"more":{}}')).toEqual({ type: 'pong', id: 1 });
  });

  it.each([
    ['', 'not JSON'],
    ['{"type":', 'not JSON'],
    ['[]', 'not an object'],
    ['null', 'not an object'],
    ['"ready"', 'not an object'],
    ['{}', 'message.type'],
    ['{"type":7}', 'message.type'],
    ['{"type":"pong"}', 'pong.id'],
    ['{"type":"pong","id":"1"}', 'pong.id'],
    ['{"type":"pong","id":-1}', 'pong.id'],
    ['{"type":"pong","id":1.5}', 'pong.id'],
    ['{"type":"pong","id":9007199254740993}', 'pong.id'],
    ['{"type":"gap","from":10,"to":9}', 'gap.to'],
    ['{"type":"error","code":"x"}', 'error.message'],
    ['{"type":"exit","code":"0","reason":"exited"}', 'exit.code'],
    [JSON.stringify({ ...READY, session: '../../admin' }), 'ready.session'],
    [JSON.stringify({ ...READY, readOnly: 'no' }), 'ready.readOnly'],
    [JSON.stringify({ ...READY, token: 5 }), 'ready.token'],
    [JSON.stringify({ ...READY, end: '512' }), 'ready.end'],
  ])('refuses %s and names the field', (text, names) => {
    expect(() => parse(text)).toThrow(ProtocolError);
    expect(() => parse(text)).toThrow(names);
  });
});

it('encodes without the fields that are not there', () => {
  expect(encode({ type: 'attach', token: 't', cols: 80, rows: 24 })).toBe(
    '{"type":"attach","token":"t","cols":80,"rows":24}',
  );
  expect(encode({ type: 'extend' })).toBe('{"type":"extend"}');
});
