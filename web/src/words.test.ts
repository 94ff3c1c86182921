import { expect, it } from 'vitest';
import type { End } from './connection.ts';
import { about, clock, sayEnd, sayGuestEnd, sayQueue } from './words.ts';

it('offers a guest what still makes sense', () => {
  const error = (code: string, retryAt: number | null = null): End => ({
    kind: 'error',
    error: { type: 'error', code, message: 'One sentence.', retryAfterMs: null },
    retryAt,
  });
  const says = (end: End) => [sayGuestEnd(end).title, sayGuestEnd(end).action];
  expect(says(error('share_revoked'))).toEqual(['Not shared any more', 'Start your own']);
  expect(says(error('token_refused'))).toEqual(['Not shared any more', 'Start your own']);
  expect(says(error('no_such_session'))).toEqual(['The session has ended', 'Start your own']);
  expect(says(error('too_many_viewers', 15_000))).toEqual(['No seat left', 'Try again']);
  expect(says({ kind: 'lost' })).toEqual(['The connection is lost', 'Try again']);
});

it('counts down', () => {
  expect([42_000, 41_001, 0, -5, 725_000].map(clock)).toEqual(['0:42', '0:42', '0:00', '0:00', '12:05']);
});

it('rounds long waits', () => {
  expect([900, 89_000, 1_440_000, 7_200_000].map(about)).toEqual(['1 s', '89 s', '24 min', '2 h']);
});

it('says where a visitor stands in line without claiming to know more than it does', () => {
  expect(sayQueue(3, 16_400)).toEqual({ title: 'You are number 3 in line', detail: 'About 20 s' });
  expect(sayQueue(1, 4_200)).toEqual({ title: 'You are next in line', detail: 'About 5 s' });
  expect(sayQueue(2, -900).detail).toBe('It should not be long now');
  expect(sayQueue(2, null).detail).not.toContain('About');
  expect(sayQueue(40, 600_000).detail).toBe('About 10 min');
});

it('says how a shell ended, and stays silent about success', () => {
  const end = (code: number | null, signal: string | null) =>
    sayEnd({ kind: 'exit', exit: { type: 'exit', code, signal, reason: 'exited' } }, false).detail;
  expect(end(0, null)).toBe('Everything in it is gone, as promised.');
  expect(end(3, null)).toContain('returned 3');
  expect(end(null, 'SIGKILL')).toContain('SIGKILL');
});

it('has words for reasons that it does not know', () => {
  const exit = { type: 'exit', code: null, signal: null, reason: 'moon_phase' } as const;
  expect(sayEnd({ kind: 'exit', exit }, false).title).toBe('The session has ended');
});
