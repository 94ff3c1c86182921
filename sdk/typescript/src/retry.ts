/** When to try again, and after how long. Pure: the clock and chance are parameters. */

/** Statuses that say "not now" before anything was done. */
export const RETRY_STATUSES: ReadonlySet<number> = new Set([429, 503]);
/** The longest that a Retry-After is waited for, seconds. A caller should hear of a longer one. */
export const MAX_RETRY_AFTER = 30;
const FIRST_DELAY = 0.25;
const MAX_DELAY = 8;

/** Seconds of a Retry-After header: a number, or an HTTP date. Undefined if it is neither. */
export function parseRetryAfter(value: string | null, now = Date.now()): number | undefined {
  const text = value?.trim() ?? '';
  if (/^[0-9]+$/.test(text)) return Number(text);
  // Only the form of HTTP: `Date.parse` would take nearly anything.
  if (!/^[A-Z][a-z]{2}, .* GMT$/.test(text)) return undefined;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, (date - now) / 1000);
}

/**
 * Seconds before the next try after `attempt` (0: the first) failed; undefined: it is not worth the wait.
 *
 * Without a Retry-After the delay doubles and is cut by up to a half at random, so that clients that failed
 * together do not come back together. With one it is only ever prolonged.
 */
export function delay(attempt: number, retryAfter?: number, chance = Math.random): number | undefined {
  if (retryAfter !== undefined) {
    return retryAfter > MAX_RETRY_AFTER ? undefined : retryAfter + FIRST_DELAY * chance();
  }
  return Math.min(MAX_DELAY, FIRST_DELAY * 2 ** attempt) * (0.5 + 0.5 * chance());
}
