import { expect, it } from 'vitest';
import { readShareLink, shareLink } from './link.ts';

const SHARE = { session: `sess_${'a'.repeat(32)}`, token: 'f'.repeat(64) };

it('a link opens what it was made for, and keeps its token out of the query', () => {
  const link = shareLink('https://example.com/jar/?utm=1#old', SHARE);
  const { origin, pathname, search, hash } = new URL(link);
  expect([origin, pathname, search]).toEqual(['https://example.com', '/jar/', '']);
  expect(readShareLink(hash)).toEqual(SHARE);
});

it('any other address opens nothing', () => {
  for (const hash of ['', '#', '#top', '#share=x', '#session=y', '#share=&session=']) {
    expect(readShareLink(hash)).toBeNull();
  }
});
