import { describe, expect, it } from 'vitest';
import { about, countdown, join, parent, size, took, words } from './format.ts';

describe('quantities', () => {
  it('count down by the second, and never below nothing', () => {
    expect([42_000, 725_000, 11_220_000, -5, 1].map(countdown)).toEqual([
      '0:42',
      '12:05',
      '3:07:00',
      '0:00',
      '0:01',
    ]);
  });

  it('are rounded to what can be told apart', () => {
    expect([42_000, 720_000, 18_000_000, 260_000_000].map(about)).toEqual(['42 s', '12 min', '5 h', '3 d']);
    expect([340.4, 1234, 45_000].map(took)).toEqual(['340 ms', '1.2 s', '45 s']);
    expect([0, 1023, 18_454_938, 134_217_728, 2 ** 60].map(size)).toEqual([
      '0 B',
      '1023 B',
      '17.6 MiB',
      '128 MiB',
      '1048576 TiB',
    ]);
    expect(words('out_of_memory')).toBe('out of memory');
  });
});

describe('paths', () => {
  it('go down and up again, and end at the root', () => {
    expect(join('/home/sandbox', 'a')).toBe('/home/sandbox/a');
    expect(join('/', 'etc')).toBe('/etc');
    expect(parent('/home/sandbox/')).toBe('/home');
    expect(parent('/home')).toBe('/');
    expect(parent('/')).toBeNull();
  });
});
