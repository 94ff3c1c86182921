import { expect, it } from 'vitest';
import { readQuery } from './query.ts';
import { readFontSize, readTheme } from './settings.ts';

it('a theme that nobody knows is that of the page', () => {
  expect(['light', 'dark', 'contrast', 'auto'].map(readTheme)).toEqual(['light', 'dark', 'contrast', 'auto']);
  for (const text of [null, '', 'Dark', 'solarized']) expect(readTheme(text)).toBe('auto');
});

it('characters are of a size that can be read', () => {
  expect(['14', ' 13.5 ', '2', '-3', '400'].map(readFontSize)).toEqual([14, 13.5, 8, 8, 32]);
  for (const text of [null, '', ' ', 'large', '14px', 'NaN', 'Infinity'])
    expect(readFontSize(text)).toBeNull();
});

it('an address sets what it may set', () => {
  const read = (query: string) => Object.fromEntries(readQuery(query));
  expect(read('')).toEqual({ autostart: '' });
  expect(read('?template=python&theme=dark&font-size=16&command=python3&readonly&autostart=0')).toEqual({
    template: 'python',
    theme: 'dark',
    'font-size': '16',
    command: 'python3',
    readonly: '',
  });
  expect(read('?images=1&screen-reader=true&clipboard=no&autostart')).toEqual({
    images: '',
    'screen-reader': '',
    autostart: '',
  });
});

it('an address sets nothing else', () => {
  const query = `?src=https://evil.example&token=x&onclick=alert(1)&style=x&template=../x&theme=pink&font-size=big&command=${'x'.repeat(3000)}&autostart=no`;
  expect(readQuery(query)).toEqual(new Map());
  expect(readQuery(`?template=${'x'.repeat(65)}&command=&autostart=0`)).toEqual(new Map());
});
