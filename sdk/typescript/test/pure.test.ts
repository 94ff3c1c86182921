import { expect, test } from 'vitest';
import { segment } from '../src/client.js';
import {
  AtCapacity,
  AuthError,
  Conflict,
  FileError,
  InvalidRequest,
  NotFound,
  NotRunning,
  ofProblem,
  ServerError,
  TooLarge,
  UnexpectedAnswer,
} from '../src/errors.js';
import { Client } from '../src/index.js';
import { delay, MAX_RETRY_AFTER, parseRetryAfter } from '../src/retry.js';
import { Decoder, MAX_EVENT } from '../src/sse.js';

test('delays grow, are cut at random, and have an end', () => {
  const most = () => 1;
  expect([0, 1, 2].map((n) => delay(n, undefined, most))).toEqual([0.25, 0.5, 1]);
  expect([0, 1, 2].map((n) => delay(n, undefined, () => 0))).toEqual([0.125, 0.25, 0.5]);
  expect(delay(10_000, undefined, most)).toBe(8);
});

test('Retry-After is a least time, up to a bound', () => {
  expect(delay(0, 5, () => 0)).toBe(5);
  expect(delay(0, 5)).toBeGreaterThanOrEqual(5);
  expect(delay(0, MAX_RETRY_AFTER, () => 0)).toBe(MAX_RETRY_AFTER);
  expect(delay(0, MAX_RETRY_AFTER + 1)).toBeUndefined();
});

test.each([
  ['7', 7],
  [' 0 ', 0],
  ['Wed, 02 Jan 2030 03:04:35 GMT', 30],
  ['Wed, 02 Jan 2030 03:04:00 GMT', 0],
  ['-1', undefined],
  ['soon', undefined],
  ['', undefined],
  [null, undefined],
])('Retry-After %j is read', (value, seconds) => {
  expect(parseRetryAfter(value, Date.UTC(2030, 0, 2, 3, 4, 5))).toBe(seconds);
});

test('events are the same wherever they are cut', () => {
  const text = ': hi\n\nevent: a\ndata: {é\ndata:1}\nid: 3\n\r\ndata: x\r\n\r\nevent: none\n\nevent: half\n';
  const stream = new TextEncoder().encode(text);
  const whole = [
    { name: 'a', data: '{é\n1}' },
    { name: 'message', data: 'x' },
  ];
  for (let size = 1; size <= stream.length; size++) {
    const decoder = new Decoder();
    const events = [];
    for (let at = 0; at < stream.length; at += size)
      events.push(...decoder.feed(stream.subarray(at, at + size)));
    expect(events).toEqual(whole);
  }
});

test.each(['x'.repeat(65536), `data: ${'x'.repeat(65536)}\n`])('an event without end is refused', (piece) => {
  const decoder = new Decoder();
  const chunk = new TextEncoder().encode(piece);
  const feed = () => {
    for (let size = 0; size < 2 * MAX_EVENT; size += chunk.length)
      expect([...decoder.feed(chunk)]).toEqual([]);
  };
  expect(feed).toThrow(UnexpectedAnswer);
});

test.each([
  [401, { error: 'key_missing' }, AuthError],
  [403, { error: 'permission_denied' }, FileError],
  [404, null, NotFound],
  [400, { error: 'not_found' }, NotFound],
  [503, { error: 'at_capacity' }, AtCapacity],
  [503, 'text', ServerError],
  [409, { error: 'not_running' }, NotRunning],
  [409, { error: 'idempotency_conflict' }, Conflict],
  [507, { error: 'no_space' }, TooLarge],
  [418, [], InvalidRequest],
])('problem %d %j is typed', (status, problem, kind) => {
  const error = ofProblem(status, problem);
  expect(error.constructor).toBe(kind);
  expect(error.status).toBe(status);
  expect(error.name).toBe(kind.name);
});

test('a problem says when to come again', () => {
  expect(ofProblem(503, { retryAfter: 3 }).retryAfter).toBe(3);
  expect(ofProblem(503, { retryAfter: 3 }, 4).retryAfter).toBe(4);
  expect(ofProblem(503, { retryAfter: 'soon' }).retryAfter).toBeUndefined();
});

test('options are checked, and ids are one part of a path', () => {
  expect(new Client({ url: 'https://a.example/' }).socketUrl('/x', false)).toBe('wss://a.example/api/v1/x');
  for (const url of ['ftp://a', 'a.example', 'http://']) expect(() => new Client({ url })).toThrow('url');
  expect(() => new Client({ timeout: 0 })).toThrow('timeout');
  expect(() => new Client({ retries: -1 })).toThrow('retries');
  expect(segment('a/../b?c#d')).toBe('a%2F..%2Fb%3Fc%23d');
  for (const id of ['', '.', '..']) expect(() => segment(id)).toThrow(TypeError);
});
