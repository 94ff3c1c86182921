import { describe, expect, it } from 'vitest';
import type { Overview, Usage } from './api.ts';
import { cpuShare, MAX_SAMPLES, ranked, remember, runs, type Sample } from './history.ts';

function overview(change: Partial<Overview> = {}): Overview {
  return {
    version: '0.1.0',
    uptimeMs: 60_000,
    engine: { state: 'ready' },
    sealed: true,
    places: { taken: 3, max: 50 },
    pools: [],
    line: { waiting: 0, max: 100 },
    doorClosed: null,
    sessions: {},
    sandboxes: {},
    refusals: {},
    sessionsEnded: {},
    sandboxesEnded: {},
    starts: { count: 0, sumMs: 0, p50Ms: null, p95Ms: null },
    ...change,
  };
}

describe('history', () => {
  it('tells rates of the time between two looks', () => {
    const first = overview({ refusals: { rate_limited: 4 } });
    const second = overview({
      uptimeMs: 90_000,
      refusals: { rate_limited: 5, at_capacity: 1 },
      starts: { count: 2, sumMs: 700, p50Ms: 350, p95Ms: 400 },
    });
    let samples = remember([], null, first, 1000);
    expect(samples[0]).toEqual({ at: 1000, places: 3, line: 0, refusals: null, startMs: null });
    samples = remember(samples, first, second, 31_000);
    expect(samples[1]).toMatchObject({ refusals: 4, startMs: 350 });
    expect(remember(samples, second, second, 34_000)[2]).toMatchObject({ refusals: 0, startMs: null });
  });

  it('tells nothing across a restart of the gateway', () => {
    const before = overview({ uptimeMs: 90_000, refusals: { rate_limited: 9 } });
    const samples = remember([], null, before, 0);
    expect(remember(samples, before, overview({ uptimeMs: 10 }), 3000)[1]).toMatchObject({
      refusals: null,
      startMs: null,
    });
  });

  it('is bounded', () => {
    let samples: Sample[] = [];
    for (let at = 0; at < MAX_SAMPLES + 5; at += 1) samples = remember(samples, null, overview(), at);
    expect(samples.length).toBe(MAX_SAMPLES);
    expect(samples.at(-1)?.at).toBe(MAX_SAMPLES + 4);
  });
});

describe('numbers', () => {
  it('are ranked, the most frequent first', () => {
    expect(ranked({ b: 1, a: 1, c: 7 })).toEqual([
      ['c', 7],
      ['a', 1],
      ['b', 1],
    ]);
  });

  it('give the share of a CPU between two looks at the same sandbox', () => {
    const usage = (cpuMs: number, uptimeMs: number): Usage => ({
      id: 'a',
      cpuMs,
      uptimeMs,
      memoryBytes: 0,
      memoryLimitBytes: 0,
      processes: 1,
    });
    expect(cpuShare(usage(100, 1000), usage(850, 4000))).toBe(0.25);
    expect(cpuShare(undefined, usage(850, 4000))).toBeNull();
    expect(cpuShare(usage(850, 4000), usage(10, 100)), 'started anew').toBeNull();
  });
});

describe('a line', () => {
  it('fills its box and leaves gaps open', () => {
    const points = [
      { at: 0, value: 0 },
      { at: 5, value: 4 },
      { at: 7, value: null },
      { at: 10, value: 2 },
    ];
    expect(runs(points, 100, 40)).toEqual([
      [
        { x: 0, y: 40 },
        { x: 50, y: 0 },
      ],
      [{ x: 100, y: 20 }],
    ]);
    expect(runs([], 100, 40)).toEqual([]);
  });
});
