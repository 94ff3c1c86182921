/** What a visitor reads. Calm, short, and without words from the inside. */
import type { End } from './connection.ts';

export interface Sentence {
  title: string;
  detail: string;
  /** The label of the button that goes on from here. */
  action: string;
}

/** What a guest reads, who has lost nothing and may go on with a terminal of its own. */
export function sayGuestEnd(end: End): Sentence {
  const action = 'Start your own';
  switch (end.kind) {
    case 'exit':
      return { title: 'The session has ended', detail: 'There is nothing more to watch.', action };
    case 'error':
      if (end.retryAt !== null)
        return { title: 'No seat left', detail: end.error.message, action: 'Try again' };
      if (end.error.code === 'no_such_session')
        return { title: 'The session has ended', detail: 'There is nothing more to watch.', action };
      if (end.error.code === 'token_refused')
        return {
          title: 'Not shared any more',
          detail: 'This link was withdrawn, or is not complete.',
          action,
        };
      return { title: 'Not shared any more', detail: end.error.message, action };
    default:
      return { ...sayEnd(end, false), action: 'Try again' };
  }
}

export function sayEnd(end: End, resumable: boolean): Sentence {
  switch (end.kind) {
    case 'exit': {
      const { reason, code, signal } = end.exit;
      const [title, detail] = EXITS[reason] ?? ['The session has ended', 'Everything in it is gone.'];
      if (reason !== 'exited') return { title, detail, action: 'Start again' };
      let how = '';
      if (signal !== null) how = `Its shell was ended by signal ${signal}. `;
      else if (code !== null && code !== 0) how = `Its shell returned ${code}. `;
      return { title, detail: `${how}${detail}`, action: 'Start again' };
    }
    case 'error': {
      const title = ERRORS[end.error.code] ?? 'No terminal this time';
      return {
        title,
        detail: end.error.message,
        action: resumable ? 'Go back to it' : actionFor(end.error.code),
      };
    }
    case 'taken_over':
      return {
        title: 'Open in another place',
        detail: 'This terminal was opened in another window, and only one can type.',
        action: 'Use it here',
      };
    case 'lost':
      return {
        title: 'The connection is lost',
        detail: 'The gateway could not be reached in time. Check the network, then start again.',
        action: 'Start again',
      };
  }
}

function actionFor(code: string): string {
  return code === 'no_such_session' || code === 'token_refused' ? 'Start again' : 'Try again';
}

const EXITS: Record<string, [string, string]> = {
  exited: ['The session has ended', 'Everything in it is gone, as promised.'],
  closed: ['Thrown away', 'The sandbox and everything in it are gone.'],
  ended_by_operator: ['Ended by the operator', 'Whoever runs this service has ended the session.'],
  idle_timeout: [
    'Closed while you were away',
    'Nothing was typed for a while, so the sandbox was thrown away.',
  ],
  max_duration: ['Time is up', 'Every terminal lives for a limited time. A fresh one is one click away.'],
  detach_timeout: [
    'Closed while you were away',
    'The connection was gone for too long, so the sandbox was thrown away.',
  ],
  out_of_memory: [
    'Out of memory',
    'A program wanted more memory than the sandbox has, and the sandbox was ended.',
  ],
  start_failed: ['No terminal this time', 'The sandbox could not be started. Try again in a moment.'],
  sandbox_lost: ['The sandbox is gone', 'It stopped unexpectedly. That was not your doing.'],
  shutdown: ['The gateway has shut down', 'Sessions were closed for maintenance. Try again in a moment.'],
};

const ERRORS: Record<string, string> = {
  rate_limited: 'Enough for now',
  at_capacity: 'All jars are taken',
  no_such_session: 'The session has ended',
  token_refused: 'The session has ended',
  origin_refused: 'Not from this page',
  refused: 'Not from this page',
};

/** `0:42`, `12:05`: for countdowns. */
export function clock(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}

/** `42 s`, `12 min`, `2 h`: for a wait that nobody watches second by second. */
export function about(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}

/** Where a visitor stands in line, and for how long, as far as anybody knows. */
export function sayQueue(position: number, waitMs: number | null): { title: string; detail: string } {
  const title = position === 1 ? 'You are next in line' : `You are number ${position} in line`;
  if (waitMs === null) return { title, detail: 'What you type meanwhile is kept' };
  // An estimate by the second would claim too much.
  const rounded = waitMs > FINE_MS ? Math.ceil(waitMs / COARSE_MS) * COARSE_MS : waitMs;
  return { title, detail: waitMs > 0 ? `About ${about(rounded)}` : 'It should not be long now' };
}

const FINE_MS = 10_000;
const COARSE_MS = 5_000;
