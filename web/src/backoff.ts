/** Delays before attempts to come back: exponential with full jitter, so that many lost clients spread out. */
const FIRST_MS = 250;
const LONGEST_MS = 8_000;

/** The delay in ms before attempt `attempt` (from 0). `random` is in [0, 1). */
export function backoff(attempt: number, random: number): number {
  return Math.round(random * Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 16)));
}
