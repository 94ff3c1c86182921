/** How the gateway did since the page was opened. Pure. */
import type { Overview, Usage } from './api.ts';

/** One look at the gateway. `null`: nothing that could be told of the time since the look before. */
export interface Sample {
  /** ms since 1970. */
  at: number;
  places: number;
  line: number;
  /** Refusals each minute. */
  refusals: number | null;
  /** Mean of the starts since the look before, ms. */
  startMs: number | null;
}

/** An hour at a look every three seconds. */
export const MAX_SAMPLES = 1200;

/** Samples, oldest first, with one more at the end. */
export function remember(
  samples: readonly Sample[],
  before: Overview | null,
  now: Overview,
  at: number,
): Sample[] {
  const last = samples.at(-1);
  const minutes = last === undefined ? 0 : (at - last.at) / 60_000;
  // A gateway that has begun anew counts from nothing.
  const same = before !== null && now.uptimeMs >= before.uptimeMs && minutes > 0;
  const refused = same ? total(now.refusals) - total(before.refusals) : null;
  const starts = same ? now.starts.count - before.starts.count : 0;
  const sample: Sample = {
    at,
    places: now.places.taken,
    line: now.line.waiting,
    refusals: refused === null ? null : Math.max(0, refused) / minutes,
    startMs: starts > 0 && before !== null ? (now.starts.sumMs - before.starts.sumMs) / starts : null,
  };
  return [...samples, sample].slice(-MAX_SAMPLES);
}

export function total(counts: Record<string, number>): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}

/** The most frequent first. */
export function ranked(counts: Record<string, number>): [string, number][] {
  return Object.entries(counts).sort(([a, m], [b, n]) => n - m || a.localeCompare(b));
}

/** The share of a CPU that a sandbox has used between two looks; `null` if that cannot be told. */
export function cpuShare(before: Usage | undefined, now: Usage): number | null {
  if (before === undefined) return null;
  const [used, passed] = [now.cpuMs - before.cpuMs, now.uptimeMs - before.uptimeMs];
  return passed > 0 && used >= 0 ? used / passed : null;
}

/** The points of a line in a box of this size, in runs without a gap. Time goes to the right. */
export function runs(
  points: readonly { at: number; value: number | null }[],
  width: number,
  height: number,
): { x: number; y: number }[][] {
  const known = points.flatMap(({ value }) => (value === null ? [] : [value]));
  const highest = Math.max(1, ...known);
  const [first, last] = [points[0]?.at ?? 0, points.at(-1)?.at ?? 0];
  const across = Math.max(1, last - first);
  const found: { x: number; y: number }[][] = [];
  let open: { x: number; y: number }[] | null = null;
  for (const { at, value } of points) {
    if (value === null) {
      open = null;
      continue;
    }
    if (open === null) {
      open = [];
      found.push(open);
    }
    open.push({ x: ((at - first) / across) * width, y: height - (value / highest) * height });
  }
  return found;
}
